"""Laws whose cells have their optimum at an edge of the grid: bounds dropped against bounds entered, in simulation.

    python -m benchmarks.edges                 # the table docs/laws_edges.csv, about an hour on one core
    python -m benchmarks.edges --laws 20       # quick

Laws have six sizes and six budgets, a factor of two apart, the true exponents of `analysis.power.simulation`, and a
known error of every optimum.  A window of rates is laid around the cells, and where the optimum lies outside, its cell
gives a bound at the window's end.  Windows come about in three ways, each with `share` of the cells at an edge:

- `one grid`: the same rates for all sizes, so that small sizes are cut on the high side and large ones on the low side;
- `high side`: the same largest rate for all, below which nothing is cut: small sizes only;
- `random`: every cell has a window of its own around a guess that is wrong by chance.

Truths: the law's own model; scatter of .3 between sizes and .3 within; Student's t with three degrees of freedom; a
curve of .05 (ln N)^2; and windows that know nothing of the law.  Columns: `bias` and `rmse` of the exponents and of ln
lr at a size twice the largest (`target`); per cent of the nominal 95 % intervals that hold the truth (`cover`, an
unbounded one does); median `width`; `open`, per cent of the laws without an interval.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TextIO

import numpy as np
import pandas as pd

from analysis.edges import Edges
from analysis.power.fit import fit_power_law
from analysis.power.law import PowerLaw
from analysis.power.simulation import Laws, Setting, simulate
from analysis.target import read

Window = Literal["one grid", "high side", "random"]
SHARES = (0.2, 0.5, 0.75)
TRUTHS = {
    "model": Setting(6, 0.14, 0.11),
    "wide scatter": Setting(6, 0.3, 0.3),
    "heavy tails": Setting(6, 0.14, 0.11, wrong="heavy tails"),
    "curvature": Setting(6, 0.14, 0.11, wrong="curvature"),
}
_REACH = 0.7  # half of a random window, in ln: a grid of five rates with a factor of 1.6 between them
_EXPONENTS = (-0.6, 0.25)


@dataclass(frozen=True)
class Case:
    """A truth, how its windows come about, and the share of cells at an edge."""

    truth: str
    window: Window
    share: float


def cases() -> Iterator[Case]:
    """The rows of the table."""
    for truth in TRUTHS:
        yield Case(truth, "one grid", 0.0)
        for window in ("one grid", "high side", "random"):
            for share in SHARES if truth == "model" else SHARES[1:2]:
                yield Case(truth, window, share)


def limits(case: Case, y_RC: np.ndarray, law_C: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest optimum [R, C] that the windows of a case let be seen."""
    none = np.full(y_RC.shape, np.inf)
    if case.share == 0:
        return -none, none
    middle = np.median(y_RC)
    if case.window == "one grid":
        half = np.quantile(np.abs(y_RC - middle), 1 - case.share)
        return middle - half - 0 * y_RC, middle + half + 0 * y_RC
    if case.window == "high side":
        return -none, np.quantile(y_RC, 1 - case.share) + 0 * y_RC
    wrong_RC = rng.normal(size=y_RC.shape)
    scales = np.geomspace(0.01, 30, 400)
    shares = [np.mean(np.abs(y_RC - law_C - scale * wrong_RC) > _REACH) for scale in scales]
    guess_RC = law_C + scales[int(np.argmin(np.abs(np.array(shares) - case.share)))] * wrong_RC
    return guess_RC - _REACH, guess_RC + _REACH


def table(laws: Laws, y_C: np.ndarray, low_C: np.ndarray, high_C: np.ndarray) -> pd.DataFrame:
    """The cells of one law as a user would have them."""
    side_C = np.where(y_C < low_C, "low", np.where(y_C > high_C, "high", ""))
    size_C, budget_C = laws.model.design_CP[:, 1], laws.model.design_CP[:, 2]
    return pd.DataFrame(
        {
            "params": np.exp(size_C + 18),
            "tokens": np.exp(budget_C + 23),
            "lr": np.exp(np.clip(y_C, low_C, high_C)),
            "lr_variance": np.where(side_C == "", laws.model.variance_C, np.nan),
            "censored": side_C,
        }
    )


