"""Schedules at golden points (family `lab`: shifted warm-up, decay from the first decay step)."""

import numpy as np
import pytest
from conftest import resolve

from lab.config import RunConfig, ScheduleConfig
from lab.piece import decay_shape
from lab.schedule import decays, factors, rates


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


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
def test_shapes_fall_from_one_to_zero(shape: str) -> None:
    values = decay_shape(shape, np.linspace(0, 1, 50))
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-15)
    assert (np.diff(values) < 0).all()


def test_coupled_decay_follows_the_rate_and_independent_does_not(base: RunConfig) -> None:
    def removed(lr: float, decay: str) -> np.ndarray:
        return decays(resolve(base, optimizer__lr=lr, optimizer__decay=decay, optimizer__weight_decay=0.1))

    np.testing.assert_allclose(removed(0.2, "coupled"), 2 * removed(0.1, "coupled"))
    np.testing.assert_array_equal(removed(0.2, "independent"), removed(0.1, "independent"))
    assert rates(resolve(base)).dtype == np.float64
