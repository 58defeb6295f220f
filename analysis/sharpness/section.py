"""What a report says about sharpness: tables, notes, figures and plain data, for one probe and one batch."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from analysis.drift import named
from analysis.results import Results, axis_label, describe
from analysis.sharpness import figure, plain
from analysis.sharpness.exponent import Exponent
from analysis.sharpness.late import Late, late
from analysis.sharpness.panel import named as study_name
from analysis.sharpness.points import Points, count, read_all, size_axes
from analysis.sharpness.study import DEFAULT, EDGE, Settings, Study, contrasts, studies
from analysis.sharpness.track import common, tracks

Table = tuple[list[str], list[list[str]]]
_CONTRASTED = ("tangent_kernel", "loss")


@dataclass(frozen=True)
class Section:
    """The points, how they were judged, what came of it, and the late ratio by group (in words) and size."""

    points: Points
    settings: Settings
    studies: list[Study]
    ratios: dict[str, dict[Any, Late]]

    @property
    def title(self) -> str:
        where = self.points
        return f"Sharpness along {axis_label(where.size_axis)}" + (f", probe {where.probe_id}" * bool(where.probe_id))

    @property
    def batch(self) -> str:
        """The batch that every sharpness and ratio here is of, in words."""
        sequences, tokens = (self.points.measurement.get(name) for name in ("sequences", "tokens"))
        if sequences is None:
            return f"the measurement batch {self.points.batch}"
        return f"a batch of {sequences} sequences" + (f" ({tokens} tokens)" if tokens is not None else "")

    def tables(self) -> list[tuple[str, Table]]:
        """(title, (header, rows)) of the cells, of the quantities and of the contrasts, as text; no empty ones."""
        size = axis_label(self.points.size_axis)
        cells = ["cell", size, "seeds", "div", "step", "sharpness", "late ratio", "distance %, 90 %", "beta"]
        quantities = ["cell", "quantity", f"d log S / d log {size}", "beta", "above noise", "verdict"]
        against = ["cell", "against", "quantity", size, "last step in % (95 %)", "mean of steps in % (95 %)"]
        made = [
            ("Sharpness by cell", ([*cells, "verdict"], self._cells())),
            ("Growth and consistency by quantity", (quantities, [_quantity(self.points, one) for one in self.studies])),
            ("Relative distances against another parametrization", (against, self._contrasts())),
        ]
        return [(title, table) for title, table in made if table[1]]

    def notes(self) -> list[str]:
        """How to read the tables, a line each."""
        where, share = self.points, f"{100 * self.settings.margin:g} %"
        measured = ", ".join(f"{name} {value}" for name, value in where.measurement.items() if value is not None)
        found = [
            f"{count(where)} points; measured on: {measured}.",
            "div: diverged runs, which are left out. Intervals are at 95 % over seeds, those of distances at 90 %.",
        ]
        if any(one.distances for one in self.studies):
            found += [
                f"distance: of the seed means to the largest size, at the last common step, in % of it. Verdicts judge "
                f"all steps after 0 against +-{share}: consistent within (90 % intervals), differs beyond (Simes).",
                "beta: exponent of |S_N - S_inf| in the updates; (noise) where most distances are within the noise, "
                "which has a beta near 0 of its own.",
            ]
        if any(one.averaged and one.distances for one in self.studies):
            first, last = (f"{100 * share:g} %" for share in self.settings.window)
            found.append(
                f"Where a late ratio is above {EDGE:g}, verdicts on spectra are on each run's mean over updates from "
                f"{first} to {last}: near the edge single updates swing."
            )
        if self.ratios:
            first, last = (f"{100 * share:g} %" for share in self.settings.window)
            found.append(
                f"late ratio: sharpness over the edge of stability, median over updates from {first} to {last} of the "
                f"run, mean over seeds; 1 is the edge. It is of {self.batch}, not of the training loss: a "
                "smaller batch gives a larger one."
            )
        return found

    def figures(self) -> dict[str, Figure]:
        """Figures by file name."""
        return figure.figures(self.points, self.studies)

    def summary(self) -> dict[str, Any]:
        """Everything as plain data; None where a number does not exist."""
        where = self.points
        return {
            "probe_id": where.probe_id or None,
            "batch": where.batch,
            "points": count(where),
            "measurement": where.measurement,
            "axis": axis_label(where.size_axis),
            "sharpness": where.sharpness,
            "margin": self.settings.margin,
            "paired": self.settings.paired,
            "late_ratio": [
                {**named(track.group), axis_label(where.size_axis): size, **plain.fields(found), "batch": self.batch}
                for track, by_size in self._ratios()
                for size, found in by_size.items()
            ],
            "studies": [plain.study(one, axis_label(where.size_axis)) for one in self.studies],
            "contrasts": [
                plain.contrast(one, other, size, axis_label(where.size_axis), found)
                for one, other, size, found in contrasts(self.studies)
            ],
        }

    def _ratios(self) -> list[tuple[Any, dict[Any, Late]]]:
        return [(track, self.ratios.get(describe(track.group), {})) for track in tracks(self.points, "ratio")]

    def _cells(self) -> list[list[str]]:
        rows = []
        for one in self.studies:
            track = one.track
            if track.quantity != self.points.sharpness or one.since_start:
                continue
            label = describe(track.group)
            for place, size in enumerate(track.sizes):
                values_S = track.seeds(place)[:, -1]
                rows.append(
                    [
                        label,
                        str(size),
                        str(len(values_S)),
                        str(track.lost.get(size, 0)),
                        str(track.steps_T[-1]),
                        _mean(values_S),
                        _late(self.ratios.get(label, {}).get(size)),
                        *_distance_words(one, size),
                    ]
                )
            gone = [size for size in track.lost if size not in track.sizes]
            rows += [[label, str(size), "0", str(track.lost[size]), *["-"] * 6] for size in gone]
        return rows

    def _contrasts(self) -> list[list[str]]:
        shown = (self.points.sharpness, f"{self.points.sharpness}, change", *_CONTRASTED)
        return [
            [
                describe(one.track.group),
                describe(other.track.group),
                study_name(self.points, one),
                str(size),
                _percent(found.value_T[-1], found.low_T[-1], found.high_T[-1]),
                _percent(*found.mean),
            ]
            for one, other, size, found in contrasts(self.studies)
            if one.name in shown and len(found.steps_T)
        ]


def section(points: Points, settings: Settings = DEFAULT) -> Section:
    """The statistics of a table of points."""
    ratios = {}
    for track in map(common, tracks(points, "ratio")):
        by_size = {
            size: late(track.steps_T, track.seeds(place), settings.window) for place, size in enumerate(track.sizes)
        }
        ratios[describe(track.group)] = {size: found for size, found in by_size.items() if found is not None}
    return Section(points, settings, studies(points, settings), ratios)


def sections(root: Path, results: Results) -> list[Section]:
    """The sections of a store, one per probe, measurement batch and size that varies; none where it has no points.

    Raises:
        InputError: a point is damaged.
    """
    return [
        section(dataclasses.replace(points, size_axis=axis))
        for points in read_all(root, results)
        for axis in size_axes(points.frame)
    ]


def _quantity(points: Points, one: Study) -> list[str]:
    slope, beta = "-", "-"
    if one.growth is not None:
        found = one.growth
        slope = _interval(found.value_T[-1], found.low_T[-1], found.high_T[-1], "+.3f")
    fit = one.pooled or next(iter(one.exponents.values()), None)
    if fit is not None:
        beta = _interval(fit.beta.value, fit.beta.low, fit.beta.high, ".2f")
    above = "-" if fit is None else f"{100 * fit.above:.0f} %"
    return [
        describe(one.track.group),
        study_name(points, one),
        slope,
        beta,
        above,
        one.verdict if one.distances else "-",
    ]


def _distance_words(one: Study, size: Any) -> list[str]:
    found = one.distances.get(size)
    if found is None:
        return ["largest" if size == one.track.sizes[-1] and len(one.track.sizes) > 1 else "-", "-", "-"]
    relative = _around(100 * found.relative_T[-1], 100 * found.high_T[-1], "+.1f")
    return [relative, _beta(one.exponents[size]), found.verdict]


def _mean(values_S: np.ndarray) -> str:
    value, seeds = float(values_S.mean()), len(values_S)
    if seeds < 2:
        return f"{value:.4g}"
    return f"{value:.4g} +- {stats.t.ppf(0.975, seeds - 1) * stats.sem(values_S):.2g}"


def _beta(fit: Exponent | None) -> str:
    if fit is None:
        return "-"
    return _around(fit.beta.value, fit.beta.high, ".2f") + ("" if fit.readable else " (noise)")


def _late(found: Late | None) -> str:
    return "-" if found is None else _around(found.median, found.high, ".2f")


def _around(value: float, high: float | None, digits: str) -> str:
    """`0.98 +- 0.03`; the value alone without an interval."""
    if high is None or not math.isfinite(high):
        return format(value, digits)
    return f"{value:{digits}} +- {high - value:{digits.strip('+')}}"


def _percent(value: float, low: float, high: float) -> str:
    return _interval(100 * value, 100 * low, 100 * high, "+.1f")


def _interval(value: float, low: float | None, high: float | None, digits: str) -> str:
    """`0.98 (0.95 .. 1.01)`; the value alone without an interval, `-` without a value."""
    if not math.isfinite(value):
        return "-"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return format(value, digits)
    return f"{value:{digits}} ({low:{digits}} .. {high:{digits}})"
