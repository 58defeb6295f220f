"""The words of `lrlab fit`: from a table of runs to a law file, with what it says on a terminal."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import disk
from lab.check import nearest, require
from sweeps import options as shared
from sweeps.patience import patience

if TYPE_CHECKING:
    from analysis.calculator import Fit, LossOptions
    from analysis.law import Law
    from analysis.loss.law import LossLaw
    from analysis.power.law import PowerLaw


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `fit`; `command` makes its parser."""
    does = "a law of the best learning rate, the best batch or the loss, from a sweep folder or anyone's table of runs"
    example = "runs.csv --law lr+batch --batch-unit sequences:2048 --out law.json"
    parser = command(commands, "fit", _fit, does, example)
    parser.add_argument("source", metavar="SOURCE", help="a folder of lrlab sweep, a CSV or a Parquet file")
    parser.add_argument("--law", required=True, help="lr, batch, lr+batch or loss")
    shared.add_source(parser)
    parser.add_argument(
        "--estimator", default="surface", help="surface (default), near-optimal:0.25%% or argmin: what an optimum is"
    )
    shared.add_edges(parser)
    parser.add_argument(
        "--batch-rule", metavar="RULE", help="best: the rate along the best batch; fixed: the rate at a given batch"
    )
    parser.add_argument(
        "--window",
        default="2%",
        help="loss above a cell's lowest up to which runs make a surface: 2%% (default), or all",
    )
    parser.add_argument("--batch-regressors", metavar="NAMES", help="of the batch's law, as in tokens or params,tokens")
    parser.add_argument("--delta", type=float, default=1e-3, help="Huber's threshold of the loss law (default 1e-3)")
    parser.add_argument(
        "--form", default="chinchilla", help="of the loss law: chinchilla, tied, kaplan, tokens, params"
    )
    _add_loss(parser)
    parser.add_argument("--draws", metavar="N", type=int, default=400, help="resamples behind intervals (default 400)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the resamples (default 0)")
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="write the law there, for lrlab predict")
    parser.add_argument("--pictures", metavar="DIR", type=Path, help="draw cells, law, residuals and profiles there")
    parser.add_argument("--holdout", action="store_true", help="judge the law by leaving out one size at a time")
    parser.add_argument("--json", action="store_true", help="print the law file")


def _add_loss(parser: argparse.ArgumentParser) -> None:
    """The options of the loss law alone."""
    parser.add_argument(
        "--objective", default="relative", help="of the loss law: relative (ln loss, default) or raw (nats)"
    )
    parser.add_argument(
        "--over",
        type=float,
        default=1.0,
        help="weight of over-predicted runs; 10 gives the loss law of a lower envelope",
    )
    parser.add_argument(
        "--cluster", metavar="COLUMN", help="resample the loss law by this column, as in params, or a run's name"
    )
    parser.add_argument(
        "--seed-sd", metavar="NATS", type=float, help="noise of a run's loss: of optima, and redrawn for a loss law"
    )
    parser.add_argument("--fixed-E", metavar="NATS", type=float, help="an asymptote of the loss law that is known")
    parser.add_argument(
        "--flops",
        metavar="C,...",
        help="budgets of 6 N D FLOPs: print the size and tokens of least loss, N*(C) and D*(C)",
    )


