"""How often prediction intervals of loss laws hold the loss of larger runs: a table of `docs/laws_coverage.md`.

    python -m benchmarks.loss_coverage --data FOLDER      # public runs, 100 resamples: minutes on one core
    python -m benchmarks.loss_coverage --laws 60          # simulated truths that are not the model: minutes

FOLDER holds `chinchilla_svg.csv`, `openeurollm_runs.csv`, `steplaw_train.csv` and `steplaw_repo_dense.csv` as their
authors published them.  The largest third and the largest sixth of the sizes, token counts and budgets N D are left out
in turn (`analysis.loss.holdout`).  Per method: per cent covered of a nominal 95 %, and the ratio of its mean interval
score in ln L to that of the straight line in logs.  `0.1.0` are the limits of that version: percentiles of resamples
and the residuals' spread; where it gives none, a run counts as not covered.
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.loss.adequacy import misfit
from analysis.loss.fit import fit_loss_law
from analysis.loss.form import parameters
from analysis.loss.holdout import PROTOCOLS, hold_out
from analysis.loss.law import PARAMETERS, LossLaw
from analysis.loss.newton import minimise
from analysis.loss.search import prepared
from analysis.loss.start import starts
from lab.check import InputError

Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Coverage:
    """Runs predicted, and shares covered and mean scores by method (law, 0.1.0, logs)."""

    runs: int
    covered: dict[str, float]
    score: dict[str, float]


def public(folder: Path) -> dict[str, pd.DataFrame]:
    """The public sets as params, tokens and loss: Chinchilla's 240 points, else every cell's best run."""
    points = pd.read_csv(folder / "chinchilla_svg.csv").rename(
        columns={"Model Size": "params", "Training FLOP": "flops"}
    )
    points = points[points["loss"] < points["loss"].nlargest(5).min()]
    names = {
        "OpenEuroLLM": ("openeurollm_runs.csv", {"N": "params", "D": "tokens"}),
        "Step Law": (
            "steplaw_train.csv",
            {"non_embedding_param_size": "params", "data_size": "tokens", "lm_loss": "loss"},
        ),
        "Step Law, released": ("steplaw_repo_dense.csv", {"N": "params", "D": "tokens", "smooth loss": "loss"}),
    }
    found = {"Chinchilla": points.assign(tokens=points["flops"] / (6 * points["params"]))}
    for name, (file, columns) in names.items():
        frame = pd.read_csv(folder / file)
        frame = frame[list(columns) + (["loss"] if "loss" not in columns.values() else [])].rename(columns=columns)
        found[name] = frame.loc[frame.groupby(["params", "tokens"])["loss"].idxmin()].reset_index(drop=True)
    return {name: frame[["params", "tokens", "loss"]].astype(float) for name, frame in found.items()}


def _chinchilla(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 1.69 + 406.4 * np.exp(-0.34 * n) + 410.7 * np.exp(-0.28 * d)


UNSEEN = "data repeated beyond the runs"  # what none of the fitted runs shows: a control that no interval covers
N0, D0 = np.log(3e8), np.log(1e10)  # the middle of the simulated runs
TRUTHS: dict[str, Surface] = {
    "the law": _chinchilla,
    "Kaplan's form": lambda n, d: (np.exp(0.8 * (np.log(8.8e13) - n)) + np.exp(np.log(5.4e13) - d)) ** 0.095,
    "mixed term": lambda n, d: _chinchilla(n, d) * np.exp(0.003 * (n - N0) * (d - D0)),
    "curved in N": lambda n, d: _chinchilla(n, d) * np.exp(0.004 * (n - N0) ** 2),
    "break in D": lambda n, d: _chinchilla(n, d) + 0.02 * np.logaddexp(0, 2 * (d - D0 + 1)) / 2,
    "repeated data": lambda n, d: _chinchilla(n, np.log(2e10 * -np.expm1(-np.exp(d) / 2e10))),
    UNSEEN: lambda n, d: _chinchilla(n, np.log(6e10 * -np.expm1(-np.exp(d) / 6e10))),
}
NOISES = ("0.002", "0.005 between sizes", "heavy tails")


def simulated(truth: str, noise: str, rng: np.random.Generator) -> pd.DataFrame:
    """Runs of eight sizes and six token counts with a truth and a noise: relative SD 0.002, and 0.005 shared by a size,
    or Student's t with three degrees of freedom."""
    n, d = np.meshgrid(np.linspace(N0 - 2.3, N0 + 2.3, 8), np.linspace(D0 - 2.3, D0 + 2.3, 6), indexing="ij")
    error = 0.002 * (rng.standard_t(3, n.shape) if noise == "heavy tails" else rng.standard_normal(n.shape))
    if noise == "0.005 between sizes":
        error = error + 0.005 * rng.standard_normal((len(n), 1))
    loss = TRUTHS[truth](n, d) * np.exp(error)
    return pd.DataFrame({"params": np.exp(n).ravel(), "tokens": np.exp(d).ravel(), "loss": loss.ravel()})


