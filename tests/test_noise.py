"""The noise of cells: in proportion to their loss, not silenced by one cell's repeats, and identical losses named."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.calculator import LossOptions, fit
from analysis.noise import FALLBACK_SEED_SD, PRIOR, Noise, alike, given, pooled_noise, replicate_noise
from analysis.runs.source import load
from lab.check import InputError

pytestmark = pytest.mark.host
RATES = 2.0 ** np.arange(-9, -4)


def cell(floor: float, sd: float, seeds: int, rng: np.random.Generator, name: int = 0) -> pd.DataFrame:
    """A cell whose noise is in proportion to its loss."""
    parts = []
    for seed in range(seeds):
        loss = floor * (1 + 0.005 * (np.log2(RATES) + 7) ** 2 + sd * rng.normal(size=len(RATES)))
        columns = {"lr": RATES, "loss": loss, "status": "done", "seed_init": seed, "seed_data": seed, "cell": name}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def test_a_cells_noise_scales_with_its_loss() -> None:
    rng = np.random.default_rng(0)
    cells = [(cell(floor, 0.002, 6, rng), "lr") for floor in (1.5, 3.0, 6.0) for _ in range(10)]
    noise = pooled_noise(cells)
    for floor in (1.5, 3.0, 6.0):
        assert noise.at(floor) == pytest.approx(0.002 * floor, rel=0.1)
    assert noise.reference == pytest.approx(3.5, rel=0.01)
    table = pd.concat([rows.assign(cell=number) for number, (rows, _) in enumerate(cells)])
    assert replicate_noise(table, ["cell"], "lr").at(6.0) == pytest.approx(0.012, rel=0.1)
    assert given(0.01).at(1.5) == given(0.01).at(6.0) == 0.01  # the control: what is given is every cell's


def test_repeats_of_one_cell_do_not_silence_the_others() -> None:
    """Two runs that agree to the last digit, and eight cells of one run: version 0.1.0 took 1e-6 for all of them."""
    rng = np.random.default_rng(1)
    same = pd.concat([cell(2.0, 0.0, 1, rng), cell(2.0, 0.0, 1, rng).assign(seed_init=1, seed_data=1)])
    single = [(cell(2.0, 0.002, 1, rng, number), "lr") for number in range(8)]
    noise = pooled_noise([(same, "lr"), *single])
    freedom = len(RATES) - 1
    assert noise.sd == pytest.approx(FALLBACK_SEED_SD * (PRIOR / (PRIOR + freedom)) ** 0.5)
    assert "1 of 9 cells have repeats" in noise.source and f"{PRIOR} of them of an assumed" in noise.source
    assert not noise.measured  # so that what the residuals of a cell show still counts
    assert pooled_noise([(same, "lr"), single[0]]).measured  # a control: half of the cells are no few
    assert pooled_noise([(same, "lr")]).sd == 1e-6  # the control: where all have repeats, they are what is known


def test_where_nothing_is_repeated_the_noise_is_assumed_and_says_so() -> None:
    noise = pooled_noise([(cell(2.0, 0.0, 1, np.random.default_rng(0)), "lr")])
    assert noise == Noise(FALLBACK_SEED_SD, "assumed seed SD 0.004 nat: no replicates", measured=False)


def test_losses_that_are_one_at_different_rates_are_named() -> None:
    rows = cell(2.0, 0.002, 1, np.random.default_rng(2))
    assert alike(rows, "lr") == ""
    rows.loc[3, "loss"] = float(rows["loss"].iloc[2])
    told = alike(rows, "lr")
    assert told.startswith("2 rates share a loss") and "0.0078125 and 0.015625" in told and "\n" not in told


def test_a_stated_noise_takes_the_place_of_repeats(tmp_path: Path) -> None:
    """In laws, of a table as a person gives it; what is not above 0 is refused."""
    rng = np.random.default_rng(3)
    rows = pd.concat([cell(2.0, 0.002, 2, rng).assign(params=p, tokens=20 * p) for p in (1e6, 4e6, 1.6e7, 6.4e7)])
    rows.drop(columns=["cell", "status"]).to_csv(tmp_path / "runs.csv", index=False)
    runs = load(tmp_path / "runs.csv")
    found = [fit(runs, "lr", loss=LossOptions(seed_sd=sd), draws=0).optima for sd in (None, 0.02)]
    pooled, stated = (one.noise if one else "" for one in found)
    assert "degrees of freedom" in pooled
    assert stated == "given seed SD 0.02 nat"
    with pytest.raises(InputError, match=r"--seed-sd 0 is not above 0"):
        given(0.0)
