"""Gradient accumulation: a batch in parts is the whole batch, and it is cut only where it does not fit."""

import dataclasses

import numpy as np
import pytest
from conftest import resolve, trained

from lab.config import ExecConfig, RunConfig
from lab.identity import run_id
from lab.memory import memory_bytes
from sweeps import plan
from sweeps.machine import Machine
from sweeps.sweep import Run
from sweeps.this_machine import here

pytestmark = pytest.mark.stack


def test_a_batch_in_parts_is_the_whole_batch(base: RunConfig) -> None:
    parts = 4
    config = resolve(base, dtype="float64")
    _, whole = trained([config])
    job, cut = trained([config], accumulate=parts)
    assert job.program.shape.accumulate == parts
    np.testing.assert_allclose(cut.loss, whole.loss, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cut.grad_norm, whole.grad_norm, rtol=0, atol=1e-12)
    for path, leaf in whole.state.params.items():
        np.testing.assert_allclose(cut.state.params[path], leaf, rtol=0, atol=1e-11)
    windows = job.validation
    np.testing.assert_allclose(
        job.program.evaluate(job.lane, cut.state, windows), job.program.evaluate(job.lane, whole.state, windows)
    )


def test_half_a_batch_is_another_run(base: RunConfig) -> None:
    """The control: the parts add up to the batch, they do not replace it."""
    _, whole = trained([resolve(base, dtype="float64")])
    _, half = trained([resolve(base, dtype="float64", data__sequences=2)])
    assert np.abs(half.loss - whole.loss).max() > 1e-3


def planned(base: RunConfig, machine: Machine | None = None, **settings: object) -> plan.Unit:
    config = resolve(base)
    settings = {"lanes": 1} | settings
    (group,) = plan.plan([Run(run_id(config), config, {})], ExecConfig(**settings), machine=machine or here("cpu"))  # type: ignore[arg-type]
    (unit,) = group.units
    return unit


def test_a_batch_is_cut_into_the_fewest_parts_that_fit(base: RunConfig) -> None:
    whole = planned(base)
    assert whole.execution.accumulate == 1
    config = resolve(base)
    needs = {
        parts: memory_bytes(config, lanes=1, strategy="map", group=1, accumulate=parts, unroll=True)
        for parts in (1, 2, 4)
    }
    assert needs[1] > needs[2] > needs[4]
    for capacity, parts in ((needs[1], 1), (needs[1] - 1, 2), (needs[2] - 1, 4), (needs[4] - 1, 1)):
        machine = dataclasses.replace(here("cpu"), usable_hbm_gib=capacity / 2**30)
        assert planned(base, machine).execution.accumulate == parts
    assert planned(base, accumulate=2).execution.accumulate == 2
    assert planned(base, accumulate=2).unit_id != whole.unit_id


def test_parts_that_do_not_divide_the_batch_are_refused(base: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"exec\.accumulate=3 does not divide data\.sequences=4: use one of its"):
        planned(base, accumulate=3)
