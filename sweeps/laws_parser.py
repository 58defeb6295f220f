"""The words of `lrlab laws`: published laws as a list, side by side for one run, and tried on measurements."""

import argparse
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import disk
from lab.check import InputError, require
from sweeps import options as shared

if TYPE_CHECKING:
    import pandas as pd

    from analysis.literature.answer import Answer
    from analysis.literature.publication import Publication
    from analysis.literature.trial import Outcome


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `laws` with its actions; `command` makes the parser of one action."""
    does = "published laws of the learning rate and the batch: what they say, and what they cost on measured runs"
    group = commands.add_parser("laws", help=does, description=does, allow_abbrev=False)
    group.set_defaults(run=_list)
    group.add_argument("--json", action="store_true", help="print the list as JSON")
    actions = group.add_subparsers(title="actions (without one: list)", metavar="ACTION", dest="action")
    listed = command(actions, "list", _list, "every law with formula, source and conditions", "--json")
    show = command(actions, "show", _show, "all about one law: units, conditions, fit range, misprints", "step")
    show.add_argument("name", metavar="NAME", help="step, deepseek, ... (lrlab laws list)")
    example = "--params 1e9 --tokens 1e11 --batch-tokens 2e6 --out laws"
    compare = command(actions, "compare", _compare, "what every law says of one run, side by side", example)
    shared.add_inputs(compare, required=("params", "tokens"))
    compare.add_argument("--out", metavar="DIR", type=Path, help="draw rate and batch over scale there")
    does = "the regret of every law in every cell of measured runs"
    test = command(actions, "test", _test, does, "runs.csv --columns lr=max_lr,loss=val --batch-unit sequences:2048")
    test.add_argument("data", metavar="DATA", help="a sweep's folder, a CSV or a Parquet file of runs")
    shared.add_source(test)
    test.add_argument("--law", metavar="NAME", action="append", help="this law only; give it again for more")
    test.add_argument(
        "--window", metavar="PERCENT", default="1%", help="runs of the local quadratic, above the minimum (default 1%%)"
    )
    test.add_argument("--cells", action="store_true", help="every cell, and which laws it can tell apart")
    for parser in (listed, show, compare, test):
        parser.add_argument("--json", action="store_true", help="print as JSON")


def _list(options: argparse.Namespace) -> int:
    from analysis.literature.publication import publications

    if options.json:
        _print_json([law.summary() for law in publications()])
        return 0
    for law in publications():
        print(f"{law.name:20}{law.title} ({law.source})")
        for quantity, formula in law.formulas.items():
            print(f"  {quantity:18}{formula.text} [{formula.evidence}]")
        print(f"  {'conditions':18}{law.conditions.short}")
        if law.misprints:
            print(f"  {'misprints':18}{'; '.join(one.printed for one in law.misprints)}")
    print("\nlrlab laws show NAME says what N, D and B are and where it was fitted")
    return 0


def _show(options: argparse.Namespace) -> int:
    from analysis.literature.publication import published

    law = published(options.name)
    if options.json:
        _print_json(law.summary())
    else:
        print("\n".join(_card(law)))
    return 0


def _card(law: "Publication") -> list[str]:
    from analysis.literature.publication import INPUTS

    lines = [f"{law.name}: {law.title}", f"source: {law.source}"]
    if law.aliases:
        lines.append(f"also called: {', '.join(law.aliases)}")
    for quantity, formula in law.formulas.items():
        lines.append(f"{quantity}: {formula.text}")
        needs = ", ".join(f"{name} ({INPUTS[name]})" for name in formula.needs) or "nothing"
        lines += [f"  needs {needs}", f"  {formula.evidence}: {formula.source}"]
    lines.append("conditions:")
    lines += [f"  {name.replace('_', ' '):16}{value}" for name, value in vars(law.conditions).items()]
    if law.ranges:
        lines.append("range of the fit:")
        lines += [f"  {name:16}{low:.4g} .. {high:.4g}" for name, (low, high) in law.ranges.items()]
    for one in law.misprints:
        lines.append(f"misprint: {one.printed}: {one.right} ({one.where})")
    return lines + [f"note: {remark}" for remark in law.remarks]


def _compare(options: argparse.Namespace) -> int:
    from analysis.literature.answer import answers

    out: Path | None = options.out
    if out is not None:
        disk.require_folder(out, "--out")
    inputs = shared.inputs(options)
    found = answers(inputs)
    if options.json:
        given = {name: value for name, value in inputs.items() if value is not None}
        _print_json({"inputs": given, "laws": [one.summary() for one in found]})
    else:
        _side_by_side(found)
    if out is not None:
        from analysis import figure
        from analysis.literature import figure as law_figure

        picture = figure.save(law_figure.scale(inputs), out, "laws")[0]
        if not options.json:
            print(f"picture: {picture}")
    return 0


def _side_by_side(found: Sequence["Answer"]) -> None:
    from sweeps.table import console, table

    answering = [one for one in found if one.lr is not None or one.batch is not None]
    rows = []
    for one in answering:
        far = one.beyond[0] if one.beyond else None
        where = f"{far.name} {far.factor:.3g} times outside" if far else ("inside" if one.law.ranges else "unknown")
        marks = dict.fromkeys(
            formula.evidence
            for quantity, formula in one.law.formulas.items()
            if (quantity == "lr" and one.lr is not None) or (quantity == "batch" and one.batch is not None)
        )
        batch = "-" if one.batch is None else f"{one.batch:.4g}"
        rows.append([one.law.name, "-" if one.lr is None else f"{one.lr:.4g}", batch, where, ", ".join(marks)])
    console().print(table(["law", "peak rate", "tokens per update", "its fit", "evidence"], rows))
    rates = [one.law.law for one in answering if one.lr is not None]
    print(f"\n{len(rates)} rates of {len(set(rates))} distinct laws: several constants of one law count once")
    print("\nconditions: a number holds under these, not in general")
    for one in answering:
        _wrapped(f"{one.law.name}: {one.law.conditions.short}; N: {one.law.conditions.params}")
    lines = [f"{one.law.name}: {line}" for one in answering for line in one.warnings]
    silent = [
        why
        for one in found
        for why, asked in ((one.lr_why, True), (one.batch_why, "batch" in one.law.formulas))
        if why and asked
    ]
    for title, some in (("warnings", lines), ("without an answer", list(dict.fromkeys(silent)))):
        if some:
            print(f"\n{title}")
        for line in some:
            _wrapped(line)


def _test(options: argparse.Namespace) -> int:
    from analysis.runs.source import load

    runs = load(
        options.data,
        columns=shared.columns(options.columns),
        batch_unit=options.batch_unit,
        where=shared.where(options.where),
        **shared.readings(options),
    )
    if not options.json:
        for note in runs.notes:
            print(note)
    return report(runs.frame, options)


def report(frame: "pd.DataFrame", options: argparse.Namespace) -> int:
    """Try the laws on runs in canonical columns and print what they cost; options as `lrlab laws test` has them."""
    from analysis.literature.publication import published
    from analysis.literature.trial import trial

    laws = None if options.law is None else [published(name) for name in options.law]
    found = trial(frame, laws, window=parse_window(options.window))
    if options.json:
        _print_json(
            {
                "means": found.means().to_dict("records"),
                "cells": found.frame().to_dict("records"),
                "discrimination": [
                    {"params": n, "tokens": d, **vars(one)} for (n, d), one in found.discriminations.items()
                ],
                "left_out": list(found.skipped),
            }
        )
    else:
        _costs(found, by_cell=options.cells)
    return 0


def _costs(found: "Outcome", *, by_cell: bool) -> None:
    from sweeps.table import console, table

    terminal = console()
    rows = []
    for row in found.means().to_dict("records"):
        means = [
            f"{row[name]:.3f} ({row[f'{name}_cells']})" if row[f"{name}_cells"] else "-"
            for name in ("nearest", "linear", "quadratic")
        ]
        worst = f"{row['nearest_max']:.3f}" if row["nearest_cells"] else "-"
        rows.append([row["law"], str(row["cells"]), *means, worst, f"{row['offset']:+.2f}"])
    header = ["law", "cells", "nearest run", "linear", "quadratic", "worst, nearest", "rate, octaves"]
    terminal.print(table(header, rows))
    print(
        "\nmean regret in per cent of the cell's minimum (cells in whose grid the setting lies); octaves: rate against"
    )
    print("the best run's. Means over different cells do not compare: a law outside many grids is worse than its mean.")
    movers = dict.fromkeys(trial.law for trial in found.trials if trial.moves)
    if movers:
        _wrapped(f"these move rates that were measured here, so they know more than the others: {', '.join(movers)}")
    judged = found.discriminations.values()
    if judged:
        blind, tied = sum(not one.can for one in judged), sum(len(one.best) > 1 for one in judged)
        _wrapped(
            f"{blind} of {len(judged)} cells cannot discriminate laws: their regrets differ by less than noise; "
            f"in {tied} several laws are as good as the best"
        )
    if by_cell:
        _cells(found)
    for line in found.skipped:
        _wrapped(f"left out: {line}")


def _cells(found: "Outcome") -> None:
    from sweeps.table import console, table

    for place, cell in found.cells.items():
        lr, batch = cell.best_setting
        own = "" if batch is None else f", {batch:.4g} tokens per update"
        print(f"\nN {place[0]:.4g}, D {place[1]:.4g}: best run {lr:.4g}{own}, {cell.minimum:.4f} nats")
        rows = []
        for one in found.trials:
            if one.place == place and one.lr is not None:
                values = [
                    "-" if (regret := one.regret(protocol)) is None else f"{100 * regret:.3f}"
                    for protocol in ("nearest", "linear", "quadratic")
                ]
                why = next((part.note for part in one.readings if part.note), one.note)
                batch_word = "-" if one.batch is None else f"{one.batch:.4g}"
                rows.append([one.law, f"{one.lr:.4g}", batch_word, *values, why])
        console().print(table(["law", "rate", "batch", "nearest", "linear", "quadratic", "note"], rows))
        if place in found.discriminations:
            _wrapped(found.discriminations[place].statement)


def parse_window(text: str) -> float:
    """`1%` as 0.01, `all` as infinity.

    Raises:
        InputError: not a share above 0.
    """
    if text.strip() == "all":
        return math.inf
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise InputError(f"--window {text} is not a share: write it as in 1%, or all") from None
    require(math.isfinite(value) and value > 0, f"--window {text} is not above 0: write it as in 1%, or all")
    return value / 100


def _wrapped(line: str) -> None:
    print(textwrap.fill(line, 118, initial_indent="  ", subsequent_indent="    "))


def _print_json(found: Any) -> None:
    print(json.dumps(_plain(found), indent=1, allow_nan=False))


def _plain(found: Any) -> Any:
    """Numbers that JSON has: nan and infinity become null."""
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_plain(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
