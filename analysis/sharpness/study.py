"""What the points of one quantity in one group of runs amount to: distances, exponents and growth with the size.

Near the edge of stability a curve swings from update to update, and the quantity that has a meaning is its time average
(Cohen et al. 2021, arXiv 2103.00065).  Where the late ratio of any size of a group is above `EDGE`, verdicts on its
spectra are therefore on each run's mean over the late window, one number per run, and not on its single updates.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.results import describe
from analysis.sharpness.distance import MARGIN, Contrast, Distance, Verdict, contrast, distance, joint
from analysis.sharpness.exponent import Exponent, exponents
from analysis.sharpness.growth import Growth, growth
from analysis.sharpness.late import WINDOW, inside, late
from analysis.sharpness.points import RATE_AXIS, Points
from analysis.sharpness.track import Track, change, common, tracks, without
from lab.config.probe import SPECTRA

NAMES = "parametrization.name"
REFERENCE = "mup"  # what other parametrizations are contrasted with
# Quantities that are judged, where a store has them; `CHANGES` also as the change since initialisation.
JUDGED = (
    "preconditioned",
    "hessian",
    "gauss_newton",
    "residual",
    "tangent_kernel",
    "trace",
    "directional",
    "loss",
    "train_loss",
)
EDGE = 0.8  # of the ratio to the edge of stability
CHANGES = ("preconditioned", "hessian", "tangent_kernel", "loss")


@dataclass(frozen=True)
class Settings:
    """How points are judged: the margin as a share of S_inf, whether seeds are paired across sizes, and between which
    shares of the last step the late ratio is taken.
    """

    margin: float = MARGIN
    paired: bool = False
    window: tuple[float, float] = WINDOW


DEFAULT = Settings()


@dataclass(frozen=True)
class Study:
    """A quantity S in a group, or with `since_start` its change S(t) - S(0), at the steps that all its runs have.

    Distances and exponents are by size, without the largest.  `verdict` is of all sizes together; with `averaged` it
    and those of the distances are on time averages, see the module.
    """

    track: Track
    since_start: bool
    distances: dict[Any, Distance]
    exponents: dict[Any, Exponent | None]
    pooled: Exponent | None
    growth: Growth | None
    verdict: Verdict
    averaged: bool = False

    @property
    def name(self) -> str:
        return self.track.quantity + (", change" if self.since_start else "")


def studies(points: Points, settings: Settings = DEFAULT) -> list[Study]:
    """Every judged quantity in every group, in this order; groups of one size have no distances and no growth."""
    found = []
    edge = {describe(group) for group in _near_the_edge(points, settings)}
    for quantity in (name for name in JUDGED if name in points.quantities):
        forms = (False, True) if quantity in CHANGES else (False,)
        of_quantity = [common(track) for track in tracks(points, quantity)]
        found += [
            study(track, settings, since_start=form, near_edge=quantity in SPECTRA and describe(track.group) in edge)
            for form in forms
            for track in of_quantity
            if len(track.steps_T)
        ]
    return found


def study(track: Track, settings: Settings = DEFAULT, *, since_start: bool = False, near_edge: bool = False) -> Study:
    """The statistics of a track at common steps (`analysis.sharpness.track.common`)."""
    moved = change(track) if since_start else track
    late_T = inside(track.steps_T, settings.window) & (track.steps_T > 0)
    averaged = near_edge and bool(late_T.any())
    judged = []
    *sizes, proxy = moved.sizes
    distances = {}
    for place, size in enumerate(sizes):
        values_ST, proxy_ST, scale_ST = _sides(moved, track, place, settings.paired)
        if len(values_ST) and len(proxy_ST):
            distances[size] = distance(
                (size, proxy),
                moved.steps_T,
                values_ST,
                proxy_ST,
                scale_ST=scale_ST,
                margin=settings.margin,
                paired=settings.paired,
            )
            if averaged:
                mean_of = (values[:, late_T].mean(axis=1, keepdims=True) for values in (values_ST, proxy_ST, scale_ST))
                mine_S1, theirs_S1, unit_S1 = mean_of
                mean = distance(
                    (size, proxy),
                    track.steps_T[late_T][-1:],
                    mine_S1,
                    theirs_S1,
                    scale_ST=unit_S1,
                    margin=settings.margin,
                    paired=settings.paired,
                )
                judged.append(mean)
                distances[size] = dataclasses.replace(distances[size], verdict=mean.verdict)
    found, pooled = _exponents(moved, distances, settings.paired)
    return Study(
        track=moved,
        since_start=since_start,
        distances=distances,
        exponents=found,
        pooled=pooled,
        growth=growth(moved.sizes, moved.steps_T, moved.values_NST),
        verdict=joint(judged if averaged else list(distances.values())),
        averaged=averaged,
    )


def contrasts(found: list[Study], reference: str = REFERENCE) -> list[tuple[Study, Study, Any, Contrast]]:
    """(study, the reference's, size, contrast) for every other parametrization, quantity and size.

    Groups are matched on their other axes; rates, which parametrizations may have each their own of, by their order
    where both have as many, else by value.
    """
    pairs = []
    for one in found:
        if one.track.group.get(NAMES, reference) != reference:
            other = next((two for two in found if _matches(one, two, found, reference)), None)
            if other is not None:
                shared = [size for size in one.distances if size in other.distances]
                pairs += [(one, other, size, contrast(one.distances[size], other.distances[size])) for size in shared]
    return pairs


def rate(group: Mapping[str, Any]) -> float:
    """A group's learning rate; nan where the rate is no axis."""
    value = group.get(RATE_AXIS)
    return math.nan if value is None else float(value)


def _near_the_edge(points: Points, settings: Settings) -> list[dict[str, Any]]:
    """The groups in which a size has a late ratio above `EDGE`."""
    found = []
    for track in map(common, tracks(points, "ratio")):
        ratios = [late(track.steps_T, track.seeds(place), settings.window) for place in range(len(track.sizes))]
        if any(ratio is not None and ratio.median > EDGE for ratio in ratios):
            found.append(track.group)
    return found


def _sides(moved: Track, track: Track, place: int, paired: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[seeds, steps] of a size, of the largest, and of the largest's S; paired: of the seeds that both have."""
    present_NS = track.present_NS
    mine_S, proxy_S = present_NS[place], present_NS[-1]
    if paired:
        mine_S = proxy_S = mine_S & proxy_S
    return moved.values_NST[place, mine_S], moved.values_NST[-1, proxy_S], track.values_NST[-1, proxy_S]


def _exponents(
    moved: Track, distances: Mapping[Any, Distance], paired: bool
) -> tuple[dict[Any, Exponent | None], Exponent | None]:
    """Exponents of the sizes that have distances; paired seeds are those that all of these sizes have."""
    if not distances:
        return {}, None
    places = [moved.sizes.index(size) for size in distances]
    present_NS = moved.present_NS
    if paired:
        present_NS = np.broadcast_to(present_NS[[*places, -1]].all(axis=0), present_NS.shape)
        if not present_NS.any():
            return dict.fromkeys(distances), None
    above_NT = np.array([np.abs(one.signed_T) > one.threshold_T for one in distances.values()])
    found, pooled = exponents(
        moved.steps_T,
        [moved.values_NST[place, present_NS[place]] for place in places],
        moved.values_NST[-1, present_NS[-1]],
        above_NT,
        paired=paired,
    )
    return dict(zip(distances, found, strict=True)), pooled


def _matches(one: Study, two: Study, found: list[Study], reference: str) -> bool:
    same = (one.track.quantity, one.since_start) == (two.track.quantity, two.since_start)
    if not same or two.track.group.get(NAMES) != reference:
        return False
    if without(one.track.group, NAMES, RATE_AXIS) != without(two.track.group, NAMES, RATE_AXIS):
        return False
    mine, theirs = _rates(one, found), _rates(two, found)
    if len(mine) != len(theirs):
        return rate(one.track.group) == rate(two.track.group)
    return not mine or mine.index(rate(one.track.group)) == theirs.index(rate(two.track.group))


def _rates(one: Study, found: list[Study]) -> list[float]:
    """The rates of a study's siblings, ascending."""
    rest = without(one.track.group, RATE_AXIS)
    rates = {
        rate(two.track.group)
        for two in found
        if two.track.quantity == one.track.quantity and without(two.track.group, RATE_AXIS) == rest
    }
    return sorted(value for value in rates if not math.isnan(value))
