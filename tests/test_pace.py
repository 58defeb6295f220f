"""The time that is left, on a clock: what the last stretch took, compiles apart."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from conftest import resolve
from rich.console import Console

from lab import train
from lab.config import ExecConfig, RunConfig
from lab.identity import run_id
from sweeps import pace, plan
from sweeps.pace import Pace
from sweeps.plan import Unit
from sweeps.progress import Monitor
from sweeps.sweep import Run
from sweeps.this_machine import here

pytestmark = pytest.mark.host

STEPS, SEGMENT = 60, 10
COMPILE, OPENING, CLOSING = 40.0, 2.0, 3.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def units(base: RunConfig) -> list[Unit]:
    """Two programs of three units each, a lane in every unit."""
    configs = [
        resolve(base, model__width=width, schedule__steps=STEPS, optimizer__lr=rate)
        for width in (16, 32)
        for rate in (2.0**-8, 2.0**-7, 2.0**-6)
    ]
    runs = [Run(run_id(config), config, {}) for config in configs]
    groups = plan.plan(runs, ExecConfig(lanes=1), machine=here("cpu"))
    found = [unit for group in groups for unit in group.units]
    assert len(groups) == 2 and len(found) == 6
    return found


def told(
    found: Pace, clock: Clock, units: list[Unit], speeds: Any, *, begin: int = 0
) -> list[tuple[float, float | None]]:
    """(now, left) after every event of a launch in which an update takes `speeds(now)` seconds per work."""
    said = []
    for number, unit in enumerate(units):
        first = number % 3 == 0
        step = begin if number == 0 else 0
        clock.now += (COMPILE if first else 0.0) + OPENING
        found.started(unit, step)
        found.advanced(unit, step)
        for done in range(step + SEGMENT, STEPS, SEGMENT):
            clock.now += speeds(clock.now) * SEGMENT * pace.step_work(unit)
            found.advanced(unit, done)
            said.append((clock.now, found.left))
        rest = SEGMENT * pace.step_work(unit) + pace.evaluation_work(unit)
        clock.now += speeds(clock.now) * rest + CLOSING
        found.finished(unit)
        said.append((clock.now, found.left))
    return said


def test_the_time_left_is_right_once_a_program_has_been_seen(units: list[Unit]) -> None:
    clock = Clock()
    rate = 10.0 / pace.work(units[:1])
    found = Pace(units, clock)
    assert found.left is None
    said = told(found, clock, units, lambda _: rate)
    end = clock.now
    assert found.left == 0.0
    for now, left in said[:-1]:
        assert left == pytest.approx(end - now, rel=0.3)
    for now, left in said[12:-1]:  # from the end of the second unit on, what a unit's begin and end take has been seen
        assert left == pytest.approx(end - now, rel=0.1)
    first, _ = said[0]
    # The control is 0.1.0's rule: all seconds since the launch, compiles included, over the work done.
    old = first * (pace.work(units) / (SEGMENT * pace.step_work(units[0])) - 1)
    assert old > 5 * (end - first)


def test_a_machine_that_becomes_busy_is_noticed_within_the_window(units: list[Unit]) -> None:
    clock, rate = Clock(), 300.0 / pace.work(units[:1])
    busy = 200.0
    said = told(Pace(units, clock), clock, units, lambda now: rate * (3.0 if now > busy else 1.0))
    end = clock.now
    seen = [(now, left) for now, left in said if now > busy + 3 * pace.WINDOW]
    assert len(seen) > 10
    for now, left in seen[:-1]:
        assert left is not None and abs(left - (end - now)) < 0.3 * (end - now) + 1.0
    before = [left for now, left in said if now < busy]
    assert before and all(left is not None and left < 0.6 * (end - busy) for left in before)  # nobody can know


def test_updates_of_an_earlier_launch_are_not_counted_as_made_now(units: list[Unit]) -> None:
    clock, rate = Clock(), 10.0 / pace.work(units[:1])
    said = told(Pace(units, clock), clock, units, lambda _: rate, begin=STEPS - 2 * SEGMENT)
    now, left = said[0]
    assert left == pytest.approx(clock.now - now, rel=0.3)


def test_a_unit_that_failed_is_not_waited_for(units: list[Unit]) -> None:
    clock, rate = Clock(), 10.0 / pace.work(units[:1])
    found = Pace(units, clock)
    told(found, clock, units[:3], lambda _: rate)
    before = found.left
    for unit in units[3:]:
        found.finished(unit)
    assert before and found.left == 0.0


def test_a_monitor_says_compiling_until_updates_are_done(units: list[Unit]) -> None:
    """A segment that is on its way is no progress: 0.1.0 said hours from it."""
    out = io.StringIO()
    monitor = Monitor(
        [run for unit in units for run in unit.runs],
        {},
        "optimizer.lr",
        Console(file=out, width=200),
        units=units,
        pending=units,
    )
    monitor._printed = -1e9  # a line is due
    state: Any = None
    pending: Any = "on the device"
    empty = np.zeros((0, 1))
    monitor.started(units[0], 0)
    monitor.advanced(units[0], train.Snapshot(4, state, empty, empty, pending))
    assert "0/6 runs, 0 %, compiling; best" in out.getvalue()
    monitor._printed = -1e9
    values = np.full((4, 1), 2.0)
    monitor.advanced(units[0], train.Snapshot(20, state, values, values, pending))
    assert " left; best " in out.getvalue() and "2.0000 (training)" in out.getvalue()


def test_what_all_runs_share_names_no_cell(units: list[Unit]) -> None:
    point = {"model.width": 16, "evaluation.sequences": 64, "optimizer.lr": 2.0**-8}
    runs = [dataclasses.replace(run, point=point) for run in units[0].runs]
    for fixed, cell in ((("evaluation.sequences",), "width 16"), ((), "width 16, sequences 64")):
        monitor = Monitor(
            runs, {runs[0].run_id: 2.0}, "optimizer.lr", Console(), units=units, pending=units, fixed=fixed
        )
        assert [name for name, _, _ in monitor._best()] == [cell]
