"""Trees of stages, executed: a forked run is the straight run, bitwise; stops, failures and what a tree costs."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import trained
from rich.console import Console

from analysis.results import load
from lab import checkpoint, corpus, store
from lab.config import ExecConfig, RunConfig
from sweeps import estimate, launch, plan, saved, worker
from sweeps.sweep import Point, Run, Sweep, axis, product, replaced, resolved, zipped
from sweeps.this_machine import here

pytestmark = pytest.mark.stack

RATES = (2.0**-7, 2.0**-6, 2.0**-5, 2.0**-4)


def sweep_of(base: RunConfig, points: Sequence[Point], **execution: Any) -> Sweep:
    return Sweep(
        name="tree",
        question="?",
        cost="none",
        expected="none",
        base=base,
        points=points,
        execution=ExecConfig(**execution),
    )


def tree(base: RunConfig, **execution: Any) -> Sweep:
    """Four rates and three budgets, the example of the arithmetic; segments of two updates, in one program."""
    points = product(
        zipped(axis("schedule.steps", 10, 20, 40), axis("schedule.decay_steps", 2, 4, 8)), axis("optimizer.lr", *RATES)
    )
    return sweep_of(base, points, **({"lanes": 4, "segment": 2} | execution))


def quiet() -> Console:
    return Console(quiet=True)


def run_sweep(sweep: Sweep, root: Path) -> int:
    return launch.launch(sweep, root, again="again", smoke=False, console=quiet())


def losses(root: Path, one: Run) -> np.ndarray:
    with open(store.run_folder(root, one.run_id) / "curve.csv") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])


def final_params(root: Path, record: dict[str, Any], like: Any) -> Any:
    folder = store.unit_folder(root, record["exec"]["unit"]) / "checkpoints"
    state = checkpoint.restore(folder, "final", like)
    return {path: np.asarray(leaf)[record["exec"]["lane"]] for path, leaf in state.params.items()}


@pytest.fixture(scope="module")
def whole(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the tree."""
    root = tmp_path_factory.mktemp("whole")
    assert run_sweep(tree(base), root) == 0
    return root


@pytest.mark.exact
@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_a_forked_run_is_the_straight_run_bitwise(base: RunConfig, tmp_path: Path, whole: Path, strategy: str) -> None:
    sweep = tree(base, strategy=strategy)
    root = whole if strategy == "map" else tmp_path
    assert run_sweep(sweep, root) == 0
    records, runs = store.read_records(root), resolved(sweep)
    assert len(records) == 12
    for steps in (10, 20, 40):
        straight = [one for one in runs if one.config.schedule.steps == steps]
        job, snapshot = trained([one.config for one in straight], lanes=4, strategy=strategy, segment=2)
        for lane, one in enumerate(straight):
            record = records[one.run_id]
            np.testing.assert_allclose(losses(root, one), snapshot.loss[:, lane], rtol=1e-5)
            forked = final_params(root, record, job.program.abstract_state())
            for path, leaf in snapshot.state.params.items():
                np.testing.assert_array_equal(forked[path], np.asarray(leaf)[lane])
            expected = job.program.evaluate(job.lane, snapshot.state, job.validation)[lane].mean()
            assert record["validation"]["loss"] == expected


def test_records_say_what_they_share(base: RunConfig, whole: Path) -> None:
    records = [store.read_records(whole)[one.run_id] for one in resolved(tree(base))]
    trunks = {record["config"]["optimizer"]["lr"]: record["trunk_id"] for record in records}
    assert len(set(trunks.values())) == 4
    assert all(record["trunk_id"] == trunks[record["config"]["optimizer"]["lr"]] for record in records)
    assert sorted({record["fork_step"] for record in records}) == [8, 16]
    assert all(record["parent"] for record in records)
    assert set(load(whole).frame["trunk"]) == set(trunks.values())


class Witness:
    """A watcher that notes what is in the store when a unit starts and ends."""

    def __init__(self, root: Path) -> None:
        self.root, self.started_with, self.failures = root, [], []

    def forks(self) -> list[str]:
        return sorted(folder.parent.name for folder in self.root.glob("units/*/fork") if checkpoint.names(folder))

    def started(self, unit: plan.Unit, step: int) -> None:
        assert step == unit.begin
        assert {source.unit_id for source in unit.sources} <= set(self.forks())
        self.started_with.append(self.forks())

    def advanced(self, unit: plan.Unit, snapshot: Any) -> None: ...
    def measured(self, unit: plan.Unit, seconds: float) -> None: ...
    def finished(self, unit: plan.Unit, results: Any) -> None: ...
    def failed(self, unit: plan.Unit, error: Exception) -> None:
        assert unit.stages
        self.failures.append(str(error))


def pending(sweep: Sweep, root: Path) -> list[plan.Unit]:
    groups = plan.plan(resolved(sweep), sweep.execution, machine=here("cpu"))
    return plan.pending(groups, store.read_records(root), lambda unit_id: saved.forked(root, unit_id))


