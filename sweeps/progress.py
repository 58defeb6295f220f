"""Progress of a sweep on a terminal: a bar with the time left, and the best run of every cell so far."""

import math
import time
from collections.abc import Collection, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from analysis.results import SEED_AXES, axis_label, describe
from lab import train
from lab.record import Result
from sweeps import pace
from sweeps.pace import Pace
from sweeps.plan import Unit
from sweeps.sweep import Run

_QUIET_SECONDS = 15.0


class Monitor:
    """A `worker.Watcher` that draws.  On a terminal it redraws in place, elsewhere it prints a line now and then.

    The time left is that of `sweeps.pace`.  `units` are all that the runs need, `pending` those that this launch
    executes; `fixed` are axes that all runs share, which name no cell.  Without `lines` it draws only.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        done: Mapping[str, float | None],
        optimum_axis: str,
        console: Console,
        *,
        units: Sequence[Unit],
        pending: Sequence[Unit],
        fixed: Collection[str] = (),
        lines: bool = True,
    ) -> None:
        self._console, self._axis, self._lines = console, optimum_axis, lines
        self._runs = {run.run_id: run for run in runs}
        self._finished = {run_id: loss for run_id, loss in done.items() if run_id in self._runs}
        self._running: dict[str, float] = {}
        self._unnamed = {optimum_axis, *SEED_AXES, *fixed}
        self._pace = Pace(pending)
        self._total = pace.work(units)
        self._credit = self._total - pace.work(pending)
        self._partial = 0.0
        self.probe_seconds = 0.0
        self._begun = self._printed = time.perf_counter()
        self._bar = Progress(
            TextColumn("{task.fields[runs]} runs"),
            BarColumn(None),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task(
            "",
            total=self._total,
            completed=int(self._credit),
            left="starting",
            runs=f"{len(self._finished)}/{len(runs)}",
        )
        self._live = Live(self._draw(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Monitor":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, unit: Unit, step: int) -> None:
        self._partial = self._share(unit, step)
        self._pace.started(unit, step)

    def advanced(self, unit: Unit, snapshot: train.Snapshot) -> None:
        done = max(unit.begin, snapshot.loss.shape[0])
        self._partial = self._share(unit, done)
        self._pace.advanced(unit, done)
        if snapshot.loss.shape[0]:
            losses = train.smoothed(snapshot.loss)
            self._running = {
                run.run_id: float(loss)
                for stage, loss in zip(unit.stages, losses, strict=True)
                for run in stage.ending
                if math.isfinite(loss)
            }
        self._refresh()

    def measured(self, unit: Unit, seconds: float) -> None:
        del unit
        self.probe_seconds += seconds

    @property
    def seconds(self) -> float:
        """Since the launch."""
        return time.perf_counter() - self._begun

    def finished(self, unit: Unit, results: Sequence[Result]) -> None:
        self._partial, self._running = 0.0, {}
        for run, result in zip(unit.runs, results, strict=True):
            self._finished[run.run_id] = result.validation_loss
        self._credit += pace.work([unit])
        self._pace.finished(unit)
        self._refresh()

    def failed(self, unit: Unit, error: Exception) -> None:
        self._partial, self._running = 0.0, {}
        self._pace.finished(unit)
        line = str(error).strip().splitlines() or [""]
        self._console.print(f"unit {unit.unit_id} failed: {type(error).__name__}: {line[0]}", style="red")

    def _share(self, unit: Unit, step: int) -> float:
        return pace.step_work(unit) * (step - unit.begin)

    def _left(self) -> str:
        left = self._pace.left
        return "compiling" if left is None else f"{clock(left)} left"

    def _refresh(self) -> None:
        done, runs = self._credit + self._partial, f"{len(self._finished)}/{len(self._runs)}"
        self._bar.update(self._task, completed=done, left=self._left(), runs=runs)
        if self._console.is_terminal:
            self._live.update(self._draw())
        elif self._lines and time.perf_counter() - self._printed > _QUIET_SECONDS:
            self._printed = time.perf_counter()
            best = "; ".join(f"{cell} {lr}: {loss}" for cell, lr, loss in self._best())
            self._console.print(f"{runs} runs, {100 * done / self._total:.0f} %, {self._left()}; best {best}")

    def _draw(self) -> Group:
        table = Table(box=None, header_style="dim")
        for word in ("cell", f"best {axis_label(self._axis)}", "loss"):
            table.add_column(word)
        for row in self._best():
            table.add_row(*row)
        return Group(self._bar, table)

    def _best(self) -> list[tuple[str, str, str]]:
        """(cell, rate, loss) of the best run of each cell; a running one shows its smoothed training loss."""
        best: dict[str, tuple[float, Run, bool]] = {}
        for source, running in ((self._finished, False), (self._running, True)):
            for run_id, loss in source.items():
                run = self._runs.get(run_id)
                if run is None or loss is None:
                    continue
                values = {k: v for k, v in run.point.items() if k not in self._unnamed}
                cell = describe(values)
                if cell not in best or (loss < best[cell][0] and running == best[cell][2]):
                    best[cell] = (loss, run, running)
        return [
            (cell, _power(run, self._axis), f"{loss:.4f}{' (training)' if running else ''}")
            for cell, (loss, run, running) in best.items()
        ]


def clock(seconds: float) -> str:
    """`3:07`, or `1:02:07` from an hour on."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _power(run: Run, axis: str) -> str:
    value = run.point.get(axis, run.config.optimizer.lr)
    return f"2^{math.log2(value):g}" if isinstance(value, float) and value > 0 else str(value)
