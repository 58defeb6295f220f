"""The words of `lrlab horizon`, and its tables on a terminal."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import disk

if TYPE_CHECKING:
    from analysis.horizon import Horizon
    from analysis.horizon_law import Estimate
    from analysis.report import Table

_WORDS = {
    "tokens": "tokens, at a fixed batch",
    "batch": "tokens per batch",
    "width": "width",
    "best_batch": "best batch, against tokens",
    "tokens_along_best_batch": "tokens, along the best batch",
    "interaction": "tokens times batch",
}


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `horizon`; `command` makes its parser."""
    does = "how the optimum follows tokens, batch and width, and the best batch tokens"
    parser = command(commands, "horizon", _horizon, does, "results/lr_vs_batch --out results/horizon")
    parser.add_argument("dir", metavar="DIR", type=Path, help="a store, or a file of lrlab export")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the pictures there")


def _horizon(options: argparse.Namespace) -> int:
    from analysis import figure, horizon

    out: Path | None = options.out
    if out is not None:
        disk.require_folder(out, "--out")
    found = horizon.read(options.dir)
    if options.json:
        print(json.dumps(horizon.summary(found), indent=1, allow_nan=False))
    else:
        _show(found)
    if out is not None:
        for number, one in enumerate(found):
            name = "horizon" if len(found) == 1 else f"horizon_{number + 1}"
            picture = figure.save(figure.horizon(one), out, name)[0]
            if not options.json:
                print(f"picture: {picture}")
    return 0


def _show(found: Sequence["Horizon"]) -> None:
    from analysis.horizon import LITERATURE
    from analysis.results import describe
    from sweeps.table import console, table

    terminal = console()
    for one in found:
        if one.group:
            terminal.print(f"{describe(one.group)}\n", style="bold", soft_wrap=True)
        for header, rows in (_cells(one), _exponents(one), _best(one)):
            if rows:
                terminal.print(table(header, rows))
                terminal.print()
        for note in _notes(one):
            terminal.print(note, soft_wrap=True)
        terminal.print()
    terminal.print("what others found for the exponent of tokens")
    for line in LITERATURE:
        words = f"{line['batch']} batch, {line['what']} ({line['source']})"
        terminal.print(f"  {line['exponent']:+.3f}  {words}", soft_wrap=True)


def _cells(found: "Horizon") -> "Table":
    rows = []
    for member in found.members:
        optimum = member.cell.optimum
        interval = "-"
        if optimum.lr and optimum.low and optimum.high:
            ends = f"({math.log2(optimum.low):.2f} .. {math.log2(optimum.high):.2f})"
            interval = f"{math.log2(optimum.lr):.2f} {ends}"
        loss = "-" if optimum.loss is None else f"{optimum.loss:.4f}"
        places = [str(member.tokens), str(member.batch), str(member.width)]
        rows.append([*places, interval, loss, optimum.quality, str(member.cell.pending), str(member.lost)])
    # lost: draws of the seeds in which the cell has no interior optimum
    return ["tokens", "batch", "width", "log2 lr, 95 % interval", "loss", "quality", "pending", "lost"], rows


def _exponents(found: "Horizon") -> "Table":
    used, interior = len(found.members) - len(found.left_out), sum(one.quality == "interior" for one in found.best)
    rows = []
    for name, value in found.exponents.items():
        if value:
            source = f"{interior} best batches" if name == "best_batch" else f"{used} cells"
            rows.append([_WORDS[name], *_value(value), source])
    rows += [
        [f"tokens, at {slope.batch} tokens per batch", *_value(slope.exponent), f"{slope.cells} cells"]
        for slope in found.by_batch
    ]
    return ["exponent of", "value", "95 % interval", "from"], rows


def _best(found: "Horizon") -> "Table":
    rows = [
        [
            str(one.tokens),
            str(one.width),
            *_value(one.batch, ".0f"),
            *_value(one.lr, ".4g"),
            f"{one.quality}, lowest at {one.lowest}",
        ]
        for one in found.best
    ]
    return ["tokens", "width", "best batch", "95 % interval", "lr there", "95 % interval", "quality"], rows


def _value(found: "Estimate | None", form: str = "+.3f") -> list[str]:
    if found is None:
        return ["-", "-"]
    if found.low is None or found.high is None:
        return [f"{found.value:{form}}", "-"]
    return [f"{found.value:{form}}", f"{found.low:{form}} .. {found.high:{form}}"]


def _notes(found: "Horizon") -> list[str]:
    used = len(found.members) - len(found.left_out)
    lines = []
    if found.centre and found.lr and found.exponents["tokens"]:
        places = ", ".join(
            f"{at:.4g} {word}" for at, word in zip(found.centre, ("tokens", "per batch", "wide"), strict=True)
        )
        value, ends = _value(found.lr, ".4g")
        lines.append(f"the law's rate at its centre ({places}): {value} ({ends})")
    if found.exponents["tokens"] is None:
        lines.append(f"no exponent of tokens: {used} of {len(found.members)} cells have an interior optimum")
    if found.left_out:
        lines.append(f"{len(found.left_out)} of {len(found.members)} cells without an interior optimum are left out")
    if found.seeds > 1:
        lines.append(
            f"intervals: {found.seeds} seeds drawn again {found.replicates} times, Student's t with {found.seeds - 1} "
            f"degrees of freedom; in {found.lossy} draws a cell lost its optimum"
        )
    elif used:
        lines.append("one seed: no intervals")
    return lines
