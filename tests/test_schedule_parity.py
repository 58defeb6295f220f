"""The sequences of other libraries: their vectors to four decimals, and the packages that are installed to 1e-12.

The vectors are what the libraries' own code gives for T = 20, W = 4, D = 5 (update: factor).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

from lab.config import ScheduleConfig
from lab.convention import CONVENTIONS, lacking
from lab.schedule import factors

VECTOR = 5e-5
LIVE = 1e-12
MISSED = 0.01  # by which another way to count must miss

WSD = (0, 1, 3, 4, 5, 14, 15, 16, 17, 18, 19)
WHOLE = (0, 3, 4, 5, 10, 15, 18, 19)

# (what, kind, index, other fields, updates, factors)
VECTORS: list[tuple[str, str, str, dict[str, Any], tuple[int, ...], tuple[float, ...]]] = [
    ("linear", "wsd", "hf", {}, WSD, (0, 0.25, 0.75, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2)),
    (
        "cosine",
        "wsd",
        "hf",
        {"decay_shape": "cosine"},
        WSD,
        (0, 0.25, 0.75, 1, 1, 1, 1, 0.9045, 0.6545, 0.3455, 0.0955),
    ),
    (
        "1-sqrt from a floor",
        "wsd",
        "hf",
        {"decay_shape": "sqrt", "floor": 0.1},
        WSD,
        (0.1, 0.325, 0.775, 1, 1, 1, 1, 0.5975, 0.4308, 0.3029, 0.195),
    ),
    ("linear", "wsd", "torchtitan", {}, WSD, (0.25, 0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2)),
    (
        "sqrt",
        "wsd",
        "torchtitan",
        {"decay_shape": "sqrt"},
        WSD,
        (0.25, 0.5, 1, 1, 1, 1, 1, 0.5528, 0.3675, 0.2254, 0.1056),
    ),
    (
        "exponential",
        "wsd",
        "megatron",
        {"decay_shape": "exponential"},
        WSD,
        (0, 0.25, 0.75, 1, 1, 1, 1, 0.7411, 0.5157, 0.3195, 0.1487),
    ),
    (
        "minus_sqrt",
        "wsd",
        "megatron",
        {"decay_shape": "sqrt"},
        WSD,
        (0, 0.25, 0.75, 1, 1, 1, 1, 0.5528, 0.3675, 0.2254, 0.1056),
    ),
    (
        "exponential",
        "wsd",
        "dolomite",
        {"decay_shape": "exponential"},
        WSD,
        (0, 0.25, 0.75, 1, 1, 1, 1, 0.7132, 0.4785, 0.2862, 0.1289),
    ),
    ("linear", "wsd", "olmo_core", {}, WSD, (0.25, 0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0)),
    ("linear", "wsd", "maxtext", {}, WSD, (0, 0.25, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0)),
    ("linear", "wsd", "levanter", {}, WSD, (0, 0.25, 0.75, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2)),
    *(
        ("cosine", "cosine", index, {}, WHOLE, (0, 0.75, 1, 0.9904, 0.6913, 0.2222, 0.0381, 0.0096))
        for index in ("hf", "levanter", "megatron")
    ),
    ("cosine", "cosine", "torchtitan", {}, WHOLE, (0.25, 1, 1, 0.9904, 0.6913, 0.2222, 0.0381, 0.0096)),
    ("cosine", "cosine", "olmo_core", {}, WHOLE, (0.25, 1, 0.9904, 0.9619, 0.5975, 0.1464, 0.0096, 0)),
    ("cosine", "cosine", "maxtext", {}, WHOLE, (0, 0.75, 1, 0.9891, 0.6545, 0.1654, 0.0109, 0)),
    ("linear", "linear", "hf", {}, WHOLE, (0, 0.75, 1, 0.9375, 0.625, 0.3125, 0.125, 0.0625)),
    *(
        ("inverse sqrt", "inverse_sqrt", index, {}, WHOLE, (0, 0.75, 1, 0.8944, 0.6325, 0.5164, 0.4714, 0.4588))
        for index in ("hf", "megatron")
    ),
    (
        "inverse sqrt",
        "inverse_sqrt",
        "olmo_core",
        {"floor": 0.1},
        WHOLE,
        (0.25, 1, 0.905, 0.8348, 0.6427, 0.55, 0.5129, 0.5025),
    ),
]
IDS = [f"{index} {kind} {what}" for what, kind, index, *_ in VECTORS]


def ours(kind: str, steps: int = 20, warmup: int = 4, decay: int | None = None, **fields: Any) -> np.ndarray:
    return factors(ScheduleConfig(kind=kind, steps=steps, warmup_steps=warmup, decay_steps=decay, **fields).resolve(1))  # type: ignore[arg-type]


def decay_of(kind: str) -> int | None:
    return 5 if kind == "wsd" else None


@pytest.mark.parametrize(("what", "kind", "index", "fields", "updates", "expected"), VECTORS, ids=IDS)
def test_vectors(
    what: str, kind: str, index: str, fields: dict[str, Any], updates: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    values = ours(kind, decay=decay_of(kind), index=index, **fields)[list(updates)]
    np.testing.assert_allclose(values, expected, rtol=0, atol=VECTOR, err_msg=what)


@pytest.mark.parametrize(("what", "kind", "index", "fields", "updates", "expected"), VECTORS, ids=IDS)
def test_another_way_to_count_misses_the_vectors(
    what: str, kind: str, index: str, fields: dict[str, Any], updates: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    """Conventions that count alike in all that this schedule shows are no controls; there is always one that is."""
    del what
    missed = []
    for other in CONVENTIONS:
        if other == index or other in lacking(kind) or (kind == "inverse_sqrt" and fields and other == "hf"):
            continue
        values = ours(kind, decay=decay_of(kind), index=other, **fields)[list(updates)]
        missed.append(np.abs(values - expected).max())
    assert sum(miss > MISSED for miss in missed) >= 2
    assert all(miss < VECTOR or miss > MISSED for miss in missed)


def test_the_vectors_hold_every_library() -> None:
    assert {index for _, _, index, *_ in VECTORS} == set(CONVENTIONS) - {"lab"}


@pytest.mark.parametrize("index", ["lab", "torchtitan"])
def test_torchtitan_s_own_vectors(index: str) -> None:
    half = ours("wsd", 10, 2, 5, index=index)
    np.testing.assert_allclose(half, [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2], rtol=0, atol=1e-15)
    whole = ours("linear", 10, 2, index=index)
    np.testing.assert_allclose(whole, [0.5, 1, *(k / 8 for k in range(8, 0, -1))], rtol=0, atol=1e-15)


def test_levanter_s_inverse_square_root_is_flat_until_its_timescale() -> None:
    values = ours("inverse_sqrt", 40_000, 100, index="levanter", floor=0.6)
    np.testing.assert_array_equal(values[100:10_000], 1.0)
    assert values[20_000] == pytest.approx(math.sqrt(0.5), abs=LIVE)
    assert values[-1] == 0.6
    assert ours("inverse_sqrt", 40_000, 100)[20_000] == pytest.approx(math.sqrt(100 / 20_000))


def test_maxtext_s_decay_of_one_update() -> None:
    """Its linear decay of one update never begins, its cosine is over at once."""
    assert ours("wsd", 6, 0, 1, index="maxtext")[-1] == 1
    assert ours("wsd", 6, 0, 1, index="maxtext", decay_shape="cosine", floor=0.25)[-1] == 0.25
    assert ours("wsd", 6, 0, 1)[-1] == 1  # the first update of a decay is at the peak
    assert ours("wsd", 6, 0, 2)[-1] == 0.5


def lambda_lr(build: Callable[..., Any], steps: int, **settings: Any) -> np.ndarray:
    """The rates that a schedule of transformers gives to updates, one scheduler step after each."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


