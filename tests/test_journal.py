"""The journal of a run: throughput and utilisation from a clock, and tables without repetitions."""

import dataclasses
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import resolve
from rich.console import Console

from lab import count, train
from lab.config import ExecConfig, MeshConfig, RunConfig
from lab.identity import run_id
from sweeps import plan
from sweeps.journal import Journal, JournalConfig, Table, mfu, peak
from sweeps.machine import named
from sweeps.sweep import Run
from sweeps.this_machine import here

pytestmark = pytest.mark.host

STEPS = 16


class Clock:
    """A clock that says what it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def journal(base: RunConfig, tmp_path: Path) -> tuple[Journal, Clock, RunConfig, io.StringIO]:
    """A journal of a run on four chips of a v5e, whose job only has rates."""
    config = resolve(base, schedule__steps=STEPS, data__sequences=8, dtype="bfloat16")
    run = Run(run_id(config), config, {})
    machine = named("v5e-4")
    how = ExecConfig(lanes=1, mesh=MeshConfig(lane=1, fsdp=4))
    ((unit,),) = (group.units for group in plan.plan([run], how, machine=machine))
    job: Any = SimpleNamespace(steps=STEPS, rates=2.0 ** -np.arange(1.0, STEPS + 1)[:, None])
    clock, out = Clock(), io.StringIO()
    made = Journal(
        unit,
        job,
        tmp_path,
        snapshot(0, 0),
        config=JournalConfig(seconds=10.0),
        machine=machine,
        console=Console(file=out, width=200),
        clock=clock,
    )
    return made, clock, run.config, out


def snapshot(step: int, done: int, loss: float = 2.0) -> train.Snapshot:
    """After `step` updates, of which `done` have their metrics on the host."""
    values = np.full((done, 1), loss)
    pending: Any = None if step == done else "on the device"
    state: Any = None
    return train.Snapshot(step, state, values, values, pending)


def test_throughput_and_utilisation_from_a_clock(
    journal: tuple[Journal, Clock, RunConfig, io.StringIO], tmp_path: Path
) -> None:
    """The first segment and pauses are left out; a line waits until it is time for it."""
    found, clock, config, out = journal
    for now, step, done in ((50.0, 2, 0), (60.0, 4, 2), (65.0, 6, 4), (72.0, 8, 6)):
        clock.now = now
        found.advanced(snapshot(step, done))
    with found.pause(snapshot(8, 8)):  # at 72 too: the same moment gives no rate
        clock.now = 100.0
    clock.now = 104.0
    found.advanced(snapshot(16, 16))
    (table,) = tmp_path.glob("runs/*/log.csv")
    log = pd.read_csv(table)
    assert list(log["step"]) == [2, 6, 8, 16]
    rates = [math.nan, 4 * 128 / 12.0, math.nan, 8 * 128 / 4.0]
    assert list(log["tokens_per_second"]) == pytest.approx(rates, nan_ok=True)
    per_second = rates[-1] * count.training_flops_per_token(config.model, 16)
    assert log["mfu"].iloc[-1] == pytest.approx(per_second / (4 * 197e12), rel=1e-3)
    assert "MFU -" in out.getvalue().splitlines()[0]


def test_a_share_above_the_peak_is_left_out_with_a_note(
    journal: tuple[Journal, Clock, RunConfig, io.StringIO], tmp_path: Path
) -> None:
    """0.1.0 printed MFU 172 to 547 %.  What shows that the peak is wrong leaves it out for the rest of the run."""
    found, clock, config, out = journal
    full = 4 * 197e12 / count.training_flops_per_token(config.model, 16) / 128  # updates per second at the peak
    for seconds, done in ((1.0, 2), (2 / (0.5 * full), 4), (2 / (5.4 * full), 6), (2 / (0.5 * full), 8)):
        clock.now += seconds
        found.advanced(snapshot(done, done))
    (table,) = tmp_path.glob("runs/*/log.csv")
    assert list(pd.read_csv(table)["mfu"]) == pytest.approx([math.nan, 0.5, math.nan, math.nan], nan_ok=True, rel=1e-6)
    assert out.getvalue().count("MFU is left out: 4.26e+15 FLOP/s are more than the 7.88e+14") == 1
    assert "MFU 50.0 %" in out.getvalue() and "MFU 5" not in out.getvalue().replace("MFU 50.0 %", "")


def test_a_line_has_the_mean_of_its_updates_and_the_rate_of_the_last(
    journal: tuple[Journal, Clock, RunConfig, io.StringIO], tmp_path: Path
) -> None:
    found, clock, _, _ = journal
    loss, norm = np.arange(1.0, STEPS + 1)[:, None] ** 2, np.arange(1.0, STEPS + 1)[:, None] ** 3
    state: Any = None
    for now, done in ((50.0, 2), (70.0, 7), (90.0, 16)):
        clock.now = now
        found.advanced(train.Snapshot(done, state, loss[:done], norm[:done]))
    (table,) = tmp_path.glob("runs/*/log.csv")
    log = pd.read_csv(table)
    assert list(log["step"]) == [2, 7, 16]
    updates = [slice(0, 2), slice(2, 7), slice(7, 16)]
    assert list(log["loss"]) == pytest.approx([loss[of].mean() for of in updates])
    assert list(log["grad_norm"]) == pytest.approx([norm[of].mean() for of in updates])
    assert list(log["lr"]) == pytest.approx([2.0**-2, 2.0**-7, 2.0**-16])


def test_a_diverged_run_ends_its_log(journal: tuple[Journal, Clock, RunConfig, io.StringIO], tmp_path: Path) -> None:
    found, _, _, out = journal
    found.advanced(snapshot(4, 4))
    found.advanced(snapshot(8, 8, math.nan))
    found.advanced(snapshot(16, 16))
    (table,) = tmp_path.glob("runs/*/log.csv")
    assert list(pd.read_csv(table)["step"]) == [4]
    assert "diverged" in out.getvalue()


def test_peaks_are_those_of_the_dtype_or_unknown() -> None:
    machine = named("h100-8")
    assert peak(machine, "bfloat16") == pytest.approx(machine.peak_flops.bfloat16)
    assert peak(machine, "float32") == pytest.approx(machine.peak_flops.float32)
    assert peak(machine, "float64") is None
    assert peak(dataclasses.replace(machine, name="X (unknown, figures of h100-8)"), "bfloat16") is None
    assert peak(here("cpu"), "bfloat16") is None
    config = RunConfig().resolve(vocab=256, fingerprint="x")
    assert mfu(config, 10.0, count.training_flops_per_token(config.model, 64)) == pytest.approx(10.0)


def test_rows_beyond_a_resume_point_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = Table(path, ("step", "loss"), 0)
    for step in (2, 4, 6):
        table.add(step=step, loss=0.1 * step)
    with path.open("a") as file:
        file.write("8,0.")  # cut off by a kill
    again = Table(path, ("step", "loss"), 4)
    assert again.last == 4
    again.add(step=5, loss=None)
    assert path.read_text() == "step,loss\n2,0.2\n4,0.4\n5,\n"