def quick(frame: pd.DataFrame) -> LossLaw:
    """The law of `fit_loss_law` without resamples, profiles and tests, from every twentieth start."""
    rows, goal = prepared(frame, 1e-3, "chinchilla", None, None, 1.0)
    ends = minimise(goal, starts(goal)[::20], np.ones((1, goal.shape.rows)), steps=60, enough=1e-9)
    best_P = ends.theta_MP[np.argmin(ends.value_M)]
    values_Z = parameters(goal.shape, best_P[None])[0].tolist()
    return LossLaw(
        form="chinchilla",
        **dict(zip(PARAMETERS, values_Z, strict=True)),
        delta=1e-3,
        objective=float(ends.value_M.min()),
        converged=True,
        status="ok",
        flags=(),
        condition=0.0,
        starts=len(ends.value_M),
        agreeing=0,
        rows=goal.shape.rows,
        spread=(0.0, 0.0),
        ranges={},
        sensitivity=(),
        profile={},
        resampling="",
        draws=(),
        misfit=misfit(rows, goal, best_P),
    )


def judge(frame: pd.DataFrame, law: Callable[[pd.DataFrame], LossLaw], protocol: str, share: float) -> Coverage:
    """The law, version 0.1.0's limits where it has draws, and logs on the largest part of some runs.

    Raises:
        InputError: too few are left to fit.
    """
    fitted: list[LossLaw] = []

    def kept(seen: pd.DataFrame) -> LossLaw:
        fitted.append(law(seen))
        return fitted[-1]

    found = hold_out(frame, kept, protocol, share)
    covered = {name: one["covered"] for name, one in found.summary.items()}
    score = {name: one["score"] for name, one in found.summary.items()}
    new = found.rows[found.rows["method"] == "law"]
    _, low, high = dataclasses.replace(fitted[0], misfit=None).predict(new["params"], new["tokens"])
    covered["0.1.0"] = float(((low <= new["actual"]) & (new["actual"] <= high)).mean())
    return Coverage(len(new), covered, score)


def of_public(folder: Path, draws: int) -> dict[tuple[str, str], Coverage]:
    """Every public set and protocol."""
    found = {}
    for name, frame in public(folder).items():
        for protocol in PROTOCOLS:
            for words, share in (("third", 1 / 3), ("sixth", 1 / 6)):
                try:
                    one = judge(frame, lambda seen: fit_loss_law(seen, draws=draws), protocol, share)
                except InputError:
                    continue
                found[name, f"{protocol}, largest {words}"] = one
    return found


def of_truth(truth: str, noise: str, laws: int, seed: int = 0) -> dict[str, Coverage]:
    """Means over simulated laws, for the largest third of the sizes, token counts and budgets."""
    rng = np.random.default_rng([seed, list(TRUTHS).index(truth), NOISES.index(noise)])
    frames = [simulated(truth, noise, rng) for _ in range(laws)]
    found = {}
    for protocol in PROTOCOLS:
        one = [judge(frame, quick, protocol, 1 / 3) for frame in frames]
        found[protocol] = pooled(one)
    return found


def pooled(parts: list[Coverage]) -> Coverage:
    """All runs of some parts together."""
    runs = np.array([one.runs for one in parts], float)
    covered = {name: float(np.average([one.covered[name] for one in parts], weights=runs)) for name in parts[0].covered}
    score = {name: float(np.average([one.score[name] for one in parts], weights=runs)) for name in parts[0].score}
    return Coverage(int(runs.sum()), covered, score)


def _row(words: str, one: Coverage, old: bool) -> str:
    ratio = one.score["law"] / one.score["logs"]
    shares = [one.covered[name] for name in ("law", *(["0.1.0"] if old else []), "logs")]
    return f"| {words} | {one.runs} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} | {ratio:.2f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the public sets")
    parser.add_argument("--draws", type=int, default=100, help="resamples of each law of public runs")
    parser.add_argument("--laws", type=int, default=0, help="simulated laws per truth and noise")
    options = parser.parse_args()
    if options.data:
        found = of_public(options.data, options.draws)
        print("| set, left out | runs | law | 0.1.0 | logs | score, law / logs |\n|---|---|---|---|---|---|")
        for (name, protocol), one in found.items():
            print(_row(f"{name}: {protocol}", one, True))
        for name in dict.fromkeys(name for name, _ in found):
            print(_row(f"**{name}, pooled**", pooled([one for key, one in found.items() if key[0] == name]), True))
        print(_row("**all, pooled**", pooled(list(found.values())), True), flush=True)
    if options.laws:
        print("| truth | noise | runs | law: sizes, token counts, budgets | law | logs | score, law / logs |")
        print("|---|---|---|---|---|---|---|")
        for noise in NOISES:
            for truth in TRUTHS:
                parts = of_truth(truth, noise, options.laws)
                whole = pooled(list(parts.values()))
                shares = ", ".join(f"{100 * one.covered['law']:.0f}" for one in parts.values())
                row = _row(shares, whole, False).split("|")
                print("|".join(["", f" {truth} ", f" {noise} ", row[2], row[1], *row[3:]]), flush=True)


if __name__ == "__main__":
    main()
