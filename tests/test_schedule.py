"""Schedules at golden points (family `lab`: shifted warm-up, decay from the first decay step)."""

import typing
from typing import Any

import numpy as np
import pytest
from conftest import resolve, trained

from lab.config import RunConfig, ScheduleConfig
from lab.config.schedule import Kind
from lab.convention import CONVENTIONS, lacking
from lab.piece import decay_shape
from lab.schedule import boundaries, decays, factors, pieces, rates, values

KINDS = typing.get_args(Kind)


def schedule(kind: str, **fields: object) -> ScheduleConfig:
    return ScheduleConfig(kind=kind, steps=20, warmup_steps=4, **fields).resolve(1)  # type: ignore[arg-type]


# T = 20, W = 4, D = 5, floor 0: the vectors that torchtitan's scheduler gives for the same numbers, to four decimals.
GOLDEN = [
    ("wsd", {"decay_steps": 5}, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 14: 1, 15: 1, 16: 0.8, 17: 0.6, 18: 0.4, 19: 0.2}),
    ("wsd", {"decay_steps": 5, "decay_shape": "sqrt"}, {15: 1, 16: 0.5528, 17: 0.3675, 18: 0.2254, 19: 0.1056}),
    ("wsd", {"decay_steps": 5, "decay_shape": "cosine"}, {15: 1, 16: 0.9045, 17: 0.6545, 18: 0.3455, 19: 0.0955}),
    ("cosine", {}, {0: 0.25, 3: 1, 4: 1, 5: 0.9904, 10: 0.6913, 15: 0.2222, 18: 0.0381, 19: 0.0096}),
    ("linear", {}, {0: 0.25, 3: 1, 4: 1, 5: 0.9375, 10: 0.625, 15: 0.3125, 18: 0.125, 19: 0.0625}),
    ("constant", {}, {0: 0.25, 3: 1, 4: 1, 19: 1}),
    ("inverse_sqrt", {}, {0: 0.25, 3: 1, 4: 1, 5: 0.8944, 10: 0.6325, 19: 0.4588}),
]


@pytest.mark.parametrize(("kind", "fields", "points"), GOLDEN)
def test_golden_points(kind: str, fields: dict[str, object], points: dict[int, float]) -> None:
    values = factors(schedule(kind, **fields))
    assert values.shape == (20,)
    for index, value in points.items():
        assert values[index] == pytest.approx(value, abs=5e-5)


def test_torchtitan_own_vector() -> None:
    values = factors(ScheduleConfig(kind="wsd", steps=10, warmup_steps=2, decay_steps=5).resolve(1))
    np.testing.assert_allclose(values, [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2], rtol=0, atol=1e-15)


def test_floor_is_a_ratio_to_the_peak() -> None:
    values = factors(schedule("wsd", decay_steps=5, floor=0.1))
    np.testing.assert_allclose(values[15:], 0.1 + 0.9 * np.array([1, 0.8, 0.6, 0.4, 0.2]), atol=1e-15)


def test_no_decay_is_constant() -> None:
    np.testing.assert_array_equal(factors(schedule("wsd", decay_steps=0)), factors(schedule("constant")))


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize(
    ("steps", "warmup", "decay"), [(1, 0, 0), (1, 0, 1), (5, 5, 0), (6, 0, 6), (7, 3, 4), (9, 0, 1)]
)
def test_zero_length_phases(kind: str, steps: int, warmup: int, decay: int) -> None:
    fields = {"decay_steps": decay} if kind == "wsd" else {}
    values = factors(ScheduleConfig(kind=kind, steps=steps, warmup_steps=warmup, **fields).resolve(1))  # type: ignore[arg-type]
    assert np.isfinite(values).all()
    assert (values > 0).all()
    assert values.max() == pytest.approx(1.0)


def test_a_part_is_a_slice_of_the_whole() -> None:
    whole = factors(schedule("wsd", decay_steps=5))
    np.testing.assert_array_equal(factors(schedule("wsd", decay_steps=5), 3, 17), whole[3:17])