def _fit(options: argparse.Namespace) -> int:
    from analysis import calculator
    from analysis.law import KINDS
    from analysis.runs.source import load

    require(
        options.law in KINDS, f"--law {options.law} is not one of {', '.join(KINDS)}{nearest(options.law, list(KINDS))}"
    )
    rules = ("best", "fixed")
    require(options.batch_rule in (None, *rules), f"--batch-rule {options.batch_rule} is not one of best, fixed")
    require(options.draws >= 0, f"--draws {options.draws} is below 0")
    out, pictures = options.out, options.pictures
    require(out is None or out.parent.is_dir(), f"--out {out}: the folder {out and out.parent} does not exist")
    require(out is None or not out.is_dir(), f"--out {out} is a folder: give a file, as in {out}/law.json")
    if pictures is not None:
        disk.require_folder(pictures, "--pictures")
    budgets = _budgets(options)
    needed = ("params", "tokens", "loss") if options.law == "loss" else ("lr", "params", "tokens", "loss")
    runs = load(
        options.source,
        columns=shared.columns(options.columns),
        batch_unit=options.batch_unit,
        require=(*needed, "batch") if "batch" in options.law else needed,
        where=shared.where(options.where),
        **shared.readings(options),
    )
    with patience(f"law of the {options.law}") as progress:
        found = calculator.fit(
            runs,
            options.law,
            estimator=options.estimator,
            edges=shared.edges(options.edges),
            batch_rule=options.batch_rule,
            batch_regressors=_names(options.batch_regressors),
            window=_window(options.window),
            draws=options.draws,
            seed=options.seed,
            delta=options.delta,
            form=options.form,
            loss=_loss_options(options),
            progress=progress,
        )
    text = json.dumps(found.law.to_dict() | {"cells": cells_of(found)}, indent=1, allow_nan=False) + "\n"
    if out is not None:
        with disk.whole(out) as path:
            path.write_text(text)
    print(text if options.json else described(found), end="" if options.json else "\n")
    if budgets and not options.json:
        print(_split(found, budgets))
    if options.holdout and not options.json:
        print(judged(found))
    if pictures is not None:
        from analysis.fit_figure import draw

        lines = [f"picture: {path}" for path in draw(found, runs, pictures)]
        print("" if options.json else "\n".join(lines), end="" if options.json else "\n")
    if out is not None and not options.json:
        sizes = "--params N --tokens D"
        print(f"law: {out}; ask it with\n  lrlab predict --law {out} {sizes}")
    return 0


def _loss_options(options: argparse.Namespace) -> "LossOptions":
    """The loss law's own options, refused with the other laws."""
    from analysis.calculator import LossOptions

    require(
        options.objective in ("relative", "raw"),
        f"--objective {options.objective} is not one of relative, raw{nearest(options.objective, ['relative', 'raw'])}",
    )
    found = LossOptions(
        cluster=options.cluster,
        fixed_E=options.fixed_E,
        over=options.over,
        seed_sd=options.seed_sd,
        raw=options.objective == "raw",
    )
    for name, value in vars(found).items():
        word = "--objective raw" if name == "raw" else f"--{name.replace('_', '-')}"
        usual = getattr(LossOptions(), name)
        require(options.law == "loss" or value == usual, f"{word} is about --law loss: leave it out with {options.law}")
    return found


def _budgets(options: argparse.Namespace) -> list[float]:
    """`1e21,1e22` as numbers.

    Raises:
        InputError: a part is no number above 0, or the law is none of the loss.
    """
    if options.flops is None:
        return []
    require(options.law == "loss", f"--flops is about --law loss: leave it out with {options.law}")
    found = []
    for part in options.flops.split(","):
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
        require(0 < found[-1] < math.inf, f"--flops {part} is not a number above 0: write it as in 1e21,1e22")
    return found


def _split(found: "Fit", budgets: list[float]) -> str:
    """The size and tokens of least loss of budgets, in lines."""
    from sweeps.column import aligned

    law = found.law.loss
    assert law is not None
    rows = [["budget", "N*", "95 % interval", "D*", "95 % interval", "loss", "95 % prediction interval"]]
    for flops in budgets:
        params, tokens = ([float(part) for part in of(flops)] for of in (law.best_params, law.best_tokens))
        least = [float(part) for part in law.predict(params[0], tokens[0])]
        rows.append([f"{flops:.3g}"])
        rows[-1] += [word for one in (params, tokens) for word in (f"{one[0]:.4g}", f"{one[1]:.3g} .. {one[2]:.3g}")]
        rows[-1] += [f"{least[0]:.4f}", f"{least[1]:.4f} .. {least[2]:.4f}"]
    low, high = law.interval("a")
    told = f"\nleast loss of budgets C = 6 N D: N* ~ C^{law.params_exponent:.3f} ({low:.3f} .. {high:.3f})"
    return "\n".join([told, *aligned(rows)])


