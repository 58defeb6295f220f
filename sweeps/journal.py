"""The journal of one run: its log and its validation along the way, on a terminal and as tables in the store.

Model FLOPs utilisation is `MFU = tokens/s * FLOPs per token / (devices * peak FLOP/s of a device)` with
`lab.count.training_flops_per_token`: `6 (N_matrices + d V) + 12 L T a`, attention over all T positions; what is
computed again (`exec.remat`) does not count.  Source: PaLM (arXiv 2204.02311), appendix B.  A share above 1 shows that
the peak is not this device's (a CPU's is measured, and a busy one measures low): it is left out from there on, with a
note.

Throughput is measured between waits for the devices: compiles, the first segment, validation and checkpoints are left
out.  Tables belong to the updates that the run has made: rows beyond a resume point are dropped when it is resumed.
"""

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lab import count, group, store, train
from lab.config import RunConfig
from lab.record import Result
from sweeps.machine import Machine
from sweeps.plan import Unit

LOG = ("step", "tokens", "loss", "grad_norm", "lr", "tokens_per_second", "mfu", "memory_bytes", "time")
VALIDATION = ("step", "tokens", "loss", "standard_error")


@dataclass(frozen=True)
class JournalConfig:
    """A line at most every `seconds`, and a validation every `validate_every` updates (None: at the end only)."""

    seconds: float = 10.0
    validate_every: int | None = None


def peak(machine: Machine, dtype: str) -> float | None:
    """FLOP/s of one device for a dtype; None where no figure is known for it."""
    known = {"float32": machine.peak_flops.float32, "bfloat16": machine.peak_flops.bfloat16}.get(dtype)
    return machine.peak(dtype) / machine.devices if known and "unknown" not in machine.name else None


def mfu(config: RunConfig, tokens_per_second: float, peak_flops: float) -> float:
    """Share of the peak that the model's own FLOPs take (the module's formula)."""
    return tokens_per_second * count.training_flops_per_token(config.model, config.data.length) / peak_flops


class Table:
    """A CSV file with a column `step`, which rows are added to; rows beyond update `begin` are dropped at first."""

    def __init__(self, path: Path, columns: Sequence[str], begin: int) -> None:
        self._path, self._columns = path, tuple(columns)
        kept = [row for row in _rows(path, self._columns) if int(row[0]) <= begin]
        self.last = int(kept[-1][0]) if kept else 0
        store.write_atomic(path, _text([self._columns, *kept]).encode())

    def add(self, **values: Any) -> None:
        """Add a row; None is an empty cell, and floats keep every digit."""
        self.last = values["step"]
        if group.leader():
            with self._path.open("a") as file:
                file.write(_text([["" if values[name] is None else values[name] for name in self._columns]]))