@pytest.fixture(scope="module")
def hf() -> Any:
    pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
    pytest.importorskip("transformers", reason="transformers is not installed (extra `parity`)")
    from transformers import optimization

    return optimization


LENGTHS = [(20, 4, 5), (20, 0, 5), (20, 4, 0), (20, 4, 16), (33, 1, 1), (7, 0, 7), (1, 0, 0), (200, 37, 61)]


@pytest.mark.parametrize(("steps", "warmup", "decay"), LENGTHS)
def test_transformers_wsd(hf: Any, steps: int, warmup: int, decay: int) -> None:
    shapes = {"linear": "linear", "cosine": "cosine", "sqrt": "1-sqrt"}
    for (rising, rising_hf), (falling, falling_hf), floor in itertools.product(
        shapes.items(), shapes.items(), (0.0, 0.1)
    ):
        theirs = lambda_lr(
            hf.get_wsd_schedule,
            steps,
            num_warmup_steps=warmup,
            num_decay_steps=decay,
            num_training_steps=steps,
            warmup_type=rising_hf,
            decay_type=falling_hf,
            min_lr_ratio=floor,
        )
        same: dict[str, Any] = {"decay": decay, "floor": floor, "decay_shape": falling, "warmup_shape": rising}
        np.testing.assert_allclose(ours("wsd", steps, warmup, index="hf", **same), theirs, rtol=0, atol=LIVE)
        if 1 < warmup < steps:
            assert np.abs(ours("wsd", steps, warmup, **same) - theirs).max() > MISSED


