"""Code for other libraries sets the predicted rate and the schedule of the law's runs, and nothing that nobody told.

Every format trains a toy model for ten updates in its own library (PyTorch, transformers and accelerate come with the
extra `parity`), beside AdamW written again in numpy.
"""

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from analysis.prediction import Prediction, predict
from lab import schedule
from lab.check import InputError
from lab.config import ScheduleConfig
from sweeps.cli import main
from sweeps.training_code import FORMATS, code
from sweeps.training_settings import Choice, kind_of, training

WSD = Prediction(
    law="planted",
    inputs={"params": 1e6, "tokens": 1e6},
    lr=0.01,
    batch_tokens=1000.0,
    recipe={
        "schedule": "wsd",
        "decay": "0.2 of the run",
        "decay shape": "sqrt",
        "final rate / peak": 0.1,
        "warm-up": "32 updates",
        "weight decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "clip": 1.0,
    },
)
UPDATES = 10
SHORT = dataclasses.replace(WSD, inputs={"params": 1e6, "tokens": 1e4}, lr=0.1)
X_BD = np.random.default_rng(0).normal(size=(8, 3))
Y_B = X_BD @ [3.0, -2.0, 1.0] + 5.0
W_D = np.array([0.5, 0.0, -1.0])
# Of AdamW in each library: b1, b2, weight decay, and the norm that its trainer clips at.
DEFAULTS = {"optax": (0.9, 0.999, 1e-4, None), "torch": (0.9, 0.999, 0.01, None), "hf": (0.9, 0.999, 0.0, 1.0)}


def run(text: str, **names: Any) -> dict[str, Any]:
    exec(text, names)  # the snippet as a user pastes it
    return names


def short(**recipe: Any) -> Prediction:
    """A run of ten updates by a law that tells this much; `_` stands for a blank."""
    return dataclasses.replace(SHORT, recipe={name.replace("_", " "): value for name, value in recipe.items()})


def adamw(rates: np.ndarray, b1: float, b2: float, decay: float, clip: float | None) -> np.ndarray:
    """The weights after one update per rate: AdamW (arXiv 1711.05101) on the mean squared error, in float64."""
    w_D, m_D, v_D = W_D.copy(), np.zeros(3), np.zeros(3)
    for i, rate in enumerate(rates, start=1):
        g_D = 2 * X_BD.T @ (X_BD @ w_D - Y_B) / len(Y_B)
        g_D *= 1.0 if clip is None else min(1.0, clip / np.linalg.norm(g_D))
        m_D, v_D = b1 * m_D + (1 - b1) * g_D, b2 * v_D + (1 - b2) * g_D**2
        step_D = m_D / (1 - b1**i) / (np.sqrt(v_D / (1 - b2**i)) + 1e-8)
        w_D = w_D - rate * (step_D + decay * w_D)
    return w_D


def by_optax(text: str) -> np.ndarray:
    optimizer = run(text)["optimizer"]
    assert isinstance(optimizer, optax.GradientTransformation)
    w_D: Any = jnp.asarray(W_D, jnp.float32)
    state = optimizer.init(w_D)
    for _ in range(UPDATES):
        gradient_D = jax.grad(lambda w_D: jnp.mean((X_BD @ w_D - Y_B) ** 2))(w_D)
        update_D, state = optimizer.update(gradient_D, state, w_D)
        w_D = w_D + update_D
    return np.asarray(w_D)


def toy(torch: Any) -> Any:
    """A torch model whose output is its loss, at the weights that all start from."""

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1, bias=False)
            self.layer.weight.data = torch.tensor(W_D[None], dtype=torch.float32)

        def forward(self, x: Any, labels: Any) -> Any:
            return {"loss": ((self.layer(x)[:, 0] - labels) ** 2).mean()}

    return Toy()


def by_torch(text: str) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    model = toy(torch)
    found = run(text, model=model)
    x, y = (torch.tensor(array, dtype=torch.float32) for array in (X_BD, Y_B))
    clip = next((line for line in text.splitlines() if line.startswith("# before each optimizer.step(): ")), None)
    for _ in range(UPDATES):
        found["optimizer"].zero_grad()
        model(x, y)["loss"].backward()
        if clip is not None:  # as the comment says
            run(clip.partition(": ")[2], torch=torch, model=model)
        found["optimizer"].step()
        if "scheduler" in found:
            found["scheduler"].step()
    return model.layer.weight.detach().numpy()[0]


