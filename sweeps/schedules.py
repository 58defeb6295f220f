"""A schedule outside of any run: its numbers as a table or JSON, a picture, or code for other libraries."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab import disk, schedule
from lab.check import require
from lab.config import ScheduleConfig
from lab.piece import Hold, Law, Piece, Ramp
from sweeps import snippet
from sweeps.column import aligned

# More updates than this are neither listed nor exported one by one.
LIMIT = 10_000_000
_SHORT = 40
_POINTS = 2000
FORMATS = ("optax", "torch", "json", "csv")


@dataclass(frozen=True)
class Curve:
    """A resolved schedule with what turns it into rates: the peak (for `power` the cap), and the law."""

    schedule: ScheduleConfig
    lr: float | None
    law: float | None

    @property
    def steps(self) -> int:
        assert self.schedule.steps is not None
        return self.schedule.steps

    @property
    def parts(self) -> tuple[Piece, ...]:
        return schedule.pieces(self.schedule, self.law)

    @property
    def peak(self) -> str:
        """What the rate `lr` is called."""
        return "cap" if self.schedule.kind == "power" else "peak"

    def rates(self, values: np.ndarray) -> np.ndarray | None:
        return None if self.lr is None else self.lr * values


def curve(fields: Mapping[str, Any], *, lr: float | None, tokens_per_step: int | None) -> Curve:
    """The schedule that the fields of a `ScheduleConfig` describe.

    Raises:
        InputError: fields that do not go together, or tokens without the tokens of an update.
    """
    given = ScheduleConfig(**fields)
    tokens = [name for name in ("tokens", "warmup_tokens", "decay_tokens") if fields.get(name) is not None]
    require(
        tokens_per_step is not None or (not tokens and given.kind != "power"),
        f"{given.kind if not tokens else tokens[0]} needs the tokens of an update: give --batch, or --sequences of "
        "--length tokens",
    )
    require(lr is None or lr > 0, f"--lr={lr} is not above 0")
    resolved = given.resolve(tokens_per_step or 1)
    if given.kind != "power":
        return Curve(resolved, lr, None)
    assert tokens_per_step is not None
    cap = 0.02 if lr is None else lr
    return Curve(resolved, cap, schedule.relative_law(resolved, lr=cap, tokens_per_step=tokens_per_step))


def summary(found: Curve) -> dict[str, Any]:
    """Every update's factor, and rate where there is a peak, with the schedule that they belong to.

    Raises:
        InputError: more updates than can be listed.
    """
    require(
        found.steps <= LIMIT,
        f"{found.steps} updates are more than the {LIMIT} that are listed one by one: leave --json out, or export code",
    )
    values = schedule.factors(found.schedule, law=found.law)
    rates = found.rates(values)
    return {
        "schedule": _described(found.schedule),
        "index": found.schedule.index,
        "boundaries": list(schedule.boundaries(found.schedule)),
        "values": values.tolist(),
        **({} if rates is None else {"lr": found.lr, "rates": rates.tolist()}),
    }


def text(found: Curve) -> str:
    """The phases with their first and last values, and every value of a short run."""
    rows: list[tuple[str, ...]] = [("phase", "updates", "first", "last")]
    for part in found.parts:
        ends = schedule.values(found.parts, np.array([part.begin, part.end - 1], np.float64))
        rows.append((_phase(part), f"{part.begin}..{part.end - 1}", *(f"{value:.6g}" for value in ends)))
    lines = [title(found.schedule), *aligned(rows)]
    if found.lr is not None:
        lines[0] += f"; {found.peak} {found.lr:g}"
    if found.steps <= _SHORT:
        values = schedule.factors(found.schedule, law=found.law)
        rates = found.rates(values)
        header = ("update", "factor") if rates is None else ("update", "factor", "rate")
        columns = [values] if rates is None else [values, rates]
        body = [(str(i), *(f"{column[i]:.6g}" for column in columns)) for i in range(found.steps)]
        lines += ["", *aligned([header, *body])]
    return "\n".join(lines)


def title(config: ScheduleConfig) -> str:
    """A resolved schedule in one line."""
    words = [f"{config.kind}: {config.steps} updates", f"warm-up {config.warmup_steps}"]
    if config.kind in ("wsd", "wsd_s", "power", "inverse_sqrt") and config.decay_steps:
        words.append(f"decay {config.decay_steps} ({config.decay_shape})")
    if config.cycle_steps:
        words.append(f"cycles end at {', '.join(map(str, config.cycle_steps))}")
    words += [f"floor {config.floor:g}"] if config.floor else []
    told = ", ".join([*words, f"index {config.index}"])
    return f"{told}; {missing(config)}" if missing(config) else told


def missing(config: ScheduleConfig) -> str:
    """What a resolved Power schedule leaves out of the published one, in words; nothing of another kind.

    Power Scheduler (2408.13359) is a warm-up, the law and a decay; here the first and the last have no default.
    """
    if config.kind != "power":
        return ""
    without = [name for name, steps in (("warm-up", config.warmup_steps), ("decay", config.decay_steps)) if not steps]
    give = " and ".join(f"--{name.replace('-', '')}" for name in without)
    return f"without {' and '.join(without)}, which the published Power has: {give}" if without else ""


def plot(found: Curve, path: Path) -> None:
    """The rate, or the factor where no peak is given, against the update."""
    from matplotlib.figure import Figure

    require(path.suffix in (".png", ".svg", ".pdf"), f"--out {path} is no picture: name it .png, .svg or .pdf")
    _require_folder(path)
    jumps = np.array(schedule.boundaries(found.schedule), np.float64)
    i = np.unique(np.concatenate([np.linspace(0, found.steps - 1, _POINTS).round(), jumps - 1, jumps[:-1]]))
    values = schedule.values(found.parts, i)
    rates = found.rates(values)
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(i, values if rates is None else rates, marker="." if found.steps <= _SHORT else "")
    axes.set_title(title(found.schedule), fontsize="small", wrap=True)
    axes.set_xlabel("update")
    axes.set_ylabel("ratio to the peak" if rates is None else "learning rate")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.grid(alpha=0.3)
    with disk.whole(path) as written:
        figure.savefig(written, dpi=150)


def export(found: Curve, form: str) -> str:
    """The schedule as an optax expression, a PyTorch function, JSON or CSV.

    Raises:
        InputError: a format that is none of these.
    """
    require(form in FORMATS, f"--format {form} is not one of {', '.join(FORMATS)}")
    note = title(found.schedule)
    if form == "optax":
        what = "factors of the peak" if found.lr is None else f"rates with the {found.peak} {found.lr:g}"
        return snippet.optax(found.parts, f"{note}; {what}", scale=1.0 if found.lr is None else found.lr)
    if form == "torch":
        peak = "" if found.lr is None else f"; the optimizer's lr is the {found.peak} {found.lr:g}"
        return snippet.torch(found.parts, note + peak)
    listed = summary(found)
    if form == "json":
        return json.dumps(listed, indent=1) + "\n"
    columns = {"factor": listed["values"]} | ({"rate": listed["rates"]} if "rates" in listed else {})
    lines = [",".join(["update", *columns])]
    lines += [
        ",".join([str(i), *(repr(value) for value in row)]) for i, row in enumerate(zip(*columns.values(), strict=True))
    ]
    return "\n".join(lines) + "\n"


def write(content: str, path: Path) -> None:
    """Write an export to a file in a folder that exists."""
    _require_folder(path)
    with disk.whole(path) as written:
        written.write_text(content)


def _described(config: ScheduleConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def _phase(part: Piece) -> str:
    if isinstance(part, Hold):
        return "hold"
    if isinstance(part, Ramp):
        return "warm-up" if part.rising else "fall"
    require(isinstance(part, Law), f"a piece {type(part).__name__} of a schedule has no name here")
    return "law"


def _require_folder(path: Path) -> None:
    require(path.parent.is_dir(), f"--out {path}: the folder {path.parent} does not exist")
    require(not path.is_dir(), f"--out {path} is a folder: give a file")