def test_the_stable_phase_does_not_depend_on_the_horizon() -> None:
    short = factors(ScheduleConfig(kind="wsd", steps=20, warmup_steps=4, decay_steps=5).resolve(1))
    long = factors(ScheduleConfig(kind="wsd", steps=80, warmup_steps=4, decay_steps=20).resolve(1))
    np.testing.assert_array_equal(short[:16], long[:16])


def test_steps_beyond_int32_do_not_overflow() -> None:
    huge = ScheduleConfig(kind="wsd", steps=10**12, warmup_steps=10, decay_steps=10**11).resolve(1)
    assert factors(huge, 10**12 - 1, 10**12)[0] == pytest.approx(1e-11, rel=1e-6)


# x: linear, cosine, sqrt, exponential (Power's authors), exponential (Megatron-LM)
SHAPES = {
    0.1: (0.9, 0.9755, 0.6838, 0.8495, 0.8661),
    0.2: (0.8, 0.9045, 0.5528, 0.7132, 0.7411),
    0.4: (0.6, 0.6545, 0.3675, 0.4785, 0.5157),
    0.5: (0.5, 0.5, 0.2929, 0.3775, 0.4142),
    0.6: (0.4, 0.3455, 0.2254, 0.2862, 0.3195),
    0.8: (0.2, 0.0955, 0.1056, 0.1289, 0.1487),
    0.9: (0.1, 0.0245, 0.0513, 0.0612, 0.0718),
}
SHAPE_NAMES = ("linear", "cosine", "sqrt", "exponential", "exponential_megatron")


@pytest.mark.parametrize("x", SHAPES)
def test_shapes_at_points(x: float) -> None:
    found = [float(decay_shape(name, np.array(x))) for name in SHAPE_NAMES]
    np.testing.assert_allclose(found, SHAPES[x], rtol=0, atol=5e-5)


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_shapes_fall_from_one_to_zero(shape: str) -> None:
    values = decay_shape(shape, np.linspace(0, 1, 50))
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-15)
    assert (np.diff(values) < 0).all()


def test_inverse_square_root_with_and_without_a_decay() -> None:
    values = factors(schedule("inverse_sqrt"))
    np.testing.assert_allclose(values[4:], np.sqrt(4 / np.arange(4, 20)), rtol=1e-15)
    decayed = factors(schedule("inverse_sqrt", decay_steps=5))
    np.testing.assert_array_equal(decayed[:15], values[:15])
    np.testing.assert_allclose(decayed[15:], np.sqrt(4 / 15) * np.array([1, 0.8, 0.6, 0.4, 0.2]), rtol=1e-14)


def test_one_cycle_rises_from_a_25th_in_a_cosine_unless_asked() -> None:
    values = factors(schedule("one_cycle"))
    rising = 0.04 + 0.96 * 0.5 * (1 - np.cos(np.pi * np.array([1, 2, 3, 4]) / 4))
    np.testing.assert_allclose(values[:4], rising, atol=1e-15)
    np.testing.assert_array_equal(values[4:], factors(schedule("cosine"))[4:])
    assert factors(schedule("one_cycle", warmup_start=0.5))[0] > 0.5 > values[0]


def test_megatron_s_exponential_is_written_out() -> None:
    resolved = schedule("wsd", decay_steps=5, decay_shape="exponential", index="megatron")
    assert resolved.decay_shape == "exponential_megatron"
    assert schedule("wsd", decay_steps=5, decay_shape="exponential").decay_shape == "exponential"


def cycles(steps: int, **fields: object) -> ScheduleConfig:
    return ScheduleConfig(kind="wsd_s", steps=steps, warmup_steps=2, **fields).resolve(10)  # type: ignore[arg-type]


