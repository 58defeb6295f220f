"""Coordinate checks: correct rules keep sizes, every ablated rule shows where it is identified, depth rules differ."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolve

import lab.coordinates
from analysis.slope import slope
from lab import corpus
from lab.config import ExecConfig, RunConfig
from lab.coordinates import trajectories
from lab.device import execution
from lab.identity import run_id
from lab.lane import Lane
from lab.model import leaves
from lab.parametrization import TABLE
from lab.program import program, shape_of
from lab.role import Role
from sweeps import coordinates
from sweeps.coordinates import ACTIVATIONS, Check, Verdict, ablation, configs, contrasts, whole, wholes
from sweeps.identification import exponent, identification, rules

SEEDS = 2
WIDTHS = (8, 16, 64)
ACTIVATION_CHANGES = {f"change/{name}" for name in ACTIVATIONS}
DEPTHS = (2, 4, 8, 16, 32)
NAMES = [name for name in TABLE if not TABLE[name].one_rate]
# Every rule of muP, and rules of its other forms where they have rates or multipliers of their own.
ABLATED = {"mup": "", "mup_table3": "readout", "mup_tp4": "embedding", "mean_field": "hidden"}


def check(text: Path, name: str = "mup", axis: Any = "width", **settings: object) -> Check:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    fixed: dict[str, object] = {"data.corpus": f"text:{text}", "optimizer.weight_decay": 0.1}
    if axis == "width":
        return Check(name, axis, WIDTHS, 3, SEEDS, fixed | {"data.length": 16} | dotted)
    return Check(name, axis, DEPTHS, 3, 3, fixed | dotted)


def plain(text: Path, **settings: object) -> Check:
    return check(text, optimizer__weight_decay=0.0, **settings)


def answers(*questions: Callable[[], Any]) -> list[Any]:
    """What each question answers, where the runs that all of them ask for are trained in one call, each once.

    Compiling is nearly all of the time, and runs of one program are lanes of one job.
    """
    runs: dict[str, RunConfig] = {}

    class Asked(Exception):
        """All that a question wants to know is known."""

    def ask(configs: Sequence[RunConfig], *_: object) -> Any:
        runs.update({run_id(config): config for config in configs})
        raise Asked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinates, "trajectories", ask)
        for question in questions:
            with pytest.raises(Asked):
                question()
    text = corpus.load(next(iter(runs.values())).data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab.coordinates, "MAX_LANES", len(runs))
        tables = trajectories(list(runs.values()), text, "value", "change", "update", "gradient")
    found = dict(zip(runs, tables, strict=True))

    def answer(configs: Sequence[RunConfig], _: object, *kinds: str) -> list[dict[str, np.ndarray]]:
        chosen = [found[run_id(config)] for config in configs]
        return [{name: table[name] for name in table if name.split("/")[0] in kinds} for table in chosen]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinates, "trajectories", answer)
        return [question() for question in questions]


def rules_of(plan: Check) -> list[str]:
    """Rules of its parametrization that are asked for.

    Under SGD the attention's rule is left out: it shows before any update, where AdamW's runs are the same.
    """
    found = rules(configs(plan, {})[-1], "width")
    kept = plan.settings.get("optimizer.kind") != "sgd"
    return [rule for rule in found if rule.startswith(ABLATED[plan.name]) and (kept or rule != "attention")]


@pytest.fixture(scope="module")
def adamw(text: Path) -> dict[str, Any]:
    """Verdicts on whole parametrizations, on each one's ablated rules by its name, and on two rules that are no-ops."""
    plans = {name: check(text, name) for name in ABLATED}
    no_ops = ("readout.lr", "gain.lr")
    whole, *found = answers(
        lambda: wholes(plain(text), [*NAMES, "sp", "sp_gpt2"]),
        *(functools.partial(contrasts, plan, rules_of(plan)) for plan in plans.values()),
        *(functools.partial(ablation, plans["mup"], rule) for rule in no_ops),
    )
    return {"whole": whole} | dict(zip([*plans, *no_ops], found, strict=True))


def test_a_slope_and_its_interval() -> None:
    sizes, noise = (16, 32, 64, 256), np.random.default_rng(0).normal(scale=0.02, size=(4, 3))
    found = slope(sizes, np.asarray(sizes, float)[:, None] ** -0.5 * 2.0**noise)
    assert found.low < -0.5 < found.high
    assert found.high - found.low < 0.1
    with pytest.raises(ValueError, match="positive values"):
        slope(sizes, np.zeros((4, 3)))


@pytest.mark.slow
def test_every_parametrization_keeps_what_its_exponents_say_and_sp_fails(adamw: dict[str, Any]) -> None:
    for found in adamw["whole"]:
        failed = {row.statistic for row in found.rows if not row.passed}
        if found.check.name in NAMES:
            assert not failed, (found.check.name, failed)
        else:
            assert failed >= {"change/mlp", "change/residual", "change/logits"}
            assert all(row.found.value > 0.3 for row in found.rows if row.statistic in failed & ACTIVATION_CHANGES)


def assert_kept(verdicts: list[Verdict]) -> None:
    for found in verdicts:
        assert found.passed, [(row.statistic, row.found.value, row.expected) for row in found.rows if not row.passed]


