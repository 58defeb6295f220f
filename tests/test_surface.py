"""Surfaces in rate and batch: planted quadratics, published optima, rejected ones, units, and honest intervals.

Published numbers: OpenEuroLLM/dense_english_scaling_laws (their optima), and surfaces over the runs of Step Law, arXiv
2503.04715.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.noise import Noise
from analysis.runs import surface
from analysis.runs.node import cells_of
from analysis.runs.optima import BOTH, find_optima
from analysis.runs.source import load
from analysis.runs.surface import Nodes, Surface, find_surface, fit_quadratic

pytestmark = pytest.mark.host

NOISE = Noise(0.004, "test", measured=False)
VARIANCE = 0.004**2
LR, BATCH, LEAST = 1.7e-3, 3.3e5, 2.5
HESSIAN = np.array([[0.08, -0.03], [-0.03, 0.05]])


def grid(lrs: int = 6, batches: int = 5, spacing: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """ln lr and ln batch of a grid around the planted optimum, in steps of `spacing` and one octave."""
    x = math.log(1.5e-3) + spacing * math.log(2) * (np.arange(lrs) - lrs // 2)
    z = math.log(2.0**18) + math.log(2) * (np.arange(batches) - batches // 2)
    x_P, z_P = np.meshgrid(x, z)
    return x_P.ravel(), z_P.ravel()


def planted(x_P: np.ndarray, z_P: np.ndarray, hessian: np.ndarray = HESSIAN) -> np.ndarray:
    u_2P = np.stack([x_P - math.log(LR), z_P - math.log(BATCH)])
    return LEAST + 0.5 * np.einsum("ip,ij,jp->p", u_2P, hessian, u_2P)


def nodes_at(x_P: np.ndarray, z_P: np.ndarray, y_P: np.ndarray) -> Nodes:
    return Nodes(x_P, z_P, y_P, np.ones(len(x_P)))


def found_in(nodes: Nodes) -> Surface:
    return find_surface(fit_quadratic(nodes), NOISE, VARIANCE)


def test_a_planted_quadratic_is_recovered() -> None:
    x_P, z_P = grid()
    found = found_in(nodes_at(x_P, z_P, planted(x_P, z_P)))
    assert found.quality == "interior"
    assert found.lr == pytest.approx(LR, rel=1e-10)
    assert found.batch == pytest.approx(BATCH, rel=1e-10)
    assert found.loss == pytest.approx(LEAST, rel=1e-12)
    np.testing.assert_allclose(found.hessian, HESSIAN, rtol=1e-10)
    assert found.cross == pytest.approx(-0.03 / math.sqrt(0.08 * 0.05), rel=1e-10)
    assert found.lr_interval[0] < LR < found.lr_interval[1]
    assert found.batch_interval[0] < BATCH < found.batch_interval[1]


def test_the_valley_is_the_minimum_at_each_batch() -> None:
    x_P, z_P = grid()
    found = found_in(nodes_at(x_P, z_P, planted(x_P, z_P)))
    fine_P = np.linspace(math.log(LR) - 2, math.log(LR) + 2, 400_001)
    for batch in (0.5 * BATCH, 3 * BATCH):
        losses_P = planted(fine_P, np.full_like(fine_P, math.log(batch)))
        assert math.log(float(found.valley(batch))) == pytest.approx(float(fine_P[losses_P.argmin()]), abs=1e-5)
    assert float(found.valley(BATCH)) == pytest.approx(LR, rel=1e-9)


@pytest.mark.parametrize(
    ("hessian", "quality"),
    [
        ([[0.08, -0.08], [-0.08, 0.05]], "indefinite"),  # a saddle
        ([[-0.08, 0.0], [0.0, -0.05]], "indefinite"),  # a maximum
        ([[0.08, -0.03], [-0.03, 0.05]], "interior"),
    ],
)
def test_only_a_minimum_is_an_optimum(hessian: list, quality: str) -> None:
    x_P, z_P = grid()
    found = found_in(nodes_at(x_P, z_P, planted(x_P, z_P, np.array(hessian))))
    assert found.quality == quality
    assert np.isfinite(found.covariance).all() == (quality == "interior")


def test_a_minimum_outside_the_nodes_is_none() -> None:
    """Outside the hull although inside the box: the nodes at high rates and large batches are missing."""
    x_P, z_P = grid()
    y_P = planted(x_P, z_P)
    near = x_P + z_P < math.log(LR) + math.log(BATCH) - 0.05
    nodes = nodes_at(x_P[near], z_P[near], y_P[near])
    assert nodes.x_P.max() > math.log(LR)
    assert nodes.z_P.max() > math.log(BATCH)
    fit = fit_quadratic(nodes)
    assert find_surface(fit, NOISE, VARIANCE).quality == "outside"
    assert find_surface(fit, NOISE, VARIANCE, edge=True).quality == "edge"


@pytest.mark.parametrize(("lrs", "batches"), [(2, 6), (6, 2), (5, 1), (1, 5)])
def test_two_rates_or_two_batches_make_no_surface(lrs: int, batches: int) -> None:
    x_P, z_P = grid(lrs, batches)
    fit = fit_quadratic(nodes_at(x_P, z_P, planted(x_P, z_P)))
    assert not fit.full
    assert find_surface(fit, NOISE, VARIANCE).quality != "interior"


def test_units_move_the_optimum_and_nothing_else() -> None:
    """Batch in sequences of 2048 instead of tokens, rates in thousandths: the same surface elsewhere."""
    rng = np.random.default_rng(0)
    x_P, z_P = grid()
    y_P = planted(x_P, z_P) + rng.normal(0, 0.003, len(x_P))
    first = found_in(nodes_at(x_P, z_P, y_P))
    other = found_in(nodes_at(x_P + math.log(1000), z_P - math.log(2048), y_P))
    assert other.lr == pytest.approx(1000 * first.lr, rel=1e-10)
    assert other.batch == pytest.approx(first.batch / 2048, rel=1e-10)
    assert other.loss == pytest.approx(first.loss, rel=1e-12)
    np.testing.assert_allclose(other.hessian, first.hessian, rtol=1e-9)
    np.testing.assert_allclose(other.covariance, first.covariance, rtol=1e-6)


def test_replicates_weigh_as_often_as_they_ran() -> None:
    """Nodes weighted by their runs: the ordinary least squares of all runs."""
    rng = np.random.default_rng(1)
    x_P, z_P = grid(4, 4)
    runs_P = rng.integers(1, 5, len(x_P))
    x_R, z_R = np.repeat(x_P, runs_P), np.repeat(z_P, runs_P)
    y_R = planted(x_R, z_R) + rng.normal(0, 0.003, len(x_R))
    means_P = np.array([part.mean() for part in np.split(y_R, np.cumsum(runs_P)[:-1])])
    each = fit_quadratic(nodes_at(x_R, z_R, y_R))
    means = fit_quadratic(Nodes(x_P, z_P, means_P, runs_P.astype(float)))
    first, second = find_surface(each, NOISE, VARIANCE), find_surface(means, NOISE, VARIANCE)
    assert second.lr == pytest.approx(first.lr, rel=1e-9)
    assert second.batch == pytest.approx(first.batch, rel=1e-9)


@pytest.mark.parametrize(("curvature", "rejected"), [(1.0, 0), (0.12, 20)])
def test_intervals_cover_the_truth(curvature: float, rejected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known noise, a quadratic truth and therefore no term for its bias: 95 % of the accepted surfaces cover it,
    and the variance is that of the estimates; also where so flat that many draws have no minimum."""
    monkeypatch.setattr(surface, "SHARED_BIAS", np.zeros(2))
    monkeypatch.setattr(surface, "BIAS_SCATTER", np.zeros(2))
    rng = np.random.default_rng(2)
    x_P, z_P = grid()
    y_P = planted(x_P, z_P, curvature * HESSIAN)
    found = [found_in(nodes_at(x_P, z_P, y_P + rng.normal(0, 0.004, len(x_P)))) for _ in range(300)]
    kept = [one for one in found if one.quality == "interior"]
    assert len(found) - len(kept) >= rejected
    for name, truth in (("lr_interval", LR), ("batch_interval", BATCH)):
        share = np.mean([getattr(one, name)[0] <= truth <= getattr(one, name)[1] for one in kept])
        assert 0.92 <= share <= 0.99
    spread = np.std([math.log(one.lr) for one in kept])
    told = np.median([math.sqrt(one.covariance[0, 0]) for one in kept])
    assert 0.8 <= told / spread <= 1.4


