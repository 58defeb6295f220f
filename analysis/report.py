"""The report of a sweep: figures, a JSON summary, a text table, and one self-contained HTML page."""

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import figure
from analysis.drift import Cell, Drift, drifts, read_cells, summary
from analysis.noise import Noise, alike
from analysis.optimum import Optimum
from analysis.regret import KEEPS
from analysis.results import Results, axis_label, describe, load
from analysis.sharpness.section import Section, sections
from analysis.transfer import MOVES, TRANSFERS, Transfer, transfer_json, transfers
from lab import disk

Table = tuple[list[str], list[list[str]]]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; font-size: 12px; }
.note { color: #666; } .runs { font-size: 13px; }
"""


@dataclass(frozen=True)
class Report:
    """Everything a report shows; `sharpness` has sections only where the store has points of a sharpness probe."""

    results: Results
    cells: list[Cell]
    drifts: list[Drift]
    transfers: list[Transfer]
    noise: Noise
    sharpness: tuple[Section, ...] = ()

    def summary(self) -> dict[str, Any]:
        found = summary(self.cells, self.drifts, self.noise, self.results.optimum_axis)
        found["transfer"] = [transfer_json(transfer) for transfer in self.transfers]
        found |= {"notes": self.results.notes} if self.results.notes else {}
        return found | ({"sharpness": [one.summary() for one in self.sharpness]} if self.sharpness else {})

    def tables(self) -> tuple[Table, ...]:
        """(header, rows) of the optima, of the drifts and of the transfers, then those of sharpness, as text."""
        axes = list(self.results.cell_axes)
        header = [axis_label(name) for name in axes]
        lr = axis_label(self.results.optimum_axis)
        optima = [[*(str(cell.values[name]) for name in axes), *_optimum_columns(cell.optimum)] for cell in self.cells]
        moved = [
            [describe(d.group), f"{axis_label(d.axis)} {d.start} -> {d.end}", *_drift_columns(d)] for d in self.drifts
        ]
        return (
            # fit: rates in the fit; div: diverged rates
            ([*header, f"optimum {lr}", "log2, 95 % interval", "loss", "quality", "fit", "div", "far"], optima),
            (["cells", "along", "drift (octaves)", "95 % interval"], moved),
            (
                ["cells", "along", "slope", "90 % interval", "verdict", "used", "regret at the largest"],
                [[describe(t.group), axis_label(t.axis), *_transfer_columns(t)] for t in self.transfers],
            ),
            *(table for one in self.sharpness for _, table in one.tables()),
        )

    def answers(self) -> list[str]:
        """Whether a rate may be carried from the smallest size to the larger ones, a line per transfer."""
        return [
            f"{describe(t.group)}: the rate of {axis_label(t.axis)} {t.sizes[0]} {t.carried.sentence}"
            + (f"; slope: {t.verdict}" if t.verdict else "")
            for t in self.transfers
            if t.carried
        ]

    def notes(self) -> list[str]:
        """What the tables leave unsaid, a line each: runs of other numerics, why a transfer's verdict is open, and how
        its interval was found.

        Two sizes have no slope to speak of, and no line.
        """
        axis, alikes = self.results.optimum_axis, []
        for values, rows in self.results.cells():
            told = alike(rows, axis)
            alikes += [f"{describe(values)}: {told}"] if told else []
        return [*self.results.notes, *alikes] + [
            f"{describe(t.group)}, along {axis_label(t.axis)}: {t.note}" for t in self.transfers if t.verdict and t.note
        ]


def read(root: Path, noise: Noise | None = None) -> Report:
    """The report of a store, finished or not; `noise` takes the place of what its repeats show.

    Raises:
        InputError: the folder is not a store, or a point of a probe is damaged.
    """
    results = load(root)
    cells, noise = read_cells(results, noise)
    judged = [] if results.smoke else cells
    measured = tuple(sections(root, results)) if root.is_dir() else ()  # a file of lrlab export has no points
    return Report(results, cells, drifts(judged), transfers(judged, noise), noise, measured)


def write(root: Path, noise: Noise | None = None) -> tuple[Report, Path]:
    """Write figures, `summary.json` and `report.html`, and give the page's path.

    They go into `DIR/report/`, or `NAME-report/` beside a file NAME.csv of lrlab export.

    Raises:
        InputError: as `read`, or the folder is a link that leads out of the store.
        DiskFull: there is no room; older files are left as they were.
    """
    report = read(root, noise)
    folder = root / "report" if root.is_dir() else root.with_name(f"{root.stem}-report")
    disk.require_inside(folder.parent, folder)
    disk.require_folder(folder, "the report's place")
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        disk.require_inside(folder.parent, path)
    pictures = [figure.save(figure.curves(report.cells, report.results.optimum_axis), folder, "curves")]
    for axis in sorted({drift.axis for drift in report.drifts}):
        drawn = figure.optima(report.cells, axis, report.results.optimum_axis, report.transfers)
        pictures.append(figure.save(drawn, folder, f"optimum_vs_{axis_label(axis)}"))
    measured = [
        [
            figure.save(drawn, folder, name if number == 1 else f"{name}_{number}")[0]
            for name, drawn in one.figures().items()
        ]
        for number, one in enumerate(report.sharpness, start=1)
    ]
    disk.write_atomic(folder / "summary.json", (json.dumps(report.summary(), indent=1) + "\n").encode())
    page = folder / "report.html"
    disk.write_atomic(page, _page(report, [paths[0] for paths in pictures], measured).encode(errors="replace"))
    return report, page


def _optimum_columns(found: Optimum) -> list[str]:
    runs = [str(found.points) if found.lr else "-", str(found.diverged), str(found.far)]
    loss = "-" if found.loss is None else f"{found.loss:.4f}"
    if found.lr is None or found.low is None or found.high is None:
        best = "-" if found.best_lr is None else f"best run {math.log2(found.best_lr):.2f}"
        return ["-", best, loss, found.quality, *runs]
    interval = f"{math.log2(found.lr):.2f} ({math.log2(found.low):.2f} .. {math.log2(found.high):.2f})"
    return [f"{found.lr:.4g}", interval, loss, found.quality, *runs]


def _drift_columns(drift: Drift) -> list[str]:
    if drift.octaves is None or drift.low is None or drift.high is None:
        return ["-", "an end has no interior optimum"]
    return [f"{drift.octaves:+.2f}", f"{drift.low:+.2f} .. {drift.high:+.2f}"]


def _transfer_columns(found: Transfer) -> list[str]:
    line, last = found.line, found.regrets[-1]
    slope = [f"{line.slope:+.3f}", f"{line.low:+.3f} .. {line.high:+.3f}"] if line else ["-", "-"]
    regret = last.note if last.percent is None else f"{last.percent:.2f} % ({last.nats:.4f} nat)"
    return [*slope, found.verdict or "-", f"{found.used}/{len(found.sizes)}", regret]


def _page(report: Report, pictures: Sequence[Path], measured: Sequence[Sequence[Path]] = ()) -> str:
    """The page; `measured` holds the pictures of each section on sharpness."""
    sweep, frame = report.results.sweep, report.results.frame
    counts = frame["status"].value_counts().to_dict()
    optima, moved, carried = report.tables()[:3]
    body = [
        f"<h1>{html.escape(sweep['name'])}</h1>",
        f"<p><b>Question.</b> {html.escape(sweep['question'])}<br><b>Expected.</b> {html.escape(sweep['expected'])}"
        f"<br><b>Runs.</b> {html.escape(', '.join(f'{n} {status}' for status, n in counts.items()))}</p>",
        _images(pictures),
        "<h2>Optimum of each cell</h2>",
        _table(*optima),
        f'<p class="note">Local quadratic in log {html.escape(axis_label(report.results.optimum_axis))}; intervals '
        f"from {html.escape(report.noise.source)}. fit: rates in the fit; "
        "div: rates with a run that became non-finite, far: rates whose runs ended too high to be fitted, both "
        "crosses in the figure.</p>",
        "<h2>Drift of the optimum</h2>" + _table(*moved) if report.drifts else "",
        _transfers(report, carried) if report.transfers else "",
        *(_sharpness(one, paths) for one, paths in zip(report.sharpness, measured, strict=True)),
        "<h2>Environment</h2>",
        _pre(_environments(report.results.records)),
        "<h2>Runs</h2>",
        _runs(report.results),
    ]
    title = html.escape(sweep["name"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _transfers(report: Report, table: Table) -> str:
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in report.notes())
    answers = "".join(f"<p><b>{html.escape(answer)}</b></p>" for answer in report.answers())
    return (
        "<h2>Slope of the optimum, and regret</h2>"
        + answers
        + '<p class="note">'
        + html.escape(
            f"keeps: at every larger size the rate gives up at most {KEEPS:g} % of the loss, by a 95 % bound; "
        )
        + "loses: more, by such a bound.</p>"
        + _table(*table)
        + '<p class="note">Slope of log2 optimum against log2 size, dashed in the figure. '
        + html.escape(f"transfers: the interval lies within +-{TRANSFERS:g}; moves: beyond -{MOVES:g} or +{MOVES:g}. ")
        + "used: cells with an interior optimum. Regret: the loss at the optimum of the smallest size, above the "
        "fitted minimum.</p>" + notes
    )


def _sharpness(section: Section, pictures: Sequence[Path]) -> str:
    tables = "".join(f"<h3>{html.escape(title)}</h3>{_table(*table)}" for title, table in section.tables())
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in section.notes())
    return f"<h2>{html.escape(section.title)}</h2>{_images(pictures)}{tables}{notes}"


def _images(pictures: Sequence[Path]) -> str:
    return "\n".join(
        f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></p>'
        for path in pictures
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(word)}</th>" for word in header)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(word)}</td>" for word in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _pre(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=1))}</pre>"


def _environments(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct machines and versions behind the records."""
    seen: dict[str, dict[str, Any]] = {}
    for record in records.values():
        where = {key: record["exec"][key] for key in ("platform", "device", "devices", "lanes", "strategy", "versions")}
        seen[json.dumps(where, sort_keys=True)] = where
    return list(seen.values())


def _runs(results: Results) -> str:
    """Every run: its place in the sweep, its loss, and its whole configuration folded away."""
    axes = list(results.sweep["axes"])
    lines = []
    for run_id, point in results.sweep["runs"].items():
        record = results.records.get(run_id)
        values = [str(point.get(name, "")) for name in axes]
        status = "pending" if record is None else record["status"]
        loss = record["validation"]["loss"] if record else None
        config = f"<details><summary>config</summary>{_pre(results.configs[run_id])}</details>"
        cells = [run_id, *values, status, "-" if loss is None else f"{loss:.4f}"]
        lines.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + f"<td>{config}</td></tr>")
    words = ["run", *map(axis_label, axes), "status", "loss", ""]
    head = "".join(f"<th>{html.escape(word)}</th>" for word in words)
    return f'<table class="runs"><tr>{head}</tr>{"".join(lines)}</table>'
