"""What to run next: repairs of cells, new cells by what they are worth, and a file that `lrlab sweep` takes."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.power.fit import fit_power_law
from analysis.suggestion import Place, chosen
from lab import store
from lab.check import InputError
from lab.config import RunConfig
from lab.identity import run_id
from sweeps import catalog, launch, run_list
from sweeps.cli import main
from sweeps.sweep import Sweep, axis, product, resolved
from sweeps.table import console

RATES = (0.5, 1.0, 2.0)
TARGET = {"params": 1e9, "tokens": 1e11}


def law(seed: int = 0):  # noqa: ANN201
    """Cells of five sizes at one budget each, with scatter; so size and budget are known apart."""
    rng = np.random.default_rng(seed)
    rows = [(n, d) for n in (1e6, 4e6, 1.6e7, 6.4e7, 2.56e8) for d in (1e8, 4e8)]
    frame = pd.DataFrame(rows, columns=["params", "tokens"])
    noise = rng.normal(0, 0.05, len(frame))
    frame["lr"] = np.exp(-0.5 * np.log(frame["params"]) + 0.1 * np.log(frame["tokens"]) + noise)
    frame["lr_variance"] = 0.05**2
    return fit_power_law(frame, "lr", ("params", "tokens"), draws=0, curved=False)


def place(params: float, tokens: float, flops: float = 1.0, new: bool = True) -> Place:
    return Place({"params": params, "tokens": tokens}, {"params": params, "tokens": tokens}, flops, new)


def test_the_cell_towards_the_target_is_worth_most_at_equal_cost() -> None:
    places = [place(1e6, 4e8), place(2.56e8, 1e9), place(1e9, 4e9), place(6.4e7, 1e8)]
    found = chosen(law(), places, TARGET, count=4, error=0.05**2, grid=RATES)
    assert found[0].values == {"params": 1e9, "tokens": 4e9}
    assert found[0].gain is not None
    assert found[0].gain > 0.05
    assert len(found) == 4


def test_cost_counts() -> None:
    places = [place(1e9, 4e9, flops=1e6), place(2.56e8, 1e9, flops=1.0)]
    found = chosen(law(), places, TARGET, count=1, error=0.05**2, grid=RATES)
    assert found[0].values == {"params": 2.56e8, "tokens": 1e9}


def test_a_cell_is_worth_less_after_its_like() -> None:
    places = [place(2.56e8, 1e10), place(2.56e8, 1e10)]
    first, second = chosen(law(), places, TARGET, count=2, error=0.05**2, grid=RATES)
    assert first.gain is not None
    assert second.gain is not None
    assert second.gain < first.gain


def test_the_gain_is_what_refitting_gives() -> None:
    """Against weighted least squares with the cell added, where the variances are known: no scatter but the noise."""
    found = law()
    known = dataclasses.replace(found, between=0.0, within=0.0)
    covariance = np.einsum(
        "k,kpq->pq", [node.weight for node in found.nodes], [np.array(node.covariance) for node in found.nodes]
    )

    def row(at: dict[str, float]) -> np.ndarray:
        return np.array([1.0, *(math.log(at[n]) - m for n, m in zip(found.regressors, found.centre, strict=True))])

    goal, x, noise = row(TARGET), row({"params": 2.56e8, "tokens": 1e10}), 0.05**2
    refitted = np.linalg.inv(np.linalg.inv(covariance) + np.outer(x, x) / noise)
    wanted = 1 - math.sqrt((goal @ refitted @ goal) / (goal @ covariance @ goal))
    (one,) = chosen(known, [place(2.56e8, 1e10)], TARGET, count=1, error=noise, grid=RATES)
    assert one.gain == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("new", [True, False])
def test_only_a_new_size_is_charged_with_what_sizes_differ_by(new: bool) -> None:
    """The gain of a cell against weighted least squares with the cell added, its error being what such a cell has."""
    found = dataclasses.replace(law(), between=0.1, within=0.05)
    covariance = np.einsum(
        "k,kpq->pq", [node.weight for node in found.nodes], [np.array(node.covariance) for node in found.nodes]
    )
    at, error = {"params": 2.56e8, "tokens": 1e10}, 0.02**2
    noise = error + 0.05**2 + (0.1**2 if new else 0.0)
    goal, x = found.row(TARGET), found.row(at)
    refitted = np.linalg.inv(np.linalg.inv(covariance) + np.outer(x, x) / noise)
    own = 0.1**2 + 0.05**2  # of a cell of a new size at the target, whatever is run
    wanted = 1 - math.sqrt((goal @ refitted @ goal + own) / (goal @ covariance @ goal + own))
    (one,) = chosen(found, [Place(at, at, 1.0, new)], TARGET, count=1, error=error, grid=RATES)
    assert one.gain == pytest.approx(wanted, rel=1e-9)
    assert f"{wanted:.1%}" in one.reason
    (other,) = chosen(found, [Place(at, at, 1.0, not new)], TARGET, count=1, error=error, grid=RATES)
    assert other.gain is not None and (other.gain > 1.05 * wanted) == new  # the control


def test_rates_stand_around_the_law() -> None:
    found = law()
    (one,) = chosen(found, [place(1e9, 4e9)], TARGET, count=1, error=0.01, grid=RATES)
    middle = found.predict({"params": 1e9, "tokens": 4e9}).value
    assert one.rates == pytest.approx([0.5 * middle, middle, 2 * middle])


def sweep_of(base: RunConfig, rates: tuple[float, ...]) -> Sweep:
    points = product(axis("model.width", 16, 32), axis("schedule.steps", 12, 24), axis("optimizer.lr", *rates))
    base = dataclasses.replace(base, schedule=dataclasses.replace(base.schedule, decay_steps=2))
    return Sweep("planned", "?", "none", "none", base, points)


@pytest.fixture(scope="module")
def falling(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three falling rates: every cell's optimum lies beyond the highest."""
    root = tmp_path_factory.mktemp("falling") / "store"
    assert launch.launch(sweep_of(base, (1e-4, 2e-4, 4e-4)), root, again="", smoke=False, console=console()) == 0
    return root