def cells_of(found: "Fit") -> list[dict[str, Any]]:
    """Every cell's optimum as plain data, null where a number is not known; batches in tokens."""
    if found.optima is None:
        return []
    return json.loads(found.optima.frame().to_json(orient="records", double_precision=15))


def _window(text: str) -> float | None:
    """`2%` as 0.02, `all` as None."""
    if text == "all":
        return None
    value = text.removesuffix("%")
    sound = text.endswith("%") and value.replace(".", "", 1).isdigit() and float(value) > 0
    require(sound, f"--window {text} is neither all nor a share of the loss: write it as in 2%")
    return float(value) / 100


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    known = ("params", "tokens")
    names = [name.strip() for name in text.split(",")]
    for name in names:
        require(name in known, f"--batch-regressors {name} is not one of {', '.join(known)}{nearest(name, known)}")
    return names


def described(found: "Fit") -> str:
    """A fit in lines: the law, what other estimators say, the cells, and every note."""
    law = found.law
    parts = [f"{law.name}: law of {law.kind}, estimator {law.estimator}{_counts(law)}"]
    parts += [_power(part, law) for part in (law.lr, law.batch) if part is not None]
    if law.loss is not None:
        parts.append(_loss(law.loss))
    if found.optima is not None:
        parts += [_cells(found), f"noise: {found.optima.noise}"]
    if law.penalty is not None:
        cost = 0.5 * law.penalty.lr * 0.480453  # (ln 2)^2
        parts.append(f"a rate twice too high or too low costs {cost:.2%} of the loss (median of {law.penalty.cells})")
    parts += [f"conditions: {'; '.join(f'{k} {v}' for k, v in law.conditions.items())}"] if law.conditions else []
    parts += [f"note: {note}" for note in law.notes]
    return "\n".join(parts)


def _counts(law: "Law") -> str:
    """Optima and bounds behind a law, of the rate and the batch apart where they differ."""
    counts = {part.response: part.counts for part in (law.lr, law.batch) if part is not None}
    if len(set(counts.values())) < 2:
        return "".join(f"; {told}" for told in set(counts.values()))
    return "".join(f"; {name} {told}" for name, told in counts.items())


def judged(found: "Fit") -> str:
    """The law and its rivals on sizes that they have not seen, in lines."""
    from sweeps.column import aligned

    if found.law.loss is not None:
        return _judged_loss(found)
    parts = [part for part in (found.law.lr, found.law.batch) if part is not None]
    words = "(octaves; intervals of 95 %; score of Winkler, ratio to that of iid)"
    lines = [f"\none size left out at a time{_counts(found.law)} {words}"]
    for part in parts:
        summary = found.judge(part).summary
        header = [part.response, "rms error", "covered", "at the largest", "width", "score", "ratio"]
        names = ("rms_log2", "coverage", "coverage_largest", "width", "winkler", "ratio")
        rows = [
            [method, *("-" if value != value else f"{value:.3g}" for value in (row[name] for name in names))]
            for method, row in zip(summary.index, summary.to_dict("records"), strict=True)
        ]
        lines += aligned([header, *rows])
    return "\n".join(lines)


def _judged_loss(found: "Fit") -> str:
    """The loss law and the straight line in logs on runs larger than those fitted, in lines."""
    from sweeps.column import aligned

    held, notes = found.judge_loss()
    lines = []
    for one in held:
        summary = one.summary
        new = len(one.rows) // len(summary)
        lines.append(f"\nlargest {one.protocol} left out: {one.fitted} rows fitted, {new} predicted (ln L; 95 %)")
        rows = [["", "rms error", "covered", "width", "score", "ratio"]]
        for method, row in summary.items():
            rows.append([method, f"{row['rms']:.2%}", f"{row['covered']:.0%}"])
            rows[-1] += [f"{row[name]:.3g}" for name in ("width", "score", "ratio")]
        lines += aligned(rows)
    lines += [f"note: {note}" for note in notes]
    return "\n".join([*lines, "logs: least squares of ln L on ln N and ln D; score of Winkler, ratio to that of logs"])


