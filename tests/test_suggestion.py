"""What to run next: repairs of cells, new cells by what they are worth, and a file that `lrlab sweep` takes."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from analysis.power import belief
from analysis.power.fit import Solved, fit_power_law, solve
from analysis.power.law import PowerLaw
from analysis.suggestion import Place, chosen
from analysis.target import Level, Target, Targets
from lab import store
from lab.check import InputError
from lab.config import ExecConfig, RunConfig
from lab.identity import run_id
from lab.override import apply
from lab.record import Provenance, Result, record
from sweeps import catalog, launch, run_list
from sweeps.cli import main
from sweeps.place import beyond
from sweeps.sweep import Sweep, axis, product, resolved, zipped
from sweeps.table import console

RATES = (0.5, 1.0, 2.0)
TARGET = {"params": 1e9, "tokens": 1e11}
SIZES, TOKENS = (1e6, 4e6, 1.6e7, 6.4e7, 2.56e8), (1e8, 4e8)
ERROR = 0.05**2


def rows(seed: int = 0, sizes: tuple[float, ...] = SIZES, between: float = 0.05) -> Targets:
    """Optima of every size at two budgets, with scatter between and within sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        own = rng.normal(0, between)
        for tokens in TOKENS:
            log = -0.5 * math.log(size) + 0.1 * math.log(tokens) + own + rng.normal(0, 0.05)
            found.append(Target({"params": size, "tokens": tokens}, Level(math.exp(log), ERROR)))
    return Targets(tuple(found))


def solved_of(targets: Targets) -> Solved:
    return solve(targets, "lr", ("params", "tokens"))


def law_of(targets: Targets) -> PowerLaw:
    return fit_power_law(targets, "lr", ("params", "tokens"), draws=0, curved=False)


@pytest.fixture(scope="module")
def law() -> PowerLaw:
    return law_of(rows())


@pytest.fixture(scope="module")
def solved() -> Solved:
    return solved_of(rows())


def place(params: float, tokens: float, flops: float = 1.0) -> Place:
    return Place({"params": params, "tokens": tokens}, {"params": params, "tokens": tokens}, params, flops)


def suggest(solved: Solved, places: list[Place], count: int, budget: float | None = None):  # noqa: ANN201
    return chosen(solved, places, TARGET, count=count, error=ERROR, grid=RATES, budget=budget)


def test_the_cell_towards_the_target_is_worth_most_at_equal_cost(solved: Solved) -> None:
    places = [place(1e6, 8e8), place(2.56e8, 1e9), place(1e9, 4e9), place(6.4e7, 2e8)]
    found = suggest(solved, places, 4)
    assert found[0].values == {"params": 1e9, "tokens": 4e9}
    assert found[0].gain is not None and found[0].gain > 0.05
    assert f"narrows the prediction interval at the target by {found[0].gain:.1%}" in found[0].reason
    assert len(found) == 4


def test_cost_counts(solved: Solved) -> None:
    places = [place(1e9, 4e9, flops=1e6), place(2.56e8, 1e10, flops=1.0)]
    found = suggest(solved, places, 1)
    assert found[0].values == {"params": 2.56e8, "tokens": 1e10}


def test_a_budget_is_kept_and_not_frittered_away(solved: Solved) -> None:
    """Cheap cells are worth more per FLOP, and leave no room for the one that is worth more."""
    cheap = [place(1e6, 8e8 * 2**number, flops=1.0) for number in range(3)]
    large = place(1e9, 1e11, flops=100.0)
    assert [one.flops for one in suggest(solved, [*cheap, large], 9, budget=100.0)] == [100.0]
    assert large.values not in [one.values for one in suggest(solved, [*cheap, large], 9, budget=99.0)]
    assert sum(one.flops or 0 for one in suggest(solved, [*cheap, large], 9, budget=102.0)) <= 102.0
    assert suggest(solved, [*cheap, large], 9, budget=0.5) == []


def test_a_cell_is_worth_less_after_its_like(solved: Solved) -> None:
    first, second = suggest(solved, [place(2.56e8, 1e10), place(2.56e8, 1e10)], 2)
    assert first.gain is not None and second.gain is not None
    assert second.gain < first.gain