def test_every_cycle_decays_and_returns_to_the_peak_at_once() -> None:
    values = factors(cycles(30, cycle_steps=(10, 20), decay_fraction=0.4, floor=0.2))
    falling = [1, 0.8, 0.6, 0.4]
    np.testing.assert_allclose(values, [0.5, *[1] * 5, *falling, *([1] * 6 + falling) * 2], atol=1e-15)


def test_without_earlier_cycles_it_is_wsd() -> None:
    wsd = ScheduleConfig(kind="wsd", steps=30, warmup_steps=2, decay_steps=7).resolve(10)
    np.testing.assert_array_equal(factors(cycles(30, decay_steps=7)), factors(wsd))
    np.testing.assert_array_equal(factors(cycles(30, decay_steps=7, cycle_steps=())), factors(wsd))


def test_a_budget_s_cycles_are_the_beginning_of_the_next_budget_s() -> None:
    long = cycles(70, cycle_steps=(10, 30), decay_fraction=0.2)
    assert long.cycle_decays == (2, 4)
    assert long.decay_steps == 8
    short = cycles(30, cycle_steps=(10,), decay_steps=4, cycle_decays=(2,))
    np.testing.assert_array_equal(factors(long)[:30], factors(short))
    from_scratch = ScheduleConfig(kind="wsd", steps=30, warmup_steps=2, decay_steps=4).resolve(10)
    assert np.abs(factors(from_scratch) - factors(short)).max() > 0.1


def test_cycles_in_tokens_and_fractions_resolve_alike() -> None:
    exact = cycles(50, cycle_steps=(10, 20), decay_steps=3)
    assert cycles(50, cycle_tokens=(109, 200), decay_tokens=39) == exact
    assert cycles(50, cycle_fractions=(0.2, 0.4), decay_steps=3) == exact
    assert exact.resolve(10) == exact


@pytest.mark.exact
def test_runs_with_cycles_agree_bitwise_as_long_as_their_cycles_do(base: RunConfig) -> None:
    settings: dict[str, Any] = {"schedule__kind": "wsd_s", "schedule__decay_steps": 2, "schedule__cycle_steps": (5,)}
    short = resolve(base, **settings, schedule__steps=9)
    long = resolve(base, **settings | {"schedule__cycle_steps": (5, 9)}, schedule__steps=12)
    other = resolve(base, schedule__decay_steps=2, schedule__steps=9)
    nine, twelve = (trained(configs, lanes=2)[1].loss for configs in ([short, other], [long]))
    np.testing.assert_array_equal(nine[:, 0], twelve[:9, 0])
    assert (nine[:, 0] != nine[:, 1]).any()


def test_boundaries_are_where_phases_begin_and_end() -> None:
    assert boundaries(schedule("wsd", decay_steps=5)) == (4, 15, 20)
    assert boundaries(schedule("wsd", decay_steps=0)) == (4, 20)
    assert boundaries(schedule("wsd", decay_steps=16)) == (4, 20)
    assert boundaries(schedule("cosine")) == boundaries(schedule("constant")) == (4, 20)
    assert boundaries(schedule("power", decay_steps=5)) == boundaries(schedule("inverse_sqrt", decay_steps=5))
    assert boundaries(cycles(30, cycle_steps=(10, 20), decay_steps=4)) == (2, 6, 10, 16, 20, 26, 30)
    assert boundaries(ScheduleConfig(kind="wsd", steps=1, decay_steps=1).resolve(1)) == (1,)


