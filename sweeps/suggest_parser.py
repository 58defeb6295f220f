"""The words of `lrlab suggest`: the next runs of a sweep as a table and as a file that `lrlab sweep` takes."""

import argparse
import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.check import InputError, require
from sweeps import options as shared

if TYPE_CHECKING:
    from analysis.calculator import Fit
    from analysis.drift import Cell
    from analysis.edges import Edges
    from analysis.power.law import PowerLaw
    from analysis.results import Results
    from analysis.runs.source import Runs
    from analysis.suggestion import Place, Suggestion
    from lab.config import RunConfig

# Axes along which a cell may be new; the others say which law is meant.
_SIZES = ("model.width", "model.depth", "schedule.steps", "schedule.tokens", "data.sequences")
_RATIOS = tuple(2.0 ** (step / 2) for step in range(-3, 4))


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `suggest`; `command` makes its parser."""
    does = "which runs to make next: rates that cells lack, and the size or horizon that narrows a prediction most"
    example = "results/lr_vs_tokens_width --params 1e6 --tokens 1e8 --out next.json"
    parser = command(commands, "suggest", _suggest, does, example)
    parser.add_argument("dir", metavar="DIR", type=Path)
    parser.add_argument("--params", metavar="N", type=float, help="non-embedding parameters of the run to predict")
    parser.add_argument("--tokens", metavar="D", type=float, help="its tokens")
    parser.add_argument("--batch", metavar="B", type=float, help="its tokens per update (default: that of the sweep)")
    parser.add_argument("--cells", metavar="N", type=int, default=3, help="new cells to suggest (default 3)")
    shared.add_where(parser)
    shared.add_edges(parser)
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="write the runs there, for lrlab sweep")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _suggest(options: argparse.Namespace) -> int:
    from analysis import results
    from analysis.drift import read_cells
    from analysis.runs.source import load
    from analysis.suggestion import repairs

    require(options.cells >= 0, f"--cells {options.cells} is below 0")
    shared.edges(options.edges)
    out: Path | None = options.out
    require(out is None or out.suffix == ".json", f"--out {out} does not end in .json: name it so for lrlab sweep")
    require(out is None or out.parent.is_dir(), f"--out {out}: the folder {out and out.parent} does not exist")
    found = results.load(options.dir)
    cells, _ = read_cells(found)
    suggested = repairs(cells)
    notes: list[str] = []
    if options.params is not None or options.tokens is not None:
        runs = load(options.dir, where=shared.where(options.where))
        new, notes = _new_cells(options, found, cells, runs)
        suggested += new
    else:
        notes.append("no target: give --params and --tokens for the size or horizon that helps most")
    if options.json:
        print(json.dumps({"suggestions": [dict(vars(one)) for one in suggested], "notes": notes}, indent=1))
    else:
        print(_text(suggested, notes))
    if out is not None:
        require(bool(suggested), f"no runs to suggest, so {out} is not written")
        sweep = _sweep(options.dir, found, suggested)
        from lab import store
        from sweeps import run_list

        store.write_atomic(out, store.pretty(run_list.to_dict(sweep)))
        if not options.json:
            print(f"{len(sweep.points)} runs: {out}; train them with\n  lrlab sweep {out} --out {options.dir}")
    return 0


def _new_cells(
    options: argparse.Namespace, found: "Results", cells: "Sequence[Cell]", runs: "Runs"
) -> "tuple[list[Suggestion], list[str]]":
    """Cells beyond the sweep by what they are worth to a law at the target, and what stands in the way of one."""
    from analysis.suggestion import chosen

    try:
        fit = narrowed(runs, shared.edges(options.edges))
    except InputError as error:
        return [], [f"no law to narrow yet: {error}"]
    law = fit.law.lr
    assert law is not None
    target = _target(options, law)
    missing = [f"{name} {value:.6g}" for name, value in fit.law.fixed.items() if _differs(options, name, value)]
    formula = " ".join([f"{law.coefficient:.4g}", *(f"{name}^{b:.4f}" for name, b in law.exponents.items())])
    notes = [f"the law that is narrowed: lr = {formula} ({law.counts})"]
    notes += [f"all runs have {one}: a sweep over it has to come first" for one in missing]
    if not law.nodes:
        notes.append("the runs bound no prediction yet: the cheapest new sizes come first")
    assert fit.optima is not None
    errors = [cell.lr.sd**2 for cell in fit.optima.cells if cell.lr is not None]
    error = statistics.median(errors) if errors else 0.0
    places = list(_places(options, found, cells, law))
    return chosen(law, places, target, count=options.cells, error=error, grid=_RATIOS), notes


def narrowed(runs: "Runs", edges: "Edges | None") -> "Fit":
    """The law that new cells are judged by: what `lrlab fit --law lr --batch-rule fixed` writes, without its draws."""
    from analysis import calculator

    return calculator.fit(runs, "lr", batch_rule="fixed", edges=edges, draws=0)


def _target(options: argparse.Namespace, law: "PowerLaw") -> dict[str, float]:
    """The law's regressors at the target; what is not given stays at the centre of the runs."""
    given = {"params": options.params, "tokens": options.tokens, "batch": options.batch}
    for name, value in given.items():
        require(value is None or (math.isfinite(value) and value > 0), f"--{name} {value} is not a number above 0")
    centre = {name: math.exp(m) for name, m in zip(law.regressors, law.centre, strict=True)}
    return {name: given[name] if given[name] is not None else centre[name] for name in law.regressors}