def _power(part: "PowerLaw", law: "Law") -> str:
    from sweeps.column import aligned, counted

    what = "lr" if part.response == "lr" else "batch (tokens)"
    formula = " ".join([f"{part.coefficient:.6g}", *(f"{name}^{b:.4f}" for name, b in part.exponents.items())])
    header = ["exponent of", "value", "95 % interval", "if cells were independent"]
    rivals = [rival for rival in law.rivals if rival.response == part.response]
    rows = []
    for name in part.regressors:
        one = part.interval(name)
        rows.append([name, f"{one.value:+.4f}", _limits(one.low, one.high), _limits(*(one.optimistic or (None, None)))])
        rows[-1] += [f"{rival.exponents[name]:+.4f}" if name in rival.exponents else "-" for rival in rivals]
    lines = [f"\n{what} = {formula}    ({part.counts}; {counted(part.sizes, 'size')})"]
    lines += aligned([[*header, *(rival.estimator for rival in rivals)], *rows]) if rows else []
    lines.append(f"scatter about the law: {part.between:.3f} between sizes, {part.within:.3f} within, in ln")
    if part.curvature is not None:
        lines.append(
            f"curvature in ln params: {part.curvature.value:+.3f} ({part.curvature.low:+.3f} .. "
            f"{part.curvature.high:+.3f})"
        )
    lines += [
        f"warning: {rival.words} puts the exponent of {', '.join(rival.outside)} outside the interval: the choice "
        "matters more than the interval tells"
        for rival in rivals
        if rival.outside
    ]
    return "\n".join(lines)


def _limits(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.3f} .. {high:+.3f}"


def _loss(law: "LossLaw") -> str:
    from sweeps.column import aligned

    rows = [["", "value", "95 % interval", *(f"delta {other.delta:g}" for other in law.sensitivity)]]
    for name, value in law.values().items():
        if value is not None:
            low, high = law.interval(name)
            others = [getattr(other, name) for other in law.sensitivity]
            rows.append([name, f"{value:.6g}", f"{low:.4g} .. {high:.4g}", *(f"{other:.5g}" for other in others)])
    how = f"{'raw residuals, ' if law.raw else ''}delta {law.delta:g}"
    how += "" if law.over == 1 else f", over-prediction x{law.over:g}"
    lines = [f"\nloss law {law.form}, {how}: objective {law.objective:.8g}, {law.status}", *aligned(rows)]
    lines.append(f"{law.agreeing} of {law.starts} starts agree; condition number {law.condition:.3g}; {law.rows} rows")
    lines += [f"intervals over resamples of {law.resampling}"] if law.draws else []
    if law.lack_of_fit is not None and not law.lack_of_fit.found:
        lines.append(f"lack of fit: {law.lack_of_fit.words}")
    return "\n".join([*lines, *(f"flag: {flag}" for flag in law.flags)])


def _cells(found: "Fit") -> str:
    from sweeps.column import aligned

    assert found.optima is not None
    joint = found.optima.joint
    has_batch = joint or any("batch" in cell.at for cell in found.optima.cells)
    header = ["params", "tokens", *(["batch"] if has_batch else []), "optimum lr", "95 % interval", "loss", "quality"]
    rows = []
    for cell in found.optima.cells:
        best_lr, best_batch, least = cell.argmin
        batch = cell.at.get("batch", best_batch if cell.batch is None else cell.batch.value)
        side = {"low": "below", "high": "above"}.get(cell.edge.lr, "")
        bound = f"{side} {cell.edge.bound:.4g}; " if side and math.isfinite(cell.edge.bound) else ""
        rows.append(
            [
                f"{cell.at['params']:.6g}",
                f"{cell.at['tokens']:.6g}",
                *([f"{batch:.6g}"] if has_batch else []),
                f"{bound}best run {best_lr:.4g}" if cell.lr is None else f"{cell.lr.value:.4g}",
                "-" if cell.lr is None else f"{cell.lr.low:.3g} .. {cell.lr.high:.3g}",
                f"{least if cell.lr is None else cell.loss:.4f}",
                cell.quality,
            ]
        )
    return "\n".join(["", *aligned([header, *rows], left=0)])