def test_a_node_is_updated_as_least_squares_with_the_cell_is() -> None:
    """One node of known variances: the width after a cell is that of generalised least squares with the cell added."""
    targets, between, within = rows(), 0.1**2, 0.05**2
    solved = solved_of(targets)
    held = dataclasses.replace(
        solved.held,
        weight_RK=np.ones((1, 1)),
        mean_RKP=solved.held.mean_RKP[:, :1],
        covariance_KPP=solved.held.covariance_KPP[:1],
        between_K=np.array([between]),
        within_K=np.array([within]),
    )
    law = law_of(targets)
    start = belief.begin(dataclasses.replace(solved, held=held), 8)

    def wanted(more: list[tuple[dict[str, float], float]]) -> float:
        places = [(row.at, row.at["params"]) for row in targets.rows] + more
        design = np.array([law.row(at) for at, _ in places])
        size = np.array([params for _, params in places])
        covariance = between * (size[:, None] == size[None]) + (within + ERROR) * np.eye(len(size))
        inverse = np.linalg.inv(design.T @ np.linalg.solve(covariance, design))
        goal = law.row(TARGET)
        return 2 * NormalDist().inv_cdf(0.975) * math.sqrt(goal @ inverse @ goal + between + within)

    assert belief.width(start, law.row(TARGET)) == pytest.approx(wanted([]), rel=1e-6)
    more: list[tuple[dict[str, float], float]] = []
    now = start
    # A size that is there, a new one, and this once more: its own deviation is shared.
    for params, tokens in ((2.56e8, 1e10), (1e9, 1e10), (1e9, 4e10)):
        more.append(({"params": params, "tokens": tokens}, params))
        now = belief.after(now, law.row(more[-1][0]), params, ERROR, seed=len(more))
        assert belief.width(now, law.row(TARGET)) == pytest.approx(wanted(more), rel=1e-6)
    apart = [*more[:-1], (more[-1][0], 2e9)]  # the control: were it another size
    assert belief.width(now, law.row(TARGET)) != pytest.approx(wanted(apart), rel=1e-3)


def test_the_width_is_the_one_that_predict_prints(law: PowerLaw, solved: Solved) -> None:
    told = law.predict(TARGET)
    width = belief.width(belief.begin(solved, 2), law.row(TARGET))
    assert width == pytest.approx(math.log(told.high / told.low), rel=0.02)


def test_gains_are_those_of_refits_on_average() -> None:
    """Ten simulated stores of four sizes, to which the cell is really added."""
    at, told, came, linear = {"params": 2.56e8, "tokens": 4e8}, [], [], []
    for seed in range(10):
        whole = rows(seed)
        small = whole.where(lambda row: row.at["params"] < 2e8)
        before = solved_of(small)
        after = solved_of(whole.where(lambda row: row.at["params"] < 2e8 or row.at == at))
        start = belief.begin(before, 64)
        width = belief.width(start, before.row(TARGET))
        more = belief.after(start, before.row(at), at["params"], ERROR, seed=0)
        told.append(1 - belief.width(more, before.row(TARGET)) / width)
        came.append(1 - belief.width(belief.begin(after, 1), after.row(TARGET)) / width)
        linear.append(_linear(law_of(small), at))
    assert np.mean(told) == pytest.approx(np.mean(came), abs=0.06)
    assert np.mean(linear) > np.mean(came) + 0.08  # the control: version 0.1.0


def _linear(law: PowerLaw, at: dict[str, float]) -> float:
    """The gain of version 0.1.0: one update of the mixture's mean covariance."""
    covariance = np.einsum(
        "k,kpq->pq", [node.weight for node in law.nodes], [np.array(node.covariance) for node in law.nodes]
    )
    goal, moved, rest = law.row(TARGET), covariance @ law.row(at), law.between**2 + law.within**2
    before = goal @ covariance @ goal + rest
    return 1 - math.sqrt(max(before - (moved @ goal) ** 2 / (ERROR + rest + law.row(at) @ moved), 0.0) / before)


def test_rates_stand_around_the_law(law: PowerLaw, solved: Solved) -> None:
    (one,) = suggest(solved, [place(1e9, 4e9)], 1)
    middle = law.predict({"params": 1e9, "tokens": 4e9}).value
    assert one.rates == pytest.approx([0.5 * middle, middle, 2 * middle])


def cells(**axes: list[int | str]) -> list[dict[str, int | str]]:
    """Cells of zipped axes; underscores are dots."""
    names = [name.replace("__", ".") for name in axes]
    return [dict(zip(names, row, strict=True)) for row in zip(*axes.values(), strict=True)]


def test_axes_that_move_together_move_together() -> None:
    """Steps zipped with decay stay at 20 % of decay; a width keeps its depth and its head size."""
    base = RunConfig()
    zipped = cells(schedule__steps=[100, 200, 400], schedule__decay_steps=[20, 40, 80])
    assert list(beyond(zipped, base)) == [{"schedule.steps": 800, "schedule.decay_steps": 160}]
    zipped = cells(model__width=[64, 128], model__depth=[2, 4], model__head_dim=[16, 32])
    assert list(beyond(zipped, base)) == [{"model.width": 256, "model.depth": 8, "model.head_dim": 64}]
    # A depth that two widths share follows the width.
    zipped = cells(model__width=[64, 128, 256], model__depth=[2, 2, 4])
    assert list(beyond(zipped, base)) == [{"model.width": 512, "model.depth": 8}]


