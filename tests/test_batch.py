"""Batches are a pure function of (seed, step), and an epoch visits every window once."""

import numpy as np
import pytest

from lab import batch

pytestmark = pytest.mark.host

PINNED = [[575, 359, 735, 647], [271, 687, 23, 399]]


def positions(seed: int, begin: int, steps: int, **changes: int) -> np.ndarray:
    return batch.starts(seed, begin=begin, steps=steps, **({"sequences": 4, "length": 8, "tokens": 1000} | changes))


def test_a_batch_depends_on_its_seed_and_step_alone() -> None:
    whole = positions(3, 0, 100)
    np.testing.assert_array_equal(positions(3, 40, 7), whole[40:47])
    np.testing.assert_array_equal(positions(3, 0, 100), whole)
    assert (positions(4, 0, 100) != whole).any()


def test_positions_are_pinned() -> None:
    """The data order is part of a run's numbers: it may not change between versions or machines."""
    assert positions(0, 0, 2).tolist() == PINNED


def test_an_epoch_visits_every_window_once() -> None:
    count = batch.window_count(1000, 8)
    steps = count // 4
    seen = positions(1, 0, steps).ravel()
    assert count == 124
    assert len(set(seen.tolist())) == count
    assert len(set((seen % 8).tolist())) == 1  # one phase per epoch
    assert 0 <= seen.min()
    assert seen.max() + 9 <= 1000


def test_epochs_differ_in_order_and_phase() -> None:
    steps = batch.window_count(1000, 8) // 4
    epochs = [positions(1, steps * epoch, steps) for epoch in range(6)]
    assert all((epochs[0] != other).any() for other in epochs[1:])
    assert len({int(found[0, 0] % 8) for found in epochs}) > 2


@pytest.mark.parametrize("tokens", [16, 17, 23, 24, 25, 31, 100, 1009])
@pytest.mark.parametrize("seed", range(5))
def test_windows_never_leave_the_stream(tokens: int, seed: int) -> None:
    found = positions(seed, 0, 50, tokens=tokens)
    assert found.min() >= 0
    assert found.max() + 9 <= tokens


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 100, 255, 256, 257, 5000])
def test_the_shuffle_is_a_permutation(count: int) -> None:
    found = batch.shuffled(np.arange(count), count, np.uint64(7))
    assert sorted(found.tolist()) == list(range(count))


def test_the_shuffle_looks_random() -> None:
    found = batch.shuffled(np.arange(10_000), 10_000, np.uint64(7))
    assert abs(np.corrcoef(np.arange(10_000), found)[0, 1]) < 0.05
    assert (np.diff(found) == 1).mean() < 0.002


def test_huge_positions_do_not_overflow() -> None:
    found = positions(0, 10**15, 2, tokens=10**13)
    assert (found >= 0).all()
    assert (found < 10**13).all()


def test_a_stream_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="data.length=8 needs at least 16 training tokens, and the corpus has 15"):
        positions(0, 0, 1, tokens=15)


def test_validation_windows_do_not_overlap() -> None:
    found = batch.validation_starts(1000, 8, 100)
    assert (np.diff(found) >= 8).all()
    assert found[-1] + 9 <= 1000
    with pytest.raises(ValueError, match="evaluation.sequences=125 of 8 tokens do not fit .* use at most 124"):
        batch.validation_starts(1000, 8, 125)
