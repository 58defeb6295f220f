"""The least loss of a size from runs over learning rates: without the bias of a minimum over noise."""

import math

import numpy as np
import pandas as pd
import pytest
from law_cases import grid, least

from analysis.calculator import fit
from analysis.runs.least import least_losses
from analysis.runs.source import load
from lab.check import InputError

pytestmark = pytest.mark.host

SD = 0.02


def rates(seeds: int, sd: float = SD, sizes: int = 8, seed: int = 0) -> pd.DataFrame:
    """Eight rates a factor 2 apart around the optimum of every size, `seeds` runs at each, and the true least loss."""
    rng, rows = np.random.default_rng(seed), []
    for params in np.geomspace(3e7, 1e9, sizes):
        for tokens in np.geomspace(1e9, 1e11, sizes):
            for step in range(-4, 4):
                x = math.log(2) * (step + 0.5)
                for _ in range(seeds):
                    loss = least(params, tokens) + 0.05 * x**2 + rng.normal(0, sd)
                    rows.append((params, tokens, 1e-3 * math.exp(x), loss, params < 1e8))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "loss", "small"])


def bias(frame: pd.DataFrame) -> float:
    """Mean of loss less the true least loss over the rows."""
    truth = [least(n, d) for n, d in zip(frame["params"], frame["tokens"], strict=True)]
    return float((frame["loss"] - truth).mean())


@pytest.mark.parametrize("seeds", [4, 16])
def test_noise_does_not_lower_the_least_loss(seeds: int) -> None:
    """64 sizes: the vertex stays within a tenth of a seed's SD, where the best run lies more than one SD too low."""
    frame = rates(seeds)
    found = least_losses(load(frame))
    best = frame.loc[frame.groupby(["params", "tokens"])["loss"].idxmin()]
    assert len(found.frame) == 64 and found.estimator == "vertices of mean losses"
    assert bias(best) < -SD  # the control: what version 0.1.0 took
    assert abs(bias(found.frame)) < 0.1 * SD


def test_the_law_is_fitted_to_vertices() -> None:
    """The constant of the law follows the losses: with 16 seeds the best runs lie 0.03 nats too low everywhere."""
    law = fit(load(rates(16)), "loss", draws=0).law
    assert law.loss is not None and law.estimator == "vertices of mean losses"
    assert law.source["rows"] == 64 and law.source["runs"] == 64 * 8 * 16
    value = float(law.loss.predict(2e8, 1e10)[0])
    assert value == pytest.approx(least(2e8, 1e10), abs=0.005)


def test_a_cell_without_a_vertex_gives_its_lowest_mean_and_is_counted() -> None:
    frame = rates(2, sd=0.0, sizes=2)
    first = (frame["params"] == frame["params"].min()) & (frame["tokens"] == frame["tokens"].min())
    kept = frame[~(first & (frame["lr"] > 4e-4))].reset_index(drop=True)
    found = least_losses(load(kept))
    assert "no vertex in 1 of 4 sizes and token counts (1 edge-high)" in found.notes[-1]
    assert "3 of 4" in found.notes[-2]
    assert float(found.frame["loss"].iloc[0]) == pytest.approx(
        frame[first & (frame["lr"] < 4e-4)]["loss"].min(), rel=1e-12
    )
    assert float(found.frame["loss"].iloc[1]) == pytest.approx(least(3e7, 1e11), rel=1e-6)


def test_seeds_at_one_rate_are_averaged() -> None:
    frame = rates(4, sizes=3)
    frame = frame[np.isclose(frame["lr"], 1e-3 * math.exp(math.log(2) / 2))]
    found = least_losses(load(frame))
    assert found.estimator == "lowest mean losses" and len(found.frame) == 9
    assert found.frame["loss"].to_numpy() == pytest.approx(
        frame.groupby(["params", "tokens"])["loss"].mean().to_numpy()
    )


def test_rates_and_batches_together() -> None:
    """Planted surfaces without noise: the vertex is the truth, where the best run lies a little above it."""
    found = least_losses(load(grid()))
    assert abs(bias(found.frame)) < 1e-6 and "surfaces" in found.notes[-1]


def test_runs_without_rates_stay_as_they_are() -> None:
    frame = rates(1, sizes=2)
    plain = least_losses(load(frame.drop(columns="lr"), require=("params", "tokens", "loss")))
    assert plain.estimator == "all runs" and len(plain.frame) == len(frame)
    partly = least_losses(
        load(frame.assign(lr=frame["lr"].where(frame["lr"] < 1e-3)), require=("params", "tokens", "loss"))
    )
    assert "16 of 32 runs have no learning rate" in partly.notes[0]


def test_what_is_the_same_within_a_size_is_kept() -> None:
    """A column to resample by, as the size; not one that differs between the runs of a size."""
    frame = rates(2, sizes=3).assign(number=range(9 * 16))
    found = least_losses(load(frame)).frame
    assert found["small"].tolist() == (found["params"] < 1e8).tolist() and "number" not in found


def test_runs_that_all_diverged_are_one_line() -> None:
    with pytest.raises(InputError, match="every run diverged"):
        least_losses(rates(1, sizes=2).assign(loss=np.nan))