def other_optimizer(text: Path, kind: str) -> Callable[[], list[Verdict]]:
    return lambda: wholes(plain(text, optimizer__kind=kind), ["mup", "mean_field", "sp_per_layer"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adafactor", "lion", "muon"])
def test_the_other_optimizers_keep_what_their_exponents_say(text: Path, kind: str) -> None:
    """For Lion and Muon, whose rates no linear program derives, this is the check of their rows."""
    assert_kept(*answers(other_optimizer(text, kind)))


@pytest.mark.slow
def test_sgd_keeps_what_its_exponents_say_and_its_rules_show(text: Path) -> None:
    plan = check(text, optimizer__kind="sgd")
    kept, shown = answers(other_optimizer(text, "sgd"), lambda: contrasts(plan, rules_of(plan)))
    assert_kept(kept)
    assert shown
    for rule, found in shown.items():
        assert_seen(found, rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["sqrt", "complete"])
def test_depth_rules_keep_what_their_exponents_say(text: Path, rule: str) -> None:
    assert_kept([whole(plain(text, axis="depth", parametrization__depth=rule))])


def assert_seen(found: Verdict, rule: str) -> None:
    """The ablated slope differs from the correct one by at least 0.2, about as far as the table says."""
    (row,) = found.rows
    assert row.predicted is not None
    moved, expected = row.found.value - row.expected, row.predicted - row.expected
    assert not row.passed, rule
    assert abs(moved) >= 0.2, rule
    assert abs(moved - expected) < 0.45, (rule, moved, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATED)
def test_every_width_rule_shows_where_it_is_identified(adamw: dict[str, Any], name: str) -> None:
    assert adamw[name]
    for rule, found in adamw[name].items():
        assert_seen(found, rule)


@pytest.mark.slow
def test_every_depth_rule_shows_over_depths_2_to_32(text: Path) -> None:
    plan = check(text, axis="depth", parametrization__depth="sqrt", model__width=16, parametrization__base_width=16)
    found = contrasts(plan, ["depth.branch", "depth.lr", "depth.eps"])
    for rule, verdict in found.items():
        assert_seen(verdict, rule)


@pytest.mark.slow
def test_linearisation_tells_the_depth_exponents_apart(text: Path) -> None:
    """With 1/sqrt(L) blocks become linear in their weights as depth grows; with 1/L they do not (arXiv 2505.01618)."""

    def lazy(rule: str) -> float:
        plan = plain(text, axis="depth", parametrization__depth=rule)
        runs = configs(plan, {"model.width": 16, "parametrization.base_width": 16})
        found = trajectories(runs, corpus.load(runs[0].data), "lazy")
        values = np.array([table["lazy/blocks"][-1] for table in found]).reshape(len(DEPTHS), plan.seeds)
        return slope(DEPTHS, values).value

    root, complete = lazy("sqrt"), lazy("complete")
    # Both slopes are steeper by 0.2 to 0.3 at these depths than in the limit; their difference is the exponents' 1/2.
    assert -1.0 < root < -0.5
    assert -0.4 < complete < 0.1
    assert 0.35 < complete - root < 0.65


@pytest.mark.slow
def test_a_rule_without_an_exponent_is_a_no_op_bitwise(adamw: dict[str, Any], text: Path) -> None:
    for rule in ("readout.lr", "gain.lr"):
        assert exponent(rule, configs(check(text), identification(rule).settings)[-1]) == 0
        (row,) = adamw[rule].rows
        assert row.passed
        assert row.note == "the rule is a no-op here, bitwise"


@pytest.mark.slow
def test_gradients_at_initialisation_follow_the_eps_column(base: RunConfig) -> None:
    """V5 of the verification list: slopes over widths 128 to 1024, 3 seeds, a fixed vocabulary, a non-zero readout."""
    widths, forms = (128, 256, 512, 1024), ("sp_per_layer", "ntk", "mup", "mup_table3", "mup_tp4", "mean_field")
    sizes: dict[tuple[str, str], list[np.ndarray]] = {}
    for width in widths:
        changes = {"model__width": width, "model__head_dim": 32, "model__depth": 1, "optimizer__kind": "sgd"}
        wide = resolve(base, **changes, parametrization__base_width=128, parametrization__zero_readout=False)
        runs = [resolve(wide, parametrization__name=name, seed=seed) for name in forms for seed in range(3)]
        for path, rms in gradients(runs).items():
            if path.endswith(("token", "up/kernel", "value/kernel", "readout/kernel", "final_norm/gain")):
                for name, values in zip(forms, rms.reshape(len(forms), 3), strict=True):
                    sizes.setdefault((name, path), []).append(values)
    for (name, path), values in sizes.items():
        adam = resolve(base, parametrization__name=name)
        role = leaves(adam)[path].role
        expected = exponent(f"{role}.eps", adam)
        tolerance = 0.15 if role == Role.GAIN else 0.05
        assert slope(widths, np.array(values)).value == pytest.approx(expected, abs=tolerance), (name, path)


def gradients(runs: list[RunConfig]) -> dict[str, np.ndarray]:
    """Root mean square of every leaf's gradient on one batch, before any update: [runs] by path, from one program."""
    how = execution(ExecConfig(), runs[0].model, platform="cpu", runs=1)
    one = program(shape_of(runs[0], lanes=len(runs), strategy="map", group=1, segment=1, forward=how.forward))
    lanes, _ = one.lanes(runs)
    data = runs[0].data
    tokens = jnp.asarray(corpus.load(data).validation.windows(np.arange(16) * 16, data.length + 1))

    def sizes(lane: Lane) -> dict[str, jax.Array]:
        params = one._init_lane(lane).params
        found = jax.grad(lambda params: one.loss(params, lane, tokens).mean())(params)
        return {path: jnp.sqrt(jnp.mean(value**2)) for path, value in found.items()}

    return {path: np.asarray(values) for path, values in jax.jit(one.over_lanes(sizes))(lanes).items()}
