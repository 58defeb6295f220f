"""What a prediction says follows from the law's own moments: interval, expected regret, divergence; as text or code."""

import ast
import dataclasses
import json
import math
import re
from pathlib import Path
from statistics import NormalDist

import pytest

from analysis import law as law_file
from analysis.law import Law, Penalty
from analysis.power.law import Exponent, Node, PowerLaw
from analysis.prediction import Prediction, predict
from lab import store
from sweeps.cli import main
from sweeps.predict_parser import summary, text
from sweeps.training_code import code

pytestmark = pytest.mark.host
NORMAL = NormalDist()
CENTRE = (math.log(1e8), math.log(1e9))
LR, BATCH = (math.log(0.01), -0.5, 0.2), (math.log(2e5), 0.1, 0.6)
COVARIANCE = ((0.010, 0.002, -0.001), (0.002, 0.006, 0.001), (-0.001, 0.001, 0.004))
LR_NEW, BATCH_NEW = 0.03, 0.05  # variance of a new size's own cell
PENALTY = Penalty(lr=0.08, batch=0.05, mixed=-0.03, cells=9)
EDGE = (math.log(0.03), -0.6, 0.1)  # a gap that moves with N and D
EDGE_NEW = 0.12
AT = {"params": 3e8, "tokens": 1e10}


def power(response: str, coefficients: tuple[float, ...], variance: float, nodes: int = 1) -> PowerLaw:
    """A law whose unknown numbers are one normal, or the same one told in parts."""
    node = Node(1 / nodes, coefficients, COVARIANCE, variance)
    nothing = Exponent(0.0, None, None, None, None, None, None, None)
    return PowerLaw(
        response=response,
        regressors=("params", "tokens"),
        centre=CENTRE,
        coefficients=coefficients,
        covariance=COVARIANCE,
        intervals=(nothing, nothing),
        between=0.1,
        within=0.05,
        nodes=(node,) * nodes,
        draws=(),
        ranges=(("params", 1e7, 1e9), ("tokens", 1e8, 1e10)),
        cells=9,
        sizes=5,
        weights="mixed",
    )


def law(
    batch: bool = True, edge: tuple[float, ...] | None = EDGE, penalty: Penalty | None = PENALTY, nodes: int = 1
) -> Law:
    return Law(
        name="planted",
        kind="lr+batch" if batch else "lr",
        estimator="surface",
        lr=power("lr", LR, LR_NEW, nodes),
        batch=power("batch", BATCH, BATCH_NEW, nodes) if batch else None,
        loss=None,
        penalty=penalty,
        edge=None if edge is None else power("lr", edge, EDGE_NEW, nodes),
        conditions={
            "schedule": "wsd",
            "warm-up": "100 updates",
            "decay": "0.2 of the run",
            "decay shape": "linear",
            "final rate / peak": 0.0,
        },
        fixed={} if batch else {"batch": 65536.0},
        source={},
    )


def moments(coefficients: tuple[float, ...], variance: float) -> tuple[float, float, float]:
    """(ln of the prediction, sd of the law's mean, sd of a new cell) at AT, by sums over the numbers above."""
    x = (1.0, math.log(AT["params"]) - CENTRE[0], math.log(AT["tokens"]) - CENTRE[1])
    mean = sum(a * b for a, b in zip(x, coefficients, strict=True))
    own = sum(x[i] * COVARIANCE[i][j] * x[j] for i in range(3) for j in range(3))
    return mean, math.sqrt(own), math.sqrt(own + variance)


LR_MEAN, LR_OWN, LR_SD = moments(LR, LR_NEW)
BATCH_MEAN, BATCH_OWN, BATCH_SD = moments(BATCH, BATCH_NEW)
LR_REGRET = 0.08 * LR_SD**2 / 2
EDGE_MEAN, _, EDGE_SD = moments(EDGE, EDGE_NEW)
DIVERGE = NORMAL.cdf((LR_MEAN - EDGE_MEAN) / math.sqrt(EDGE_NEW))


@pytest.mark.parametrize("nodes", [1, 3])
def test_intervals_are_those_of_the_normal_that_the_law_holds(nodes: int) -> None:
    found, z = predict(law(nodes=nodes), **AT), NORMAL.inv_cdf(0.975)
    for value, low, high, means, (mean, own, sd) in (
        (found.lr, found.lr_low, found.lr_high, found.lr_mean, (LR_MEAN, LR_OWN, LR_SD)),
        (found.batch_tokens, found.batch_low, found.batch_high, found.batch_mean, (BATCH_MEAN, BATCH_OWN, BATCH_SD)),
    ):
        assert value and low and high and means
        logs = [math.log(one or 0) for one in (value, low, high, *means)]
        assert logs == pytest.approx([mean, mean - z * sd, mean + z * sd, mean - z * own, mean + z * own], abs=1e-6)


