"""Lanes and resume: what must be bitwise is bitwise, and what is not is within a stated tolerance."""

import functools
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import assert_bitwise, job_of, resolve, trained

from lab import batch, checkpoint, corpus, train
from lab.config import RunConfig
from lab.program import Batches

pytestmark = pytest.mark.stack

RATES = (2.0**-8, 2.0**-7, 2.0**-6, 2.0**-5)
STRATEGIES = [{"strategy": "map"}, {"strategy": "vmap"}, {"strategy": "both"}]


def runs_of(base: RunConfig, **changes: object) -> list[RunConfig]:
    return [resolve(base, optimizer__lr=lr, **changes) for lr in RATES]


def equal(a, b) -> bool:
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.exact
@pytest.mark.parametrize("settings", STRATEGIES, ids=str)
def test_rerun_is_bitwise(base: RunConfig, settings: dict[str, object]) -> None:
    (_, one), (_, two) = (trained(runs_of(base), lanes=4, **settings) for _ in range(2))
    assert equal(one.state, two.state)
    np.testing.assert_array_equal(one.loss, two.loss)


@pytest.mark.exact
@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_initial_values_are_those_of_the_default_compiler_level(base: RunConfig, strategy: str) -> None:
    job = job_of(runs_of(base, seed_init=3), lanes=4, strategy=strategy)
    program = job.program
    plain = jax.jit(program.over_lanes(program._init_lane))(job.lane)
    if os.environ.get("LRLAB_TEST_EXACT"):  # level 0, which other tests run at, fuses less and rounds otherwise
        assert equal(program.init(job.lane), plain)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), program.init(job.lane), plain)