def transformers() -> Any:
    """The library, told that there are no images: a torchvision for another build of torch would end its import."""
    pytest.importorskip("accelerate", reason="needs the extra parity")
    library = pytest.importorskip("transformers", reason="needs the extra parity")
    from transformers.utils import import_utils

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "torchvision", None)
        import_utils.is_torchvision_available.cache_clear()
        assert library.Trainer and not import_utils.is_torchvision_available()
    return library


def by_trainer(text: str) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    library = transformers()
    text = text.replace("TrainingArguments(", 'TrainingArguments(use_cpu=True, report_to="none", disable_tqdm=True,')
    arguments = run(text)["arguments"]
    arguments.save_strategy = "no"
    rows = [{"x": x, "labels": y} for x, y in zip(X_BD.astype(np.float32), Y_B.astype(np.float32), strict=True)]
    model = toy(torch)
    trainer = library.Trainer(model=model, args=arguments, train_dataset=rows)
    assert trainer.train().global_step == UPDATES  # 8 rows are one update
    return model.layer.weight.detach().numpy()[0]


TRAINED: dict[str, Callable[[str], np.ndarray]] = {"optax": by_optax, "torch": by_torch, "hf": by_trainer}
FULL = {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.2, "clip": 2.0, "warm-up": "3 updates", "optimizer": "AdamW"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "wsd": (
        {"schedule": "wsd", "decay": "0.4 of the run", "decay_shape": "sqrt", "final rate / peak": 0.1},
        {"kind": "wsd", "decay_steps": 4, "decay_shape": "sqrt", "floor": 0.1},
    ),
    "cosine": ({"schedule": "cosine", "final rate / peak": 0.2}, {"kind": "cosine", "floor": 0.2}),
    "linear": ({"schedule": "linear decay", "final rate": "0.3 of the peak"}, {"kind": "linear", "floor": 0.3}),
    "inverse sqrt": ({"schedule": "inverse square root"}, {"kind": "inverse_sqrt"}),
    "constant": ({"schedule": "constant_with_warmup"}, {"kind": "constant"}),
}