def test_the_expected_regret_is_half_the_curvature_times_the_variance() -> None:
    alone = predict(law(batch=False), **AT)
    assert alone.regret == pytest.approx(LR_REGRET, rel=1e-4)
    assert alone.regret != pytest.approx(2 * LR_REGRET, rel=0.1)
    both = predict(law(), **AT)
    assert both.regret == pytest.approx(LR_REGRET + 0.05 * BATCH_SD**2 / 2, rel=1e-4)
    assert predict(law(penalty=None), **AT).regret is None


def test_the_expected_regret_is_the_mean_loss_of_what_would_be_trained() -> None:
    """The formula without its algebra: the mean of the loss over rates and batches drawn from the law."""
    drawn_lr, drawn_batch = (NormalDist(0, sd).samples(40_000, seed=7 + i) for i, sd in enumerate((LR_SD, BATCH_SD)))
    lost = [0.5 * (0.08 * a * a + 0.05 * b * b) for a, b in zip(drawn_lr, drawn_batch, strict=True)]
    assert predict(law(), **AT).regret == pytest.approx(sum(lost) / len(lost), rel=0.03)


def test_a_given_batch_costs_the_valley_and_moves_the_rate_along_it() -> None:
    away = math.log(3.0)
    found = predict(law(), **AT, batch=3 * math.exp(BATCH_MEAN))
    valley = 0.05 - 0.03**2 / 0.08
    assert found.regret == pytest.approx(LR_REGRET + valley / 2 * (away**2 + BATCH_SD**2), rel=1e-4)
    assert found.lr and found.lr_low and found.lr_high
    moved = 0.03 / 0.08 * away  # -K_mixed / K_lr is above 0: a larger batch wants a larger rate
    z = NORMAL.inv_cdf(0.975)
    logs = [math.log(value) for value in (found.lr, found.lr_low, found.lr_high)]
    assert logs == pytest.approx([LR_MEAN + moved + side * z * LR_SD for side in (0, -1, 1)], abs=1e-6)


def test_the_probability_of_divergence_is_that_of_the_rate_above_the_edge() -> None:
    found = predict(law(), **AT)
    assert found.diverge == pytest.approx(DIVERGE, rel=1e-4)
    assert found.edge == pytest.approx(math.exp(EDGE_MEAN), rel=1e-6)
    assert found.edge_low and found.edge_high
    z = NORMAL.inv_cdf(0.975) * EDGE_SD
    assert [math.log(found.edge_low), math.log(found.edge_high)] == pytest.approx([EDGE_MEAN - z, EDGE_MEAN + z])
    edges = NormalDist(EDGE_MEAN, math.sqrt(EDGE_NEW)).samples(40_000, seed=1)
    assert found.diverge == pytest.approx(sum(LR_MEAN > one for one in edges) / 40_000, abs=0.006)
    assert predict(law(edge=None), **AT).diverge is None
    sure = predict(law(edge=(math.log(1e-5), -0.6, 0.1)), **AT).diverge
    assert sure == pytest.approx(1.0, abs=1e-9)  # an edge far below the optimum


def test_few_sizes_widen_the_range_of_the_regret_and_not_its_mean() -> None:
    """Of a variance that is hardly known: the range is that of the mixture, the mean that of the variance."""
    weights, sds = [0.25] * 4, [0.05, 0.1, 0.2, 0.8]
    nodes = tuple(Node(w, LR, ((0.0,) * 3,) * 3, sd**2) for w, sd in zip(weights, sds, strict=True))
    one = dataclasses.replace(law(batch=False), lr=dataclasses.replace(power("lr", LR, 0.0), nodes=nodes))
    found = predict(one, **AT)
    harmonic = 1 / sum(w / sd**2 for w, sd in zip(weights, sds, strict=True))
    assert found.regret == pytest.approx(0.08 / 2 * harmonic, rel=1e-9)
    assert found.regret_low and found.regret_high
    for told, share in ((found.regret_low, 0.05), (found.regret_high, 0.95)):
        off = math.sqrt(2 * told / 0.08)
        below = sum(w * (1 - 2 * NORMAL.cdf(-off / sd)) for w, sd in zip(weights, sds, strict=True))
        assert below == pytest.approx(share, abs=0.004)
    assert found.regret_high > 20 * harmonic * 0.04  # the control: no multiple of the mean
    assert f"(90 % of such runs {found.regret_low:.3%} .. {found.regret_high:.3%})" in printed(found)["regret"]