class Journal:
    """Goes along with a unit of one run (`worker.Follower`), from the snapshot that its training starts from."""

    def __init__(
        self,
        unit: Unit,
        job: train.Job,
        root: Path,
        begin: train.Snapshot,
        *,
        config: JournalConfig,
        machine: Machine,
        console: Console,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        (run,) = unit.runs
        every = config.validate_every
        self.stops: Sequence[int] = range(every, job.steps, every) if every else ()
        self._run, self._job, self._config, self._clock, self._console = run.config, job, config, clock, console
        device_peak = peak(machine, run.config.dtype)
        self._peak = None if device_peak is None else device_peak * unit.execution.mesh.devices
        folder = store.run_folder(root, run.run_id)
        self._log = Table(folder / "log.csv", LOG, begin.step)
        self._validation = Table(folder / "validation.csv", VALIDATION, begin.step)
        self._begin, self._mark = begin.step, (begin.step, 0.0)
        self._over = _broken(begin) is not None

    def advanced(self, snapshot: train.Snapshot) -> None:
        """Log the updates whose metrics have come, and validate where that is due."""
        self._tell(snapshot)
        if snapshot.step in self.stops and _broken(snapshot) is None:
            with self.pause(snapshot) as settled:
                (found,) = train.finish(self._job, settled)
                self._validated(settled.step, found)

    @contextlib.contextmanager
    def pause(self, snapshot: train.Snapshot) -> Iterator[train.Snapshot]:
        """The snapshot once it is settled and logged; what happens meanwhile does not count as training."""
        settled = snapshot.settled()
        self._tell(settled)
        yield settled
        self._mark = (settled.step, self._clock())

    def finished(self, results: Sequence[Result]) -> None:
        """Log the validation that the run's record has."""
        (found,) = results
        self._validated(self._job.steps, found)

    def _tell(self, snapshot: train.Snapshot) -> None:
        """A line for the updates since the last one, if some are done and it is time for it."""
        done, now = snapshot.loss.shape[0], self._clock()
        at, since = self._mark
        if self._over or done <= max(self._begin, self._log.last):
            return
        first = at == self._begin
        if not (first or snapshot.pending is None or now - since >= self._config.seconds):
            return
        broken = _broken(snapshot)
        if broken is not None:
            self._over = True
            self._console.print(f"diverged: update {broken} is not finite; nothing is trained after it")
            return
        rate = None if first or now <= since else (done - at) * self._run.data.tokens_per_step / (now - since)
        new = slice(max(self._begin, self._log.last), done)
        self._mark = (done, now)
        values = {
            "step": done,
            "tokens": done * self._run.data.tokens_per_step,
            "loss": float(np.mean(snapshot.loss[new])),
            "grad_norm": float(np.mean(snapshot.grad_norm[new])),
            "lr": float(self._job.rates[done - 1, 0]),
            "tokens_per_second": rate,
            "mfu": self._share(rate),
            "memory_bytes": _memory(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._log.add(**values)
        self._console.print(_line(values, self._job.steps), highlight=False)

    def _share(self, rate: float | None) -> float | None:
        """The utilisation at so many tokens per second; None where it is not known, or cannot be."""
        if rate is None or self._peak is None:
            return None
        share = mfu(self._run, rate, self._peak)
        if share <= 1:
            return share
        self._console.print(
            f"MFU is left out: {share * self._peak:.3g} FLOP/s are more than the {self._peak:.3g} that this machine is "
            "thought to have",
            highlight=False,
        )
        self._peak = None
        return None

    def _validated(self, step: int, found: Result) -> None:
        loss, error = found.validation_loss, found.validation_error
        if loss is None or error is None:
            return
        tokens = step * self._run.data.tokens_per_step
        self._validation.add(step=step, tokens=tokens, loss=loss, standard_error=error)
        self._console.print(f"{_at(step, self._job.steps)}  validation {loss:.4f} +- {error:.4f}", highlight=False)


def _line(values: dict[str, Any], steps: int) -> str:
    rate, share, memory = (values[name] for name in ("tokens_per_second", "mfu", "memory_bytes"))
    parts = (
        _at(values["step"], steps),
        f"loss {values['loss']:.4f}",
        f"grad norm {values['grad_norm']:.3g}",
        f"lr {values['lr']:.3g}",
        "- tokens/s" if rate is None else f"{rate:,.0f} tokens/s",
        "MFU -" if share is None else f"MFU {100 * share:.1f} %",
        *(() if memory is None else (f"{memory / 2**30:.1f} GiB",)),
    )
    return "  ".join(parts)


def _at(step: int, steps: int) -> str:
    return f"{step:>{len(f'{steps:,}')},}/{steps:,}"


def _broken(snapshot: train.Snapshot) -> int | None:
    """The first update that is not finite, of those whose metrics are on the host."""
    bad = ~(np.isfinite(snapshot.loss) & np.isfinite(snapshot.grad_norm)).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else None


def _memory() -> int | None:
    """The most bytes that this process's first device has had in use; None where JAX does not tell."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Whole rows of a table with these columns; a row that was cut off by a kill is none."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    found = list(csv.reader(lines))
    if not found or found[0] != list(columns):
        return []
    return [row for row in found[1:] if len(row) == len(columns) and row[0].isdigit()]


def _text(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