def judged(law: PowerLaw, truth: float, target_P: np.ndarray) -> dict[str, float]:
    """Errors, coverage and width of the exponents, and of ln lr at the target."""
    found: dict[str, float] = {}
    for name, true in zip(("params", "tokens"), _EXPONENTS, strict=True):
        known = name in law.regressors
        one = law.interval(name) if known else None
        value = law.exponents[name] if known else np.nan
        low, high = (one.low, one.high) if one is not None else (None, None)
        open_ = low is None or high is None
        found |= {f"{name} error": value - true, f"{name} open": float(open_)}
        found[f"{name} cover"] = 1.0 if low is None or high is None else float(low <= true <= high)
        found[f"{name} width"] = np.inf if low is None or high is None else high - low
    at = {"params": float(np.exp(target_P[1] + 18)), "tokens": float(np.exp(target_P[2] + 23))}
    told = law.predict(at)
    # A law without an exponent of N or D says nothing of another N or D (`lrlab predict` refuses).
    covers = set(law.regressors) == {"params", "tokens"}
    low, high = (np.log(told.low), np.log(told.high)) if covers and told.low > 0 else (-np.inf, np.inf)
    found |= {"target error": np.log(told.value) - truth if covers else np.nan, "target open": float(np.isinf(high))}
    return found | {"target cover": float(low <= truth <= high), "target width": high - low}


def simulated(case: Case, count: int, seed: int) -> list[dict[str, object]]:
    """The rows of a case, one per way."""
    laws = simulate(TRUTHS[case.truth], count, seed)
    rng = np.random.default_rng(seed + 1)
    law_C = laws.model.design_CP @ np.array([-6.5, *_EXPONENTS])
    low_RC, high_RC = limits(case, laws.y_RC, law_C, rng)
    rows: list[dict[str, object]] = []
    ways: tuple[Edges, ...] = ("drop", "censor") if case.share else ("drop",)
    parts: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    skipped = 0
    for y_C, low_C, high_C, truth in zip(laws.y_RC, low_RC, high_RC, laws.truth_RT[:, 0], strict=True):
        frame = table(laws, y_C, low_C, high_C)
        if (frame["censored"] == "").sum() < 2:
            skipped += 1
            continue
        for way in ways:
            law = fit_power_law(read(frame, edges=way), draws=0, curved=False)
            parts[way].append(judged(law, float(truth), laws.target_TP[0]))
    for way in ways:
        found = pd.DataFrame(parts[way])
        row: dict[str, object] = {"truth": case.truth, "window": case.window if case.share else "all seen"}
        row |= {"share": case.share, "edges": way if case.share else "none", "laws": len(found)}
        for name in ("params", "tokens", "target"):
            error = found[f"{name} error"].to_numpy(float)
            row[f"{name}_bias"] = f"{np.nanmean(error):+.3f}"
            row[f"{name}_rmse"] = f"{np.sqrt(np.nanmean(error**2)):.3f}"
            row[f"{name}_cover"] = f"{100 * found[f'{name} cover'].mean():.0f}"
            row[f"{name}_width"] = f"{found[f'{name} width'].median():.3f}"
            row[f"{name}_open"] = f"{100 * found[f'{name} open'].mean():.0f}"
        rows.append(row)
    return rows


def write(count: int, seed: int, out: TextIO, truths: list[str]) -> None:
    """Write the table as CSV."""
    writer = None
    for case in cases():
        if truths and case.truth not in truths:
            continue
        for row in simulated(case, count, seed):
            if writer is None:
                writer = csv.DictWriter(out, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            out.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", type=int, default=100, help="laws per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--truth", action="append", choices=list(TRUTHS), help="this truth only; again for more")
    arguments = parser.parse_args()
    write(arguments.laws, arguments.seed, sys.stdout, arguments.truth or [])


if __name__ == "__main__":
    main()