def printed(found: Prediction) -> dict[str, str]:
    """The lines of a prediction by their first word."""
    return {line.split()[0]: line for line in text(found).splitlines()}


def test_text_says_the_numbers_and_json_has_them() -> None:
    found = predict(law(), **AT)
    lines = printed(found)
    z = NORMAL.inv_cdf(0.975)
    rate, low, high = (math.exp(LR_MEAN + side * z * LR_SD) for side in (0, -1, 1))
    assert lines["learning"] == f"learning rate  {rate:.4g}  (95 % prediction interval {low:.4g} .. {high:.4g})"
    batch, low, high = (math.exp(BATCH_MEAN + side * z * BATCH_SD) for side in (0, -1, 1))
    assert lines["batch"].startswith(f"batch          {batch:.6g} tokens per update  (95 % prediction interval")
    assert lines["batch"].endswith(f"{low:.4g} .. {high:.4g})")
    regret = 100 * (LR_REGRET + 0.05 * BATCH_SD**2 / 2)
    assert float(re.findall(r"([\d.]+)%", lines["regret"])[0]) == pytest.approx(regret, abs=0.001)
    assert f"runs begin to diverge at {math.exp(EDGE_MEAN):.4g}" in lines["divergence"]
    assert float(re.findall(r"([\d.]+)%", lines["divergence"])[0]) == pytest.approx(100 * DIVERGE, abs=0.051)
    told = json.loads(json.dumps(summary(found), allow_nan=False))
    for name in ("lr", "lr_low", "lr_high", "batch_tokens", "batch_low", "batch_high", "regret", "diverge", "edge"):
        assert told[name] == getattr(found, name), name
    assert told["lr_mean"] == list(found.lr_mean or ())


def test_the_commands_say_the_same_of_the_laws_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "law.json"
    path.write_bytes(store.pretty(law().to_dict()))
    assert law_file.read(path) == law()
    arguments = ["predict", "--law", str(path), "--params", "3e8", "--tokens", "1e10"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["regret"] == pytest.approx(LR_REGRET + 0.05 * BATCH_SD**2 / 2, rel=1e-4)
    assert told["diverge"] == pytest.approx(DIVERGE, rel=1e-4)
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == text(predict(law(), **AT))
    other = json.loads(path.read_text())
    other["penalty"]["lr"] = 0.16  # the control: the file's own numbers decide
    path.write_text(json.dumps(other))
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["regret"] == pytest.approx(told["regret"] + LR_REGRET, rel=1e-4)


def arguments_of(source: str, call: str) -> dict[str, object]:
    """The literal keyword arguments of the only call of a name in some code."""
    (found,) = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and ast.unparse(node.func) == call
    ]
    return {word.arg: ast.literal_eval(word.value) for word in found.keywords if word.arg}


def test_code_sets_the_predicted_rate_and_as_many_updates_as_the_tokens_are() -> None:
    found = predict(law(), **AT)
    assert found.lr and found.batch_tokens
    steps = round(AT["tokens"] / math.exp(BATCH_MEAN))
    hf = arguments_of(code(found, "hf"), "TrainingArguments")
    assert (hf["learning_rate"], hf["max_steps"], hf["warmup_steps"]) == (pytest.approx(found.lr), steps, 100)
    assert hf["lr_scheduler_kwargs"] == {
        "num_decay_steps": round(0.2 * steps),
        "decay_type": "linear",
        "min_lr_ratio": 0.0,
    }
    assert arguments_of(code(found, "torch"), "torch.optim.AdamW")["lr"] == pytest.approx(found.lr)
    factor: dict = {}
    exec(code(found, "torch").split("import torch")[0], factor)
    assert factor["factor"](100) == pytest.approx(1.0) and factor["factor"](steps // 2) == pytest.approx(1.0)
    assert factor["factor"](steps - round(0.1 * steps)) == pytest.approx(0.5, abs=0.01)
    assert repr(found.lr) in code(found, "optax")  # run in tests/test_training_code.py
    for form in ("hf", "torch", "optax"):
        assert f"rate {found.lr:.6g}, {found.batch_tokens:.6g} tokens per update, {steps} updates" in code(found, form)