def test_a_job_compiles_its_segment_once_beside_its_initial_values(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment that is compiled ahead is the one that is called, from a corpus on the device or fed by the host."""
    compiled: Counter[str] = Counter()

    def count(event: str, _: float, **what: str) -> None:
        if event.endswith("backend_compile_duration"):
            compiled[what["fun_name"]] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    for small, sequences in ((train.DEVICE_BYTES, 2), (0, 3)):
        monkeypatch.setattr(train, "DEVICE_BYTES", small)
        train._on_device.cache_clear()
        job = job_of([resolve(base, data__sequences=sequences)], segment=3)
        begun = train.start(job)
        name = next(name for name in compiled if "segment" in name)
        assert compiled[name] == 1
        for _ in train.train(job, begun):
            pass
        assert compiled.pop(name) == 1
    train._on_device.cache_clear()


@pytest.mark.exact
@pytest.mark.parametrize("settings", STRATEGIES, ids=str)
def test_permuting_lanes_permutes_results_bitwise(base: RunConfig, settings: dict[str, object]) -> None:
    order = [2, 0, 3, 1]
    runs = runs_of(base)
    _, straight = trained(runs, lanes=4, **settings)
    _, permuted = trained([runs[i] for i in order], lanes=4, **settings)
    np.testing.assert_array_equal(permuted.loss, straight.loss[:, order])


@pytest.mark.exact
@pytest.mark.parametrize("settings", STRATEGIES, ids=str)
def test_padding_to_the_same_width_changes_nothing(base: RunConfig, settings: dict[str, object]) -> None:
    _, full = trained(runs_of(base), lanes=4, **settings)
    _, padded = trained(runs_of(base)[:3], lanes=4, **settings)
    np.testing.assert_array_equal(padded.loss, full.loss[:, :3])


@pytest.mark.exact
@pytest.mark.parametrize("settings", STRATEGIES, ids=str)
def test_a_diverged_neighbour_changes_nothing_and_is_recorded(base: RunConfig, settings: dict[str, object]) -> None:
    runs = runs_of(base, optimizer__clip=None)
    wild = resolve(runs[1], optimizer__lr=1e30)
    job, mixed = trained([runs[0], wild, *runs[2:]], lanes=4, **settings)
    _, plain = trained(runs, lanes=4, **settings)
    calm = [0, 2, 3]
    np.testing.assert_array_equal(mixed.loss[:, calm], plain.loss[:, calm])
    results = train.finish(job, mixed)
    assert [result.status for result in results] == ["done", "diverged", "done", "done"]
    diverged = results[1]
    assert diverged.validation_loss is None
    assert diverged.diverged_step is not None
    assert 0 < diverged.diverged_step < 4
    assert diverged.last_finite_loss is not None
    assert math.isfinite(diverged.last_finite_loss)
    assert all(np.isfinite(leaf[1]).all() for leaf in jax.tree.leaves(mixed.state.params))


@pytest.mark.exact
def test_solo_agrees_with_its_lane(base: RunConfig) -> None:
    """Not bitwise by nature: 1e-5 nats at sane rates over 12 steps."""
    runs = runs_of(base)
    _, solo = trained(runs[:1], lanes=1, strategy="vmap")
    for settings in STRATEGIES:
        _, together = trained(runs, lanes=4, **settings)
        np.testing.assert_allclose(together.loss[:, 0], solo.loss[:, 0], rtol=0, atol=1e-5)


def test_one_compile_for_many_rates_schedules_and_parametrizations(base: RunConfig) -> None:
    job = job_of(runs_of(base, parametrization__name="sp"), lanes=4)
    segment: Any = job.program._segment
    before = segment._cache_size()
    for _ in train.train(job, train.start(job)):
        pass
    others = [
        resolve(base, optimizer__lr=0.1, schedule__kind="cosine", schedule__decay_steps=None),
        resolve(base, parametrization__name="mup", optimizer__beta2=0.9, optimizer__weight_decay=0.1),
        resolve(base, optimizer__clip=None, optimizer__eps=1e-3, seed=3, optimizer__decay="independent"),
        resolve(base, schedule__kind="power", schedule__decay_shape="exponential", schedule__index="olmo_core"),
    ]
    other = job_of(others, lanes=4)
    assert other.program is job.program
    for _ in train.train(other, train.start(other)):
        pass
    assert segment._cache_size() - before <= 2  # one for one data stream, one for two


@pytest.mark.exact
@pytest.mark.parametrize("settings", STRATEGIES[:2], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resume_from_a_checkpoint_is_bitwise(
    base: RunConfig, tmp_path: Path, settings: dict[str, object], dtype: str
) -> None:
    runs = runs_of(base, dtype=dtype)
    _, straight = trained(runs, lanes=4, **settings)
    job = job_of(runs, lanes=4, **settings)
    first = next(iter(train.train(job, train.start(job)))).settled()
    assert 0 < first.step < job.steps
    checkpoint.save(tmp_path, "here", first.state)
    with job.program.context():
        state = checkpoint.restore(tmp_path, "here", train.start(job).state)
    resumed = train.Snapshot(first.step, state, first.loss, first.grad_norm)
    for snapshot in train.train(job, resumed):
        resumed = snapshot
    resumed = resumed.settled()
    assert equal(resumed.state, straight.state)
    np.testing.assert_array_equal(resumed.loss, straight.loss)


@pytest.mark.exact
def test_segments_of_any_length_agree_bitwise(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = trained(runs_of(base), lanes=4)
    monkeypatch.setattr(train, "SEGMENT_SECONDS", 1e-9)  # one step per segment
    job = job_of(runs_of(base), lanes=4)
    snapshots = list(train.train(job, train.start(job)))
    assert len(snapshots) > 6
    np.testing.assert_array_equal(snapshots[-1].settled().loss, plain.loss)


@pytest.mark.exact
def test_host_fed_batches_equal_device_gathered_ones(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [resolve(base, seed=seed) for seed in (0, 1)]
    _, gathered = trained(runs, lanes=4)
    monkeypatch.setattr(train, "DEVICE_BYTES", 0)
    job, fed = trained(runs, lanes=4)
    assert isinstance(job.feed.batches(0), Batches)
    assert job.feed.batches(0).tokens is None
    assert_bitwise(fed.loss, gathered.loss)


@pytest.mark.exact
def test_runs_that_agree_up_to_a_step_are_bitwise_equal_up_to_it(base: RunConfig) -> None:
    """A short and a long WSD run share their stable phase; after the short one's decay begins they part."""
    long = resolve(base, schedule__steps=24, schedule__decay_steps=8)
    (_, short_run), (_, long_run) = trained([resolve(base)] * 2, lanes=4), trained([long] * 2, lanes=4)
    np.testing.assert_array_equal(short_run.loss[:10], long_run.loss[:10])  # update 8 is the last at the peak
    assert (short_run.loss[10:] != long_run.loss[10:12]).any()


def test_metrics_come_one_segment_late(base: RunConfig) -> None:
    job = job_of(runs_of(base), lanes=4)
    seen = [(snapshot.step, snapshot.loss.shape[0]) for snapshot in train.train(job, train.start(job))]
    assert seen[0][1] == 0
    assert [late for _, late in seen[1:]] == [step for step, _ in seen[:-1]]


def test_lanes_of_one_seed_see_one_batch(base: RunConfig) -> None:
    job = job_of([resolve(base, seed_data=seed, seed_init=1) for seed in (0, 5, 0)], lanes=4)
    assert job.lane.data.tolist() == [0, 1, 0, 0]
    assert job.lane.active.tolist() == [True, True, True, False]
    starts = np.asarray(job.feed.batches(0).starts)
    text = corpus.load(base.data).train
    for stream, seed in enumerate((0, 5)):
        expected = batch.starts(seed, begin=0, steps=64, sequences=4, length=16, tokens=text.size)
        np.testing.assert_array_equal(starts[:, stream], expected)


def test_runs_of_different_programs_cannot_share_a_unit(base: RunConfig) -> None:
    with pytest.raises(ValueError, match="share one program"):
        job_of([resolve(base), resolve(base, model__width=32)])
