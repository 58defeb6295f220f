"""Losses to fit: published ones from the shared folder, and exact or noisy ones from a known surface."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.loss.objective import Objective, point

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def chinchilla(shared: Path, rows: int = 240) -> pd.DataFrame:
    """The points read back from the figure of arXiv 2203.15556, without the largest losses (245 rows are all)."""
    found = pd.read_csv(shared / "laws" / "chinchilla_svg.csv")
    frame = pd.DataFrame({"params": found["Model Size"], "flops": found["Training FLOP"], "loss": found["loss"]})
    frame["tokens"] = frame["flops"] / (6 * frame["params"])
    return frame[frame["loss"].rank(method="first") <= rows]


def best_runs(shared: Path) -> pd.DataFrame:
    """The best run of every OpenEuroLLM cell."""
    found = pd.read_csv(shared / "laws" / "openeurollm_runs.csv").rename(columns={"N": "params", "D": "tokens"})
    return found.loc[found.groupby(["params", "tokens"])["loss"].idxmin(), ["params", "tokens", "loss"]]


def at(params: np.ndarray, tokens: np.ndarray, truth: dict[str, float] = TRUTH) -> pd.DataFrame:
    """Exact losses E + A N^-alpha + B D^-beta."""
    loss = truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})


def surface_of(frame: pd.DataFrame, **changes: float) -> pd.DataFrame:
    """The frame's places with exact losses of the truth, changed."""
    return at(frame["params"].to_numpy(float), frame["tokens"].to_numpy(float), TRUTH | changes)


def grid(sizes: int = 6, horizons: int = 6) -> pd.DataFrame:
    """Exact losses on a grid of sizes from 3e7 to 3e9 and tokens from 1e9 to 1e11."""
    params, tokens = np.meshgrid(np.geomspace(3e7, 3e9, sizes), np.geomspace(1e9, 1e11, horizons), indexing="ij")
    return at(params.ravel(), tokens.ravel())


def with_noise(frame: pd.DataFrame, sd: float, seed: int = 0) -> pd.DataFrame:
    """The losses times exp(sd x normal)."""
    noise = np.exp(sd * np.random.default_rng(seed).standard_normal(len(frame)))
    return frame.assign(loss=frame["loss"] * noise)


def noisy(sd: float, seed: int = 0) -> pd.DataFrame:
    """The grid with noise."""
    return with_noise(grid(), sd, seed)


def budgets(truth: dict[str, float], decades: float) -> pd.DataFrame:
    """Five budgets 1e17..1e21, 15 points each, log10 D over `decades` centred on the true optimum."""
    alpha, beta = truth["alpha"], truth["beta"]
    factor = (alpha * truth["A"] / (beta * truth["B"])) ** (1 / (alpha + beta))
    flops = np.logspace(17, 21, 5)[:, None]
    best = (flops / 6) ** (alpha / (alpha + beta)) / factor
    tokens = best * 10 ** np.linspace(-decades / 2, decades / 2, 15)[None]
    return at((flops / 6 / tokens).ravel(), tokens.ravel(), truth)


def assert_derivatives(goal: Objective, theta_P: np.ndarray, weight_1C: np.ndarray, step: float = 1e-6) -> None:
    """Gradient and Hessian of an objective against central differences."""
    y_1C = goal.y_C[None]
    here = point(goal, theta_P[None], weight_1C, y_1C)
    for place in range(len(theta_P)):
        moved = np.stack([theta_P, theta_P])
        moved[:, place] += [step, -step]
        up_down = point(goal, moved, weight_1C, y_1C)
        slope = (up_down.value_M[0] - up_down.value_M[1]) / (2 * step)
        assert here.gradient_MP[0, place] == pytest.approx(slope, rel=1e-5, abs=1e-9)
        bend_P = (up_down.gradient_MP[0] - up_down.gradient_MP[1]) / (2 * step)
        assert here.hessian_MPP[0, place] == pytest.approx(bend_P, rel=1e-4, abs=1e-5 * np.abs(here.hessian_MPP).max())