def test_a_list_of_runs_is_the_same_sweep(base: RunConfig, tmp_path: Path) -> None:
    sweep = sweep_of(base, (0.01, 0.02))
    path = tmp_path / "next.json"
    path.write_bytes(store.pretty(run_list.to_dict(sweep)))
    again = catalog.load(str(path))
    assert [run_id(run.config) for run in resolved(again)] == [run_id(run.config) for run in resolved(sweep)]


def test_from_a_store_to_runs_that_go_into_it(
    falling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list of runs extends the grid."""
    root, out = tmp_path / "store", tmp_path / "next.json"
    shutil.copytree(falling, root)
    arguments = ["suggest", str(root), "--params", "1e5", "--tokens", "1e5", "--out", str(out)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.count("the optimum lies above the highest rate") == 4
    assert "no law to narrow yet" in told
    sweep = catalog.load(str(out))
    assert {point["optimizer.lr"] for point in sweep.points} == {8e-4, 1.6e-3}
    assert main(["sweep", str(out), "--out", str(root)]) == 0
    capsys.readouterr()
    assert main(["report", str(root), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 4


def test_without_a_target_only_cells_are_mended(falling: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", str(falling), "--json"]) == 0
    printed = capsys.readouterr().out
    told = json.loads(printed[printed.index("{") :])
    assert len(told["suggestions"]) == 4
    assert "no target" in told["notes"][0]


@pytest.mark.parametrize(
    ("text", "words"),
    [("{}", "is not a list of runs"), ('{"format": "lr-scaling-lab runs", "version": 1}', "is damaged")],
)
def test_a_file_that_is_no_list_of_runs(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "next.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        catalog.load(str(path))
    with pytest.raises(InputError, match="is not a file"):
        catalog.load(str(tmp_path / "none.json"))


def test_a_store_without_its_base_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeps no base configuration"):
        run_list.stored_base({"name": "mine", "base": "0"}, tmp_path)


def test_stores_of_bundled_sweeps_need_none(tmp_path: Path) -> None:
    base = catalog.load("quickstart").base
    described = {"name": "quickstart", "base": run_list.base_digest(base)}
    assert run_list.stored_base(described, tmp_path) == base
