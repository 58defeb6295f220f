"""The words of `lrlab suggest`: the next runs of a sweep as a table and as a file that `lrlab sweep` takes."""

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
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

_CELLS = 3  # new cells where no budget says how many
_MOST = 30  # and with one
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
    parser.add_argument("--cells", metavar="N", type=int, help=f"new cells to suggest (default {_CELLS})")
    parser.add_argument(
        "--flops", metavar="C", type=float, help="what all runs may cost: repairs first, then as many cells as fit"
    )
    shared.add_where(parser)
    shared.add_edges(parser)
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="write the runs there, for lrlab sweep")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _suggest(options: argparse.Namespace) -> int:
    from analysis import results
    from analysis.drift import read_cells
    from analysis.runs.source import load
    from analysis.suggestion import repairs

    require(options.cells is None or options.cells >= 0, f"--cells {options.cells} is below 0")
    budget: float | None = options.flops
    sound = budget is None or (math.isfinite(budget) and budget > 0)
    require(sound, f"--flops {options.flops} is not a number above 0: write it as in 1e18")
    shared.edges(options.edges)
    out: Path | None = options.out
    require(out is None or out.suffix == ".json", f"--out {out} does not end in .json: name it so for lrlab sweep")
    require(out is None or out.parent.is_dir(), f"--out {out}: the folder {out and out.parent} does not exist")
    found = results.load(options.dir)
    # Cells of older numerics are trained anew by their own sweep.
    cells = [cell for cell in read_cells(found)[0] if cell.values.get("numerics") != results.OLD]
    suggested, notes = _mended(repairs(cells), options, found)
    if options.params is not None or options.tokens is not None:
        runs = load(options.dir, where=shared.where(options.where))
        new, more = _new_cells(options, found, cells, runs, _left(budget, suggested))
        suggested, notes = suggested + new, notes + more
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


def _mended(
    repaired: "Sequence[Suggestion]", options: argparse.Namespace, found: "Results"
) -> "tuple[list[Suggestion], list[str]]":
    """Repairs with what they cost, as far as the budget goes."""
    kept: list[Suggestion] = []
    for one in repaired:
        config = _config(options, found, one.values)
        flops = None if isinstance(config, str) else _flops(found, config, len(one.rates))
        left = _left(options.flops, kept)
        if left is None or (flops is not None and flops <= left):
            kept.append(dataclasses.replace(one, flops=flops))
    lost = len(repaired) - len(kept)
    return kept, [f"{lost} repairs of cells cost more than --flops {options.flops:.3g} leaves"] if lost else []


def _left(budget: float | None, spent: "Sequence[Suggestion]") -> float | None:
    return None if budget is None else max(0.0, budget - sum(one.flops or 0.0 for one in spent))


def _new_cells(
    options: argparse.Namespace, found: "Results", cells: "Sequence[Cell]", runs: "Runs", budget: float | None
) -> "tuple[list[Suggestion], list[str]]":
    """Cells beyond the sweep by what they are worth to a law at the target, and what stands in the way of one."""
    from analysis.power.fit import solve
    from analysis.suggestion import chosen, together

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
    places, impossible = _places(options, found, cells, law)
    count = options.cells if options.cells is not None else _CELLS if budget is None else _MOST
    assert fit.rows is not None
    solved = solve(fit.rows, "lr", law.regressors)
    new = chosen(solved, places, target, count=count, error=error, grid=_RATIOS, budget=budget)
    gains = [one.gain for one in new if one.gain is not None]
    if gains:
        cost = sum(one.flops or 0.0 for one in new)
        notes.append(
            f"together the new cells narrow the prediction interval by {together(gains):.0%} (mean over what they may "
            f"turn out to be), for {cost:.3g} FLOPs"
        )
    if places and not new and count:
        notes.append(f"no new cell costs less than the {budget or 0.0:.3g} FLOPs that are left")
    return new, [*notes, *impossible]


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
) -> "tuple[list[Place], list[str]]":
    """Cells along the sweep's rows that are not there, and a note on each that cannot be."""
    from analysis.results import describe
    from analysis.suggestion import Place
    from lab.count import parameters, training_tokens
    from sweeps.place import beyond
    from sweeps.run_list import stored_base

    wanted = shared.where(options.where) or {}
    known = [
        _settings(cell.values)
        for cell in cells
        if all(cell.values[name] == value for name, value in wanted.items() if name in cell.values)
    ]
    places: list[Place] = []
    impossible: dict[str, list[str]] = {}
    for values in beyond(known, stored_base(found.sweep, options.dir)):
        config = _config(options, found, values)
        if isinstance(config, str):
            impossible.setdefault(config, []).append(describe(values))
            continue
        at = {
            "params": float(parameters(config.model, config.data.length).non_embedding),
            "tokens": float(training_tokens(config)),
            "batch": float(config.data.tokens_per_step),
        }
        where = {name: at[name] for name in law.regressors}
        places.append(Place(values, where, at["params"], _flops(found, config, len(_RATIOS))))
    more = {why: f" and {len(cells) - 1} more" if len(cells) > 1 else "" for why, cells in impossible.items()}
    return places, [f"no cell at {cells[0]}{more[why]}: {why}" for why, cells in impossible.items()]


def _config(options: argparse.Namespace, found: "Results", values: Mapping[str, Any]) -> "RunConfig | str":
    """The resolved run of a cell, or why there is none."""
    from lab.override import apply
    from sweeps.run_list import stored_base

    base = stored_base(found.sweep, options.dir)
    vocab, fingerprint = int(found.frame["model.vocab"].iloc[0]), str(found.frame["data.fingerprint"].iloc[0])
    try:
        return apply(base, _settings(values) | _rest(found, values)).resolve(vocab=vocab, fingerprint=fingerprint)
    except InputError as error:
        return str(error)


def _flops(found: "Results", config: "RunConfig", rates: int) -> float:
    """What a cell of so many rates costs, with the sweep's seeds."""
    from lab.count import training_flops

    return training_flops(config) * rates * len(_seeds(found))


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a cell that a run can be given: its numerics follow from them."""
    return {name: value for name, value in values.items() if name != "numerics"}


def _seeds(found: "Results") -> list[dict[str, Any]]:
    """The seeds of the sweep, as its points name them."""
    names = [name for name in ("seed", "seed_init", "seed_data") if name in found.sweep["axes"]]
    points = [{name: point[name] for name in names if name in point} for point in found.sweep["runs"].values()]
    return [dict(one) for one in dict.fromkeys(tuple(sorted(point.items())) for point in points)]


def _rest(found: "Results", values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the sweep's points that are neither in the cell nor a seed nor the rate: those of all points."""
    points = list(found.sweep["runs"].values())
    names = {name for point in points for name in point} - set(values) - {"seed", "seed_init", "seed_data", "numerics"}
    return {name: points[0][name] for name in names if name in points[0] and name != found.optimum_axis}


def _sweep(root: Path, found: "Results", chosen: "Sequence[Suggestion]") -> Any:
    from sweeps.run_list import stored_base
    from sweeps.sweep import Sweep, unique

    base: RunConfig = stored_base(found.sweep, root)
    points = [
        _settings(one.values) | _rest(found, one.values) | seed | {found.optimum_axis: float(rate)}
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