def test_places_lie_along_the_rows_of_the_sweep() -> None:
    known = [one | other for one in cells(model__width=[32, 64]) for other in cells(schedule__steps=[10, 20])]
    found = list(beyond(known[:3], RunConfig()))
    assert {"model.width": 64, "schedule.steps": 20} in found  # missing inside
    assert {"model.width": 128, "schedule.steps": 10} in found and {"model.width": 32, "schedule.steps": 40} in found
    assert {"model.width": 128, "schedule.steps": 40} not in found  # on no row
    assert not [one for one in found if one in known[:3]]
    other = [one | two for one in known for two in cells(parametrization__name=["sp", "mup"])]
    names = {one["parametrization.name"] for one in beyond(other, RunConfig())}
    assert names == {"sp", "mup"}


@pytest.mark.parametrize(
    ("widths", "model", "wanted"),
    [((64, 96), {"model.head_dim": 32}, 160), ((64, 96), {"model.heads": 6}, 144), ((32, 48), {}, 80)],
)
def test_widths_are_rounded_to_what_the_heads_divide(
    widths: tuple[int, int], model: dict[str, int], wanted: int
) -> None:
    base = apply(RunConfig(), {"model.width": widths[1], "model.mlp_width": None} | model)
    (found,) = beyond(cells(model__width=list(widths)), base)
    assert found == {"model.width": wanted}
    apply(base, found)  # and it can be


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


@pytest.fixture(scope="module")
def planted(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three widths and lengths, decay a sixth of each, whose losses are a parabola about a known law."""
    base = apply(base, {"model.kv_heads": 2, "parametrization.base_kv_width": 16, "schedule.warmup_steps": 0})
    lengths = zipped(axis("schedule.steps", 12, 24, 48), axis("schedule.decay_steps", 2, 4, 8))
    points = product(axis("model.width", 16, 32, 48), lengths, axis("optimizer.lr", *(2.0**-n for n in range(3, 10))))
    sweep = Sweep("planted", "?", "none", "none", base, points)
    root, rng = tmp_path_factory.mktemp("planted") / "store", np.random.default_rng(0)
    runs = resolved(sweep)
    launch._describe(sweep, runs, root, set())
    nothing = Provenance("u", 0, 0, 1, "map", 1, "cpu", "cpu", 1, ExecConfig(), "", "", 0.0)
    for run in runs:
        config = run.config
        away = math.log(config.optimizer.lr) + 3.5 + 0.3 * math.log(config.model.width / 32) + rng.normal(0, 0.05)
        loss = 2 + 0.02 * away**2 + rng.normal(0, 1e-4)
        store.write_record(root, record(config, Result("done", loss, 0.01, 100, loss, loss, None), nothing))
    return root


def test_suggested_cells_can_be_and_lie_on_rows_within_the_budget(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps and their decay go on together; width 72 would have 9 heads for 2 of keys, and is a note."""
    out = tmp_path / "next.json"
    arguments = ["suggest", str(planted), "--params", "1e6", "--tokens", "1e5", "--json"]
    assert main([*arguments, "--cells", "9", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    told = json.loads(printed[printed.index("{") :])
    new = [one for one in told["suggestions"] if one["gain"] is not None]
    assert {one["values"]["model.width"] for one in new} == {16, 32, 48}
    assert {(one["values"]["schedule.steps"], one["values"]["schedule.decay_steps"]) for one in new} == {(96, 16)}
    (note,) = (note for note in told["notes"] if note.startswith("no cell at"))
    assert "width 72" in note and " and 2 more: " in note and "model.kv_heads=2 does not divide model.heads=9" in note
    assert len(resolved(catalog.load(str(out)))) == sum(len(one["rates"]) for one in told["suggestions"])
    budget = 1.5 * min(one["flops"] for one in new)
    assert main([*arguments, "--flops", str(budget)]) == 0
    printed = capsys.readouterr().out
    fewer = json.loads(printed[printed.index("{") :])["suggestions"]
    assert fewer and sum(one["flops"] for one in fewer) <= budget
    assert len(fewer) < len(told["suggestions"])


def test_a_budget_that_is_none_is_refused(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", str(planted), "--flops", "-1"]) == 2
    assert "--flops -1.0 is not a number above 0" in capsys.readouterr().err


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