def random_schedule(rng: np.random.Generator) -> ScheduleConfig:
    kind, index = str(rng.choice(KINDS)), str(rng.choice(list(CONVENTIONS)))
    while index in lacking(kind):
        index = str(rng.choice(list(CONVENTIONS)))
    steps = int(rng.integers(1, 60))
    warmup = int(rng.integers(0, steps + 1)) * int(rng.integers(0, 2))
    fields: dict[str, Any] = {}
    decaying = kind in ("wsd", "wsd_s") or (kind in ("power", "inverse_sqrt") and index == "lab")
    if decaying:
        fields["decay_steps"] = int(rng.integers(0, steps - warmup + 1))
        fields["decay_shape"] = str(rng.choice(SHAPE_NAMES))
    if kind == "wsd_s" and warmup + 1 < steps:
        fields["cycle_steps"] = (int(rng.integers(max(1, warmup), steps)),)
        room = steps - fields["cycle_steps"][0]
        fields["decay_steps"] = min(fields["decay_steps"], room)
        fields["cycle_decays"] = (int(rng.integers(0, fields["cycle_steps"][0] - warmup + 1)),)
    if not (kind == "inverse_sqrt" and index == "hf"):
        fields["floor"] = float(rng.uniform()) * int(rng.integers(0, 2))
    if kind != "one_cycle":
        fields["warmup_shape"] = str(rng.choice(["linear", "cosine", "sqrt"]))
    return ScheduleConfig(kind=kind, index=index, steps=steps, warmup_steps=warmup, **fields).resolve(1)  # type: ignore[arg-type]


def wrong(values: np.ndarray) -> bool:
    return not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all())


def test_random_schedules_stay_between_zero_and_one() -> None:
    """Also in between the updates and after the end; only conventions that say so waste a whole update at rate 0."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(1000):
        config = random_schedule(rng)
        law = float(10.0 ** rng.uniform(-3, 3))
        assert config.steps is not None
        found = factors(config, 0, config.steps + 7, law=law)
        fine = values(pieces(config, law), np.linspace(0, config.steps, 97))
        assert not wrong(found), config
        assert not wrong(fine), config
        assert (found[config.steps :] == found[-1]).all(), config
        assert config.resolve(1) == config
        if config.index in ("lab", "torchtitan"):
            assert (found[: config.steps] > 0).all(), config
        seen.add((config.kind, config.index))
    assert len(seen) == sum(len(CONVENTIONS) - len(lacking(kind)) for kind in KINDS)


def test_the_property_would_see_what_other_code_does() -> None:
    """An exponential that is not cut at its end, a power of no tokens, and 32 bits of tokens."""
    assert wrong((np.exp(1.0 - np.array([0.5, 1.2])) - 1) / (np.e - 1))
    with np.errstate(divide="ignore"):
        assert wrong(np.array([0.0]) ** -0.51)
    with np.errstate(over="ignore", invalid="ignore"):
        assert wrong((np.array([512], np.int32) * np.int32(1024 * 4096)).astype(np.float64) ** -0.51)


def test_coupled_decay_follows_the_rate_and_independent_does_not(base: RunConfig) -> None:
    def removed(lr: float, decay: str) -> np.ndarray:
        return decays(resolve(base, optimizer__lr=lr, optimizer__decay=decay, optimizer__weight_decay=0.1))

    np.testing.assert_allclose(removed(0.2, "coupled"), 2 * removed(0.1, "coupled"))
    np.testing.assert_array_equal(removed(0.2, "independent"), removed(0.1, "independent"))
    assert rates(resolve(base)).dtype == np.float64


@pytest.mark.parametrize("sequences", [4, 64])
def test_power_follows_the_tokens_and_the_batch(base: RunConfig, sequences: int) -> None:
    """Eq. 7 by hand: `min(cap, beta a n^b)` after n tokens, beta the batch in sequences of 4,096 tokens."""
    run = resolve(
        base,
        optimizer__lr=0.05,
        schedule__kind="power",
        schedule__steps=40,
        schedule__warmup_steps=0,
        schedule__decay_steps=None,
        data__sequences=sequences,
        data__length=16,
    )
    tokens = 16 * sequences
    wanted = [min(0.05, tokens / 4096 * 4 * (tokens * max(update, 1)) ** -0.51) for update in range(40)]
    np.testing.assert_allclose(rates(run), wanted, rtol=1e-12)
    assert wanted[-1] < 0.05  # it leaves its cap