def _differs(options: argparse.Namespace, name: str, value: float) -> bool:
    given = getattr(options, name)
    return given is not None and abs(math.log(given / value)) > 0.02


def _places(
    options: argparse.Namespace, found: "Results", cells: "Sequence[Cell]", law: "PowerLaw"
) -> "Iterator[Place]":
    """Cells one step beyond the sweep along one axis of size, and those missing inside its grid."""
    from analysis.suggestion import Place
    from lab.count import parameters, training_flops, training_tokens
    from lab.override import apply
    from sweeps.run_list import stored_base

    base = stored_base(found.sweep, options.dir)
    vocab = int(found.frame["model.vocab"].iloc[0])
    fingerprint = str(found.frame["data.fingerprint"].iloc[0])
    sizes = set(found.frame["params"].dropna())
    seeds = len(_seeds(found))
    known = [dict(cell.values) for cell in cells]
    for values in _beyond(known):
        config = apply(base, values | _rest(found, values)).resolve(vocab=vocab, fingerprint=fingerprint)
        at = {
            "params": float(parameters(config.model, config.data.length).non_embedding),
            "tokens": float(training_tokens(config)),
            "batch": float(config.data.tokens_per_step),
        }
        flops = training_flops(config) * len(_RATIOS) * seeds
        yield Place(values, {name: at[name] for name in law.regressors}, flops, at["params"] not in sizes)


def _beyond(known: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Values of cells that are not there: each axis of size one step longer, in all combinations."""
    if not known:
        return
    choices = []
    for name in known[0]:
        values = list(dict.fromkeys(cell[name] for cell in known))
        if name in _SIZES and all(isinstance(value, (int, float)) for value in values):
            values = sorted(values)
            ratio = values[-1] / values[-2] if len(values) > 1 else 2
            values.append(type(values[-1])(round(values[-1] * ratio)))
        choices.append(values)
    for combination in itertools.product(*choices):
        values = dict(zip(known[0], combination, strict=True))
        if values not in known:
            yield values


def _seeds(found: "Results") -> list[dict[str, Any]]:
    """The seeds of the sweep, as its points name them."""
    names = [name for name in ("seed", "seed_init", "seed_data") if name in found.sweep["axes"]]
    points = [{name: point[name] for name in names if name in point} for point in found.sweep["runs"].values()]
    return [dict(one) for one in dict.fromkeys(tuple(sorted(point.items())) for point in points)]


def _rest(found: "Results", values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the sweep's points that are neither in the cell nor a seed nor the rate: those of all points."""
    points = list(found.sweep["runs"].values())
    names = {name for point in points for name in point} - set(values) - {"seed", "seed_init", "seed_data"}
    return {name: points[0][name] for name in names if name in points[0] and name != found.optimum_axis}


def _sweep(root: Path, found: "Results", chosen: "Sequence[Suggestion]") -> Any:
    from sweeps.run_list import stored_base
    from sweeps.sweep import Sweep, unique

    base: RunConfig = stored_base(found.sweep, root)
    points = [
        dict(one.values) | _rest(found, one.values) | seed | {found.optimum_axis: float(rate)}
        for one in chosen
        for rate in one.rates
        for seed in _seeds(found)
    ]
    return dataclasses.replace(
        Sweep(
            name=found.sweep["name"],
            question=found.sweep["question"],
            cost=found.sweep["cost"],
            expected=found.sweep["expected"],
            base=base,
            points=unique(points),
        ),
        optimum_axes=tuple(found.sweep["optimum_axes"]),
    )


def _text(chosen: "Sequence[Suggestion]", notes: Sequence[str]) -> str:
    from analysis.results import describe

    lines = [
        f"{describe(one.values)}: {one.reason}; rates {', '.join(f'{rate:.4g}' for rate in one.rates)}"
        for one in chosen
    ]
    return "\n".join([*(lines or ["every cell has its optimum"]), *(f"note: {note}" for note in notes)])