def rates(form: str, **fields: Any) -> np.ndarray:
    """The rates of ten updates, counted as the format counts; transformers' have a convention of their own."""
    index = "hf" if form == "hf" else "lab"
    return 0.1 * schedule.factors(ScheduleConfig(steps=UPDATES, index=index, **fields).resolve(1))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_ten_updates_in_the_library_itself(
    form: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told, fields = CASES[case]
    trained = TRAINED[form](code(short(**FULL, **told), form))
    expected = adamw(rates(form, warmup_steps=3, **fields), 0.8, 0.95, 0.2, 2.0)
    np.testing.assert_allclose(trained, expected, rtol=0, atol=2e-5)
    other = rates("hf" if form != "hf" else "torch", warmup_steps=3, **fields)
    for wrong in (
        adamw(other, 0.8, 0.95, 0.2, 2.0),
        adamw(rates(form, warmup_steps=3, **fields), 0.8, 0.95, 0.2, None),
    ):
        assert np.abs(trained - wrong).max() > 1e-3


@pytest.mark.parametrize("form", FORMATS)
def test_what_nobody_told_is_left_out_and_named(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.1.0 wrote `warmup_steps=0, max_grad_norm=0.0` and a constant rate: clipping off, and another schedule."""
    monkeypatch.chdir(tmp_path)
    text = code(short(), form)
    body = [line for line in text.splitlines() if not line.startswith("#")]
    for word in ("warmup", "clip", "grad_norm", "beta", "b1", "b2", "decay", "schedul", r"=0(\.0)?[,)]"):
        assert not any(re.search(word, line) for line in body), word
    for word in ("warm-up", "schedule", "beta1", "beta2", "weight decay", "clipping"):
        assert any(line.startswith("#") and word in line and "left out" in line for line in text.splitlines()), word
    left = rates("hf", kind="linear") if form == "hf" else np.full(UPDATES, 0.1)  # the Trainer's own schedule
    np.testing.assert_allclose(TRAINED[form](text), adamw(left, *DEFAULTS[form]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_a_person_s_choice_counts_over_what_the_runs_had(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = short(**FULL, schedule="constant")
    chosen = Choice(schedule="wsd", warmup=0.2, decay=5, clip=0.5)
    expected = rates(
        form, kind="wsd", warmup_steps=2, decay_steps=5, decay_shape="cosine" if form == "hf" else "linear"
    )
    np.testing.assert_allclose(
        TRAINED[form](code(told, form, chosen)), adamw(expected, 0.8, 0.95, 0.2, 0.5), rtol=0, atol=2e-5
    )
    plain = TRAINED[form](code(told, form, dataclasses.replace(chosen, clip=0)))
    np.testing.assert_allclose(plain, adamw(expected, 0.8, 0.95, 0.2, None), rtol=0, atol=2e-5)


EXPORTED = ["wsd", "--steps", "10", "--warmup", "3", "--decay", "4", "--decay-shape", "sqrt", "--lr", "0.1"]
# What a person writes around each export of `lrlab schedule`, to train with it.
AROUND = {
    "optax": "import optax\noptimizer = optax.adamw(schedule, b2=0.95, weight_decay=0.2)",
    "torch": "import torch\noptimizer = torch.optim.AdamW(model.parameters(), 0.1, (0.9, 0.95), weight_decay=0.2)\n"
    "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)",
    "json": "import json, jax.numpy as jnp, optax\nrates = jnp.array(json.loads(text)['rates'])\n"
    "optimizer = optax.adamw(lambda step: rates[step], b2=0.95, weight_decay=0.2)",
    "csv": "import io, pandas, jax.numpy as jnp, optax\nrates = jnp.array(pandas.read_csv(io.StringIO(text))['rate'])\n"
    "optimizer = optax.adamw(lambda step: rates[step], b2=0.95, weight_decay=0.2)",
}


@pytest.mark.parametrize("form", AROUND)
def test_ten_updates_with_an_exported_schedule(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "export", *EXPORTED, "--format", form]) == 0
    text = capsys.readouterr().out
    text = f"text = {text!r}\n{AROUND[form]}" if form in ("json", "csv") else f"{text}\n{AROUND[form]}"
    trained = (by_torch if form == "torch" else by_optax)(text)
    fields: dict[str, Any] = {"kind": "wsd", "warmup_steps": 3, "decay_steps": 4, "decay_shape": "sqrt"}
    np.testing.assert_allclose(trained, adamw(rates("torch", **fields), 0.9, 0.95, 0.2, None), rtol=0, atol=2e-5)
    assert np.abs(trained - adamw(rates("hf", **fields), 0.9, 0.95, 0.2, None)).max() > 1e-3


def test_long_runs_have_the_rates_of_their_schedule() -> None:
    expected = 0.01 * schedule.factors(
        ScheduleConfig(kind="wsd", steps=1000, warmup_steps=32, decay_steps=200, decay_shape="sqrt", floor=0.1).resolve(
            1
        )
    )
    found = run(code(WSD, "optax"))
    given = np.array([float(found["schedule"](step)) for step in range(0, 1000, 37)])
    np.testing.assert_allclose(given, expected[::37], rtol=2e-6)
    hf = code(WSD, "hf")
    assert "'num_decay_steps': 200" in hf and "max_steps=1000" in hf and "warmup_steps=32" in hf


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("cosine", "cosine"),
        ("Cosine with linear warm-up", "cosine"),
        ("constant_with_warmup", "constant"),
        ("constant, linear warmup", "constant"),
        ("linear", "linear"),
        ("warmup_stable_decay", "wsd"),
        ("trapezoidal", "wsd"),
        ("WSD, 10 % decay; the batch law's runs cosine", "wsd"),
        ("inverse_sqrt", "inverse_sqrt"),
        ("cosine_with_restarts", None),
        ("wsd_s", None),
        ("one_cycle", None),
        ("power", None),
        ("multi-step: 0.316 of the peak at 80 %", None),
        ("constant then linear", None),
        ("not confirmed", None),
        ("", None),
    ],
)
def test_a_schedule_s_description(words: str, kind: str | None) -> None:
    assert kind_of(words) == kind
    if kind is None:
        assert "kind" not in training(short(schedule=words)).schedule


@pytest.mark.parametrize(
    ("told", "updates", "comment"),
    [
        (500, 500, "500 has no unit and is taken as updates: --warmup"),
        (0.05, 50, "0.05 has no unit and is taken as a share of the run"),
        ("500", 500, "taken as updates"),
        ("1 % of the run", 10, None),
        ("2000 tokens", 2, None),
        (0, 0, None),
        ("yes; length not confirmed", None, "the warm-up is not told: left out"),
        ("2,000 steps", None, "a warm-up of 2000 updates is longer than the run of 1000: left out"),
    ],
)
def test_a_warm_up_as_people_tell_it(told: Any, updates: int | None, comment: str | None) -> None:
    made = training(dataclasses.replace(WSD, recipe={"schedule": "cosine", "warm-up": told}))
    assert made.schedule.get("warmup_steps") == updates
    notes = [line for line in made.comments if "warm-up" in line and "its runs" not in line]
    assert comment in notes[0] if comment else not notes


def test_a_decay_that_is_not_told_leaves_the_schedule_out() -> None:
    made = training(short(schedule="wsd", warmup=1))
    assert "kind" not in made.schedule
    assert any("a decay that is not told: left out, --decay sets it" in line for line in made.comments)
    assert training(short(schedule="WSD, 20 % decay")).schedule["decay_steps"] == 2
    assert training(short(schedule="wsd"), Choice(decay=0.3)).schedule["decay_steps"] == 3


def test_decay_whatever_the_rate_is_divided_by_it_and_parametrizations_are_named() -> None:
    told = {"weight decay": 0.002, "weight decay kind": "independent"}
    found = dataclasses.replace(SHORT, recipe=told, conditions={"parametrization": "mup"})
    assert training(found).weight_decay == pytest.approx(0.02)
    assert any("parametrized by mup" in line for line in training(found).comments)
    assert training(short(**{"weight decay": 0.002})).weight_decay == 0.002


def test_a_published_law_gives_code_with_what_is_known() -> None:
    found = training(predict("step", params=7e9, tokens=1.4e12))
    assert found.steps == 280066
    assert found.schedule["kind"] == "cosine"
    assert found.schedule["warmup_steps"] == 2000
    assert found.schedule["floor"] == pytest.approx(1e-5 / found.lr)
    assert found.weight_decay is None
    assert any("weight decay is not told" in line for line in found.comments)


@pytest.mark.parametrize(
    ("changes", "chosen", "form", "words"),
    [
        ({"lr": None}, {}, "optax", "gives no learning rate"),
        ({"batch_tokens": None}, {}, "optax", "add --batch"),
        ({"inputs": {"params": 1e6}}, {}, "optax", "add --tokens"),
        ({"recipe": {"optimizer": "muon"}}, {}, "torch", "is of runs with muon, and code is written for Adam"),
        ({"recipe": {"optimizer": "MuonH, Adam for the others"}}, {}, "torch", "of runs with MuonH"),
        (
            {"recipe": {**WSD.recipe, "decay shape": "exponential"}},
            {},
            "hf",
            "hf has no decay of the shape exponential",
        ),
        ({}, {"schedule": "wds"}, "hf", "--schedule wds is not one of .*did you mean wsd"),
        ({}, {"schedule": "power"}, "hf", "--schedule power is not one of"),
        ({}, {"warmup": 1001}, "hf", "--warmup 1001 is longer than the run of 1000 updates"),
        ({}, {"warmup": 1.5}, "hf", "neither a whole number of updates nor, below 1, a share"),
        ({}, {"clip": -1.0}, "hf", "--clip -1.0 is not a number from 0 on"),
        ({}, {"clip": float("nan")}, "hf", "--clip nan is not a number from 0 on"),
        ({}, {"schedule": "cosine", "decay": 5}, "hf", "only wsd has a decay"),
        ({"recipe": {}}, {"schedule": "wsd"}, "hf", "a decay that is not told: set --decay"),
    ],
)
def test_what_code_cannot_be_written_from(
    changes: dict[str, Any], chosen: dict[str, Any], form: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        code(dataclasses.replace(WSD, **changes), form, Choice(**chosen))


PREDICT = ["predict", "--law", "step", "--params", "1e9", "--tokens", "1e10"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--format", "keras"], "--format keras is not one of optax, torch, hf"),
        (["--clip", "1"], "--clip shape code: add --format optax, torch or hf"),
        (["--warmup", "2k", "--format", "hf"], "invalid float value"),
    ],
)
def test_wrong_options_are_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([*PREDICT, *words])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert line in capsys.readouterr().err


def test_choices_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--format", "hf", "--schedule", "inverse-sqrt", "--warmup", "100", "--clip", "0.5"]
    assert main([*PREDICT, *words]) == 0
    found = capsys.readouterr().out
    for part in ('lr_scheduler_type="inverse_sqrt"', "warmup_steps=100,", "max_grad_norm=0.5,"):
        assert part in found, part