def test_noise_widens_and_more_nodes_narrow() -> None:
    def sd(variance: float, lrs: int) -> float:
        x_P, z_P = grid(lrs, 5, spacing=3 / lrs)
        fit = fit_quadratic(nodes_at(x_P, z_P, planted(x_P, z_P)))
        return find_surface(fit, NOISE, variance).covariance[0, 0]

    assert sd(0.01**2, 6) > sd(0.004**2, 6) > sd(0.004**2, 24)


def published(shared: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = pd.read_csv(shared / "laws" / "openeurollm_runs.csv")
    return runs, pd.read_csv(shared / "laws" / "openeurollm_optima.csv")


def test_the_published_optima_of_openeurollm(shared: Path) -> None:
    """All 51 stationary points of the quadratic through all runs, in their units (sequences of 4096)."""
    runs, optima = published(shared)
    worst = 0.0
    for row in optima.itertuples():
        cell = runs[(runs["N"] == row.N) & (runs["D"] == row.D)]
        x_P, z_P = np.log(cell["lr"].to_numpy(float)), np.log(cell["gbsz"].to_numpy(float))
        found = found_in(nodes_at(x_P, z_P, cell["loss"].to_numpy(float)))
        for mine, theirs in ((found.lr, row.lr), (found.batch, row.gbsz), (found.loss, row.loss)):
            worst = max(worst, abs(mine / float(theirs) - 1))  # pyright: ignore[reportArgumentType]
    assert len(optima) == 51
    assert worst < 1e-6


def test_three_of_them_are_no_minima(shared: Path) -> None:
    runs = load(shared / "laws" / "openeurollm_runs.csv", batch_unit="sequences:4096")
    found = find_optima(runs, over=BOTH, window=None)
    rejected = found[found["quality"] != "interior"]
    assert len(found) == 51
    assert rejected["params"].tolist() == [1_713_504_256] * 3
    assert rejected["tokens"].tolist() == [1.2e11, 2e11, 3e11]
    assert rejected["quality"].tolist() == ["edge", "indefinite", "indefinite"]
    assert rejected[["lr", "batch", "lr_low", "lr_sd", "loss"]].isna().all(axis=None)
    assert found["cross"].median() == pytest.approx(-0.65, abs=0.02)


# Step Law's runs within 2 % of each cell's best: (D in 1e9, rate, tokens per batch), by N.
VERTICES = {
    59_968_512: [(2, 2.7540e-3, 1.4209e5), (4, 3.2988e-3, 2.0956e5), (8, 3.7981e-3, 3.1787e5)],
    119_992_320: [(2, 2.1763e-3, 1.3380e5), (4, 2.2838e-3, 1.8414e5), (8, 2.5832e-3, 2.6735e5)],
    214_663_680: [
        (2, 1.3436e-3, 1.2816e5),
        (4, 1.8319e-3, 1.7733e5),
        (8, 2.3353e-3, 2.8262e5),
        (11.4, 2.1164e-3, 3.0880e5),
        (20, 2.5099e-3, 4.7253e5),
        (100, 3.2855e-3, 1.2291e6),
    ],
    268_304_384: [
        (2, 1.2130e-3, 1.2550e5),
        (4, 1.5310e-3, 1.6359e5),
        (5, 1.5821e-3, 1.9019e5),
        (8, 1.7127e-3, 2.3122e5),
        (14.2, 1.9563e-3, 3.1588e5),
        (20, 2.1928e-3, 4.4321e5),
        (25, 2.4049e-3, 5.1584e5),
        (80, 2.6302e-3, 9.4343e5),
    ],
    429_260_800: [
        (2, 7.0369e-4, 1.3274e5),
        (4, 8.9618e-4, 1.6362e5),
        (8, 1.0163e-3, 2.0382e5),
        (20, 1.3946e-3, 3.8181e5),
        (22.7, 1.4692e-3, 4.2620e5),
        (40, 1.7043e-3, 6.1198e5),
        (50, 1.6541e-3, 6.1613e5),
        (100, 2.2832e-3, 1.0470e6),
    ],
    536_872_960: [
        (2, 6.4400e-4, 1.2999e5),
        (4, 8.3524e-4, 1.6293e5),
        (8, 1.0000e-3, 2.2205e5),
        (10, 1.0420e-3, 2.5841e5),
        (20, 1.2644e-3, 3.7359e5),
        (28.4, 1.3548e-3, 4.1815e5),
        (50, 1.5221e-3, 6.1145e5),
    ],
    1_073_741_824: [
        (2, 4.1937e-4, 1.3975e5),
        (4, 5.5729e-4, 1.9420e5),
        (8, 6.0347e-4, 2.2100e5),
        (20, 8.2770e-4, 3.4232e5),
        (56.9, 1.0661e-3, 6.0806e5),
    ],
}


def test_the_surfaces_of_step_law(shared: Path) -> None:
    runs = load(shared / "laws" / "steplaw_train.csv", batch_unit="sequences:2048")
    found = find_optima(runs, over=BOTH).set_index(["params", "tokens"])
    interior = found[found["quality"] == "interior"]
    expected = {(n, d * 1e9): (lr, batch) for n, rows in VERTICES.items() for d, lr, batch in rows}
    assert len(found) == 41
    assert set(interior.index) == set(expected)
    for key, (lr, batch) in expected.items():
        assert interior["lr"][key] == pytest.approx(lr, rel=1e-3)
        assert interior["batch"][key] == pytest.approx(batch, rel=1e-3)
    assert found["quality"][(268_304_384, 1e11)] == "edge"


def test_the_rejected_surface_of_step_law_has_a_minimum_outside(shared: Path) -> None:
    """Positive definite like the other 40, its vertex beyond the largest batch: the curvature alone would pass it."""
    runs = load(shared / "laws" / "steplaw_train.csv", batch_unit="sequences:2048")
    definite = 0
    for cell in cells_of(runs.frame, joint=True):
        alive = cell.alive
        near = surface.window(Nodes(alive.x_P, alive.z_P, alive.loss_P, alive.runs_P), 0.02, NOISE)
        found = found_in(near)
        definite += bool((np.linalg.eigvalsh(found.hessian) > 0).all())
        if cell.keys == {"params": 268_304_384, "tokens": 1e11}:
            assert (found.lr, found.batch) == pytest.approx((5.8e-3, 2.18e6), rel=0.01)
            assert found.quality == "outside"
    assert definite == 41