def test_forks_are_there_before_their_branches_and_gone_after_the_last(base: RunConfig, tmp_path: Path) -> None:
    sweep, witness = tree(base), Witness(tmp_path)
    units = pending(sweep, tmp_path)
    assert [(unit.begin, unit.end) for unit in units] == [(0, 8), (8, 10), (8, 16), (16, 20), (16, 40)]
    assert worker.work(units, tmp_path, witness, worker.StopRequest()) == 0
    assert [len(forks) for forks in witness.started_with] == [0, 1, 1, 1, 1]
    assert witness.forks() == []
    assert pending(sweep, tmp_path) == []


class Stopping(Witness):
    """Asks for a stop as soon as a unit that begins at `begin` has `event`."""

    def __init__(self, root: Path, event: str, begin: int, stop: worker.StopRequest) -> None:
        super().__init__(root)
        self.event, self.begin, self.stop = event, begin, stop

    def advanced(self, unit: plan.Unit, snapshot: Any) -> None:
        assert unit.begin <= snapshot.step <= unit.end
        self.stop.asked |= self.event == "advanced" and unit.begin == self.begin

    def finished(self, unit: plan.Unit, results: Any) -> None:
        assert len(results) == len(unit.runs)
        self.stop.asked |= self.event == "finished" and unit.begin == self.begin


@pytest.mark.parametrize(("event", "begin", "left"), [("finished", 0, 4), ("finished", 8, 3), ("advanced", 16, 2)])
def test_a_stopped_tree_goes_on_from_its_forks(
    base: RunConfig, tmp_path: Path, whole: Path, event: str, begin: int, left: int
) -> None:
    sweep, broken, stop = tree(base), tmp_path / "broken", worker.StopRequest()
    with pytest.raises(worker.Interrupted):
        worker.work(pending(sweep, broken), broken, Stopping(broken, event, begin, stop), stop)
    again = pending(sweep, broken)
    assert len(again) == left
    assert again[0].begin == (begin if event == "advanced" else 8)
    assert run_sweep(sweep, broken) == 0
    one, other = (
        {run_id: record["validation"] for run_id, record in store.read_records(root).items()}
        for root in (whole, broken)
    )
    assert one == other
    assert Witness(broken).forks() == []


def test_a_failed_trunk_fails_its_branches_and_is_trained_again(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, witness = tree(base), Witness(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(worker.train, "start", lambda _: (_ for _ in ()).throw(MemoryError("no room")))
        assert worker.work(pending(sweep, tmp_path), tmp_path, witness, worker.StopRequest()) == 5
    assert witness.failures[0] == "no room"
    assert all("it goes on from unit" in line and "which failed" in line for line in witness.failures[1:])
    assert run_sweep(sweep, tmp_path) == 0


def test_a_damaged_fork_is_named(base: RunConfig, tmp_path: Path) -> None:
    sweep, stop = tree(base), worker.StopRequest()
    with pytest.raises(worker.Interrupted):
        worker.work(pending(sweep, tmp_path), tmp_path, Stopping(tmp_path, "finished", 0, stop), stop)
    (fork,) = tmp_path.glob("units/*/fork/*")
    for path in fork.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    witness = Witness(tmp_path)
    worker.work(pending(sweep, tmp_path)[:1], tmp_path, witness, worker.StopRequest())
    assert "cannot be restored" in witness.failures[0]
    assert "delete it and run the sweep again" in witness.failures[0]


def test_a_fork_that_nobody_waits_for_is_cleared_by_the_next_launch(
    base: RunConfig, tmp_path: Path, whole: Path
) -> None:
    sweep = tree(base)
    (first, *_) = pending(sweep, tmp_path)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    left = store.fork_folder(tmp_path, first.unit_id)
    checkpoint.save(left, "000000008", {"x": np.zeros(2)})  # as if killed between the last record and the clearing
    assert run_sweep(sweep, tmp_path) == 0
    assert not left.exists()


def test_a_grid_that_grows_keeps_its_records(base: RunConfig, tmp_path: Path) -> None:
    few = tree(base)
    assert run_sweep(few, tmp_path) == 0
    assert Witness(tmp_path).forks() == []
    longer = replaced(few, {"optimizer.lr": [*RATES, 2.0**-3]})
    assert run_sweep(longer, tmp_path) == 0
    assert len(store.read_records(tmp_path)) == 15
    assert Witness(tmp_path).forks() == []


def test_an_estimate_says_when_data_repeat(base: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    once = estimate.estimate(tree(base))
    assert 0 < once["passes"] < 1
    often = estimate.estimate(sweep_of(base, axis("schedule.steps", 4000)))
    assert often["passes"] == pytest.approx(4000 * 64 / corpus.load(base.data).train.size)
    for found, noted in ((once, False), (often, True)):
        estimate.show(found, Console())
        assert ("beyond one pass its data repeat" in capsys.readouterr().out) == noted


def test_an_estimate_counts_the_tree(base: RunConfig) -> None:
    found = estimate.estimate(tree(base))
    assert (found["runs"], found["programs"], found["units"], found["trunks"]) == (12, 1, 5, 4)
    assert (found["steps_alone"], found["steps_planned"]) == (4 * 70, 4 * 46)
    assert found["saving"] == 70 / 46
    assert found["tokens_planned"] == 4 * 46 * 64
    alone = estimate.estimate(sweep_of(base, axis("optimizer.lr", *RATES)))
    assert (alone["saving"], alone["trunks"]) == (1, 0)
