"""Does a prediction's regret happen, and do runs diverge as often as it says?  For docs/laws_coverage.md.

    python -m benchmarks.predictions --laws 400

Laws of `analysis.power.simulation`, whose truth is known: the regret that is told (`PowerLaw.variance`) against the
mean of `K/2 (ln lr - ln lr*)^2` at a size twice the largest, and the probability of divergence against how often the
predicted rate lies above the edge there.  Edges lie a gap above the law, which may move with N, scatter, and are seen
between two rates of a grid.  "0.1.0" is what that version told: half of the central 68 % for the deviation of the rate,
and the mean gap of the largest stable rates.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.power import reml, simulation
from analysis.power.law import mixture_quantile

CURVATURE = 0.03  # relative loss per squared natural log: a rate twice too high costs 0.7 %
STEP = float(np.log(2))  # of the grid of rates


@dataclass(frozen=True)
class Told:
    """Means over laws: what is told, what is true, and 0.1.0's number; for a regret also how often its range holds."""

    told: float
    true: float
    old: float
    held: float = np.nan


def regret(setting: simulation.Setting, laws: int, seed: int = 0) -> Told:
    """The expected regret of laws of one setting at a size twice the largest."""
    found = simulation.simulate(setting, laws, seed)
    held, middle_R, new_K, middle_RK = _posterior(found.model, found.y_RC, found.target_TP[0])
    miss_R = found.truth_RT[:, 0] - middle_R
    told_R = 1 / (held.weight_RK @ (1 / new_K))
    off_RK, sd_K = middle_RK - middle_R[:, None], np.sqrt(new_K)
    inside_RK = special.ndtr((np.abs(miss_R)[:, None] - off_RK) / sd_K)
    inside_RK = inside_RK - special.ndtr((-np.abs(miss_R)[:, None] - off_RK) / sd_K)
    share_R = (held.weight_RK * inside_RK).sum(axis=1)
    half = CURVATURE / 2
    old_R = [_half(held.weight_RK[law], middle_RK[law], new_K) ** 2 for law in range(min(laws, 60))]
    return Told(
        half * float(told_R.mean()),
        half * float((miss_R**2).mean()),
        half * float(np.mean(old_R)),
        float(((share_R > 0.05) & (share_R < 0.95)).mean()),
    )


def divergence(
    setting: simulation.Setting, gap: float, slope: float, scatter: tuple[float, float], laws: int, seed: int = 0
) -> Told:
    """The probability of divergence; the gap of the edge is `gap + slope (ln N - mean)` above the law, and scatters
    with these standard deviations between sizes and between curves."""
    found = simulation.simulate(setting, laws, seed)
    rng = np.random.default_rng(seed + 1)
    design_CP, target_P = found.model.design_CP, found.target_TP[0]
    _, rate_R, spread_K, _ = _posterior(found.model, found.y_RC, target_P)
    truth_P = simulation.TRUTH_P + np.array([gap, slope, 0.0])
    own_RG = scatter[0] * rng.normal(size=(laws, setting.sizes))
    edge_RC = design_CP @ truth_P + own_RG[:, found.model.group_C] + scatter[1] * rng.normal(size=found.y_RC.shape)
    phase_R1 = rng.uniform(size=(laws, 1)) * STEP
    stable_RC = phase_R1 + STEP * np.floor((edge_RC - phase_R1) / STEP)
    seen = reml.Model(design_CP, np.full(len(design_CP), STEP**2 / 12), np.arange(len(design_CP)))
    held, middle_R, _, _ = _posterior(seen, stable_RC + STEP / 2, target_P)
    scatter_R = 1 / (held.weight_RK @ (1 / np.maximum(held.between_K + held.within_K, 1e-300)))
    told_R = special.ndtr((rate_R - middle_R) / np.sqrt(scatter_R))
    true_R = special.ndtr((rate_R - target_P @ truth_P) / np.hypot(*scatter))
    gap_RC = stable_RC - found.y_RC
    sd_R = np.hypot(gap_RC.std(axis=1, ddof=1) * np.sqrt(1 + 1 / gap_RC.shape[1]), np.sqrt(np.median(spread_K)))
    old_R = special.ndtr(-gap_RC.mean(axis=1) / sd_R)
    return Told(float(told_R.mean()), float(true_R.mean()), float(old_R.mean()))


def _posterior(
    model: reml.Model, y_RC: np.ndarray, target_P: np.ndarray
) -> tuple[reml.Posterior, np.ndarray, np.ndarray, np.ndarray]:
    """(posterior, prediction [R], variance of a new cell at each node [K], mean at each node [R, K]) at a target."""
    held = reml.posterior(model, y_RC)
    own_K = np.einsum("p,kpq,q->k", target_P, held.covariance_KPP, target_P)
    middle_RK = held.mean_RKP @ target_P
    return held, (held.weight_RK * middle_RK).sum(axis=1), own_K + held.between_K + held.within_K, middle_RK


def _half(weight_K: np.ndarray, middle_K: np.ndarray, variance_K: np.ndarray) -> float:
    kept = weight_K > 1e-9
    low, high = (
        mixture_quantile(p, weight_K[kept], middle_K[kept], np.sqrt(variance_K[kept])) for p in (0.158655, 0.841345)
    )
    return (high - low) / 2


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", type=int, default=400)
    laws = parser.parse_args().laws
    print("| sizes | sd between, within sizes | told | true mean | 0.1.0 | range holds |\n|---|---|---|---|---|---|")
    for sizes in (3, 4, 5, 6):
        for between, within in ((0.08, 0.05), (0.2, 0.05), (0.0, 0.1)):
            one = regret(simulation.Setting(sizes, between, within), laws, seed=sizes)
            numbers = f"{one.told:.3%} | {one.true:.3%} | {one.old:.3%} | {one.held:.0%}"
            print(f"| {sizes} | {between}, {within} | {numbers} |", flush=True)
    print("\n| sizes | gap, its slope in ln N | sd between, within sizes | told | diverged | 0.1.0 |")
    print("|---|---|---|---|---|---|")
    for sizes in (4, 5, 6):
        for gap, slope, own in (
            (0.3, 0.0, 0.0),
            (0.15, 0.0, 0.0),
            (0.7, -0.2, 0.0),
            (0.9, -0.3, 0.0),
            (0.3, 0.0, 0.08),
        ):
            one = divergence(simulation.Setting(sizes, 0.08, 0.05), gap, slope, (own, 0.15), laws, seed=sizes)
            numbers = f"{one.told:.3f} | {one.true:.3f} | {one.old:.3f}"
            print(f"| {sizes} | {gap}, {slope} | {own}, 0.15 | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
