"""Exported schedules are run, and give the numbers that the schedule itself gives."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lab.config import ScheduleConfig
from lab.convention import CONVENTIONS, lacking
from lab.schedule import factors
from sweeps import schedules
from sweeps.cli import main

BATCH = 128 * 4096
BEYOND = 5  # updates after the end, where a schedule stands still


def curve(lr: float | None = None, **fields: Any) -> schedules.Curve:
    return schedules.curve(fields, lr=lr, tokens_per_step=BATCH)


def values(found: schedules.Curve) -> np.ndarray:
    return factors(found.schedule, 0, found.steps + BEYOND, law=found.law)


def by_torch(code: str, steps: int) -> np.ndarray:
    scope: dict[str, Any] = {}
    exec(code, scope)
    return np.array([scope["factor"](step) for step in range(steps)])


def by_optax(code: str, steps: int, dtype: str = "float64") -> np.ndarray:
    """All updates at once, compiled, and some as Python numbers.  A count of 32 bits makes 32-bit rates in JAX."""
    scope: dict[str, Any] = {}
    count = np.arange(steps, dtype=np.int64 if dtype == "float64" else np.int32)
    with jax.enable_x64(dtype == "float64"):
        exec(code, scope)
        at_once = np.asarray(jax.jit(jax.vmap(scope["schedule"]))(count), np.float64)
        single = [float(scope["schedule"](step)) for step in (0, steps // 2, steps - 1)]
    np.testing.assert_allclose(single, at_once[[0, steps // 2, steps - 1]], rtol=2e-6, atol=2e-7)
    return at_once


DECAYS: dict[str, Any] = {"wsd": 5, "wsd_s": 3, "power": 5, "inverse_sqrt": 5}
SHAPES = ("linear", "cosine", "sqrt", "exponential", "exponential_megatron")
KINDS = ("constant", "linear", "cosine", "wsd", "power", "wsd_s", "inverse_sqrt", "one_cycle")


def cases() -> list[dict[str, Any]]:
    """Every kind under every convention that has it, every shape, and phases of no or one update."""
    found: list[dict[str, Any]] = []
    for kind, index in itertools.product(KINDS, CONVENTIONS):
        if index in lacking(kind):
            continue
        lone = index != "lab" and (kind == "inverse_sqrt" or (kind == "power" and index == "dolomite"))
        decay = {"decay_steps": 0 if lone else DECAYS[kind]} if kind in DECAYS else {}
        floor = {} if kind == "inverse_sqrt" and index == "hf" else {"floor": 0.1}
        cycles = {"cycle_steps": (9, 14)} if kind == "wsd_s" else {}
        found.append({"kind": kind, "index": index, "steps": 24, "warmup_steps": 4, **decay, **floor, **cycles})
    for kind, shape in itertools.product(DECAYS, SHAPES):
        found.append({"kind": kind, "steps": 24, "warmup_steps": 4, "decay_steps": 6, "decay_shape": shape})
    for kind, (warmup, decay), index in itertools.product(
        DECAYS, [(0, 0), (0, 1), (1, 0), (1, 1), (6, 0), (0, 6), (3, 3), (5, 1)], ("lab", "hf", "olmo_core", "maxtext")
    ):
        lone = kind == "inverse_sqrt" and index != "lab" and decay
        if index not in lacking(kind) and not lone:
            fields = {"kind": kind, "index": index, "steps": 6, "warmup_steps": warmup, "decay_steps": decay}
            found.append(fields)
    for kind, warmup in itertools.product(("constant", "linear", "cosine", "one_cycle"), (0, 1, 5, 6)):
        found.append({"kind": kind, "steps": 6, "warmup_steps": warmup})
    for shape in ("cosine", "sqrt"):
        found.append({"kind": "wsd", "steps": 24, "warmup_steps": 6, "decay_steps": 6, "warmup_shape": shape})
    return found


CASES = cases()
IDS = [" ".join(str(value) for value in fields.values()) for fields in CASES]


@pytest.mark.parametrize("fields", CASES, ids=IDS)
def test_the_torch_function_gives_the_same_factors(fields: dict[str, Any]) -> None:
    found = curve(**fields)
    given = by_torch(schedules.export(found, "torch"), found.steps + BEYOND)
    np.testing.assert_allclose(given, values(found), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", CASES[::3], ids=IDS[::3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_the_optax_expression_gives_the_same_factors(fields: dict[str, Any], dtype: str, tolerance: float) -> None:
    found = curve(**fields)
    scale = 1.0 if found.lr is None else found.lr
    given = by_optax(schedules.export(found, "optax"), found.steps + BEYOND, dtype)
    np.testing.assert_allclose(given / scale, values(found), rtol=0, atol=tolerance)


def test_the_cases_hold_every_kind_index_and_shape_in_optax_too() -> None:
    for name, wanted in (("kind", KINDS), ("index", tuple(CONVENTIONS)), ("decay_shape", SHAPES)):
        assert {fields.get(name) for fields in CASES[::3]} >= set(wanted), name


def test_another_convention_would_be_seen() -> None:
    wsd = {"kind": "wsd", "steps": 24, "warmup_steps": 4, "decay_steps": 6}
    given = by_torch(schedules.export(curve(**wsd), "torch"), 24)
    assert np.abs(given - factors(curve(**wsd, index="hf").schedule)).max() > 0.1


def test_exports_with_a_peak_give_rates_where_the_library_wants_rates() -> None:
    found = curve(kind="wsd", steps=20, warmup_steps=4, decay_steps=5, lr=0.03)
    np.testing.assert_allclose(by_optax(schedules.export(found, "optax"), 25), 0.03 * values(found), atol=1e-12)
    np.testing.assert_allclose(by_torch(schedules.export(found, "torch"), 25), values(found), atol=1e-12)


def test_a_long_run_is_exported_without_being_listed() -> None:
    found = curve(kind="power", steps=10**9, warmup_steps=2000, decay_steps=10**8)
    scope: dict[str, Any] = {}
    exec(schedules.export(found, "torch"), scope)
    for step in (0, 10**6, 95 * 10**7, 10**9 - 1, 10**9 + 7):
        expected = factors(found.schedule, step, step + 1, law=found.law)[0]
        assert scope["factor"](step) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_code_is_what_a_person_would_write() -> None:
    found = curve(kind="wsd", steps=20, warmup_steps=4, decay_steps=5, index="hf")
    assert schedules.export(found, "optax").splitlines()[1:] == [
        "import optax",
        "",
        "schedule = optax.join_schedules(",
        "    [",
        "        optax.linear_schedule(0.0, 1.0, 4),",
        "        optax.constant_schedule(1.0),",
        "        optax.linear_schedule(1.0, 0.0, 5),",
        "    ],",
        "    [4, 15],",
        ")",
    ]
    code = schedules.export(found, "torch")
    assert "def factor(step: int) -> float:\n    if step < 4:\n        return step / 4\n" in code
    assert "import math" not in code


def test_lambda_lr_takes_the_torch_function() -> None:
    torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")
    found = curve(kind="power", steps=24, warmup_steps=4, decay_steps=6, lr=1e-5)
    scope: dict[str, Any] = {}
    exec(schedules.export(found, "torch"), scope)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, scope["factor"])
    seen = []
    for _ in range(24):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(seen, 1e-5 * values(found)[:24], rtol=1e-12)


WSD = ["wsd", "--steps", "20", "--warmup", "4", "--decay", "5", "--decay-shape", "linear", "--index", "hf"]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["schedule", *words]) == 0
    return capsys.readouterr().out


def test_show_as_json_lists_one_factor_per_update(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "show", *WSD, "--json"))
    expected = factors(ScheduleConfig(steps=20, warmup_steps=4, decay_steps=5, index="hf").resolve(1))
    assert found["values"] == expected.tolist()
    assert found["boundaries"] == [4, 15, 20]
    assert found["index"] == "hf"
    assert found["schedule"]["decay_steps"] == 5
    assert "rates" not in found
    rates = json.loads(said(capsys, "show", *WSD, "--lr", "0.5", "--json"))["rates"]
    assert rates == (0.5 * expected).tolist()


def test_show_is_a_table_of_the_phases(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", *WSD)
    assert text.startswith("wsd: 20 updates, warm-up 4, decay 5 (linear), index hf\n")
    assert len(text.splitlines()) == 1 + 4 + 1 + 21
    long = said(capsys, "show", "wsd", "--steps", "1e9", "--decay-fraction", "0.1")
    assert "900000000..999999999" in long
    assert len(long.splitlines()) == 4


def test_durations_in_tokens_and_the_power_schedule_in_the_paper_s_units(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tokens", "1e8", "--warmup-tokens", "1e7", "--decay-fraction", "0.1", "--sequences", "16"]
    found = json.loads(said(capsys, "show", "power", *words, "--json"))
    per_step = 16 * 4096
    assert len(found["values"]) == 10**8 // per_step
    assert found["schedule"]["warmup_steps"] == 10**7 // per_step
    middle = 10**8 // per_step // 2
    assert found["rates"][middle] == pytest.approx(16 * 4 * (middle * per_step) ** -0.51, rel=1e-12)
    assert found["lr"] == 0.02


def test_names_of_other_libraries_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", "20", "--warmup", "4", "--decay", "5", "--json"]
    for name in ("1-sqrt", "minus_sqrt", "sqrt"):
        found = json.loads(said(capsys, "show", "wsd", *words, "--decay-shape", name))
        assert found["values"][16] == pytest.approx(1 - math.sqrt(0.2))
    words += ["--index", "megatron", "--decay-shape", "exponential"]
    assert json.loads(said(capsys, "show", "wsd", *words))["schedule"]["decay_shape"] == "exponential_megatron"
    cycles = ["wsd-s", "--steps", "30", "--cycles", "10,20", "--decay", "2", "--json"]
    assert json.loads(said(capsys, "show", *cycles))["boundaries"] == [8, 10, 18, 20, 28, 30]


def test_csv_and_json_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "export", *WSD, "--lr", "0.1", "--format", "csv", "--out", str(tmp_path / "s.csv"))
    table = np.genfromtxt(tmp_path / "s.csv", delimiter=",", names=True)
    expected = factors(ScheduleConfig(steps=20, warmup_steps=4, decay_steps=5, index="hf").resolve(1))
    np.testing.assert_array_equal(table["factor"], expected)
    np.testing.assert_array_equal(table["rate"], 0.1 * expected)
    found = json.loads(said(capsys, "export", *WSD, "--format", "json"))
    assert found["values"] == expected.tolist()


def test_plot_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "schedule.png"
    assert str(path) in said(capsys, "plot", "power", "--tokens", "1e13", "--sequences", "1024", "--out", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["show", "wds", "--steps", "9", "--decay", "1"], "schedule.kind=wds is not one of"),
        (["show", "wsd", "--steps", "9"], "schedule.kind=wsd needs one of schedule.decay_steps"),
        (["show", "wsd", "--decay", "1"], "none of schedule.steps, schedule.tokens is given"),
        (["show", "wsd", "--steps", "1.5"], "1.5 is not a whole number"),
        (["show", "wsd", "--steps", "9", "--decay", "1", "--decay-tokens", "9"], "are given together"),
        (["show", "wsd", "--tokens", "9e9", "--decay", "1"], "tokens needs the tokens of an update: give --batch"),
        (["show", "power", "--steps", "9"], "power needs the tokens of an update: give --batch"),
        (["show", "power", "--steps", "9", "--batch", "0"], "--batch=0 is not above 0"),
        (
            ["show", "power", "--steps", "9", "--batch", "8", "--length", "64"],
            "--batch=8 is in tokens per update: leave",
        ),
        (["show", "power", "--steps", "9", "--batch", "8", "--index", "hf"], "use schedule.index=lab or dolomite or"),
        (["show", "wsd", "--steps", "9", "--decay", "1", "--lr", "0"], "--lr=0.0 is not above 0"),
        (["show", "wsd-s", "--steps", "9", "--decay", "1", "--cycles", "4;6"], "write the updates as in 10,20"),
        (["show", "wsd", "--steps", "1e9", "--decay", "1", "--json"], "1000000000 updates are more than the 10000000"),
        (["export", "wsd", "--steps", "9", "--decay", "1", "--format", "yaml"], "--format yaml is not one of optax"),
        (["plot", "wsd", "--steps", "9", "--decay", "1", "--out", "s.txt"], "--out s.txt is no picture"),
        (["plot", "wsd", "--steps", "9", "--decay", "1", "--out", "no/s.png"], "the folder no does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_schedules_are_one_clear_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["schedule", *words])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_the_batch_is_in_tokens_and_sequences_have_a_name_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["power", "--steps", "30", "--warmup", "3", "--decay", "3", "--json"]
    tokens = said(capsys, "show", *words, "--batch", "8192")
    assert tokens == said(capsys, "show", *words, "--sequences", "2")
    assert tokens == said(capsys, "show", *words, "--sequences", "128", "--length", "64")
    assert tokens != said(capsys, "show", *words, "--sequences", "8192")


def test_power_says_which_phases_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    """0.1.0 gave the cap at the first update, and no decay, without a word."""
    words = ["power", "--steps", "30", "--batch", "8192"]
    for form in ("torch", "optax"):
        first = said(capsys, "export", *words, "--format", form).splitlines()[0]
        assert "without warm-up and decay, which the published Power has: --warmup and --decay" in first
    assert "without decay, which" in said(capsys, "show", *words, "--warmup", "3")
    assert "without" not in said(capsys, "show", *words, "--warmup", "3", "--decay", "3")
    assert "without" not in said(capsys, "show", "wsd", "--steps", "30", "--decay", "0")
    assert main(["schedule", "export", *words, "--format", "csv"]) == 0
    assert "without warm-up and decay" in capsys.readouterr().err