@pytest.mark.parametrize(("steps", "warmup"), [(20, 4), (20, 0), (33, 1), (200, 37)])
def test_transformers_full_decays_and_inverse_square_root(hf: Any, steps: int, warmup: int) -> None:
    lengths = {"num_warmup_steps": warmup, "num_training_steps": steps}
    cases = {
        "cosine": lambda_lr(hf.get_cosine_schedule_with_warmup, steps, **lengths),
        "linear": lambda_lr(hf.get_linear_schedule_with_warmup, steps, **lengths),
        "constant": lambda_lr(hf.get_constant_schedule_with_warmup, steps, num_warmup_steps=warmup),
        "inverse_sqrt": lambda_lr(hf.get_inverse_sqrt_schedule, steps, num_warmup_steps=warmup),
    }
    for kind, theirs in cases.items():
        np.testing.assert_allclose(ours(kind, steps, warmup, index="hf"), theirs, rtol=0, atol=LIVE, err_msg=kind)
    floored = lambda_lr(hf.get_cosine_with_min_lr_schedule_with_warmup, steps, **lengths, min_lr_rate=0.1)
    np.testing.assert_allclose(ours("cosine", steps, warmup, index="hf", floor=0.1), floored, rtol=0, atol=LIVE)


def by_optax(schedule: optax.Schedule, steps: int) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(schedule)(np.arange(steps)), np.float64)


@pytest.mark.parametrize(("steps", "warmup"), [(20, 4), (20, 0), (200, 37), (9, 8)])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_optax_warm_up_and_cosine(steps: int, warmup: int, floor: float) -> None:
    theirs = by_optax(optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps, floor), steps)
    np.testing.assert_allclose(ours("cosine", steps, warmup, index="hf", floor=floor), theirs, rtol=0, atol=LIVE)
    started = by_optax(optax.warmup_cosine_decay_schedule(0.3, 1.0, warmup, steps, floor), steps)
    same: dict[str, Any] = {"index": "hf", "floor": floor, "warmup_start": 0.3}
    np.testing.assert_allclose(ours("cosine", steps, warmup, **same), started, rtol=0, atol=LIVE)


@pytest.mark.parametrize(("steps", "warmup"), [(20, 5), (40, 10), (128, 32), (10, 1)])
@pytest.mark.parametrize(("div", "final_div"), [(25.0, 1e4), (10.0, 100.0)])
def test_optax_one_cycle(steps: int, warmup: int, div: float, final_div: float) -> None:
    schedule = optax.cosine_onecycle_schedule(steps, 1.0, warmup / steps, div, final_div)
    floor = 1 / (div * final_div)
    start: dict[str, Any] = {} if div == 25.0 else {"warmup_start": 1 / div}
    values = ours("one_cycle", steps, warmup, index="hf", floor=floor, **start)
    np.testing.assert_allclose(values, by_optax(schedule, steps), rtol=0, atol=LIVE)
    assert np.abs(ours("one_cycle", steps, warmup, floor=floor, **start) - values).max() > MISSED
