"""Stores that are damaged, or hold what is not theirs: it is named, and the rest goes on."""

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.results import load
from lab import checkpoint, disk, store
from lab.check import InputError
from lab.config import ExecConfig, RunConfig
from lab.record import Provenance, Result, record
from sweeps import launch, saved, worker
from sweeps.cli import main
from sweeps.plan import Unit
from sweeps.sweep import Run, Sweep, axis, product, resolved
from sweeps.table import console

pytestmark = pytest.mark.host

HOW = Provenance("abc", 0, 1, 4, "map", 1, "cpu", "cpu", 1, ExecConfig(), "then", "now", 1.0)


def sweep_of(base: RunConfig) -> Sweep:
    points = product(axis("model.width", 16, 32), axis("optimizer.lr", 2.0**-8, 2.0**-7, 2.0**-6))
    return Sweep(name="tiny", question="?", cost="none", expected="none", base=base, points=points)


@pytest.fixture
def root(base: RunConfig, tmp_path: Path) -> Path:
    """A store of six runs that nobody has trained: one diverged, the others with a loss each."""
    root, sweep = tmp_path / "store", sweep_of(base)
    runs = resolved(sweep)
    launch._describe(sweep, runs, root, {})
    for number, run in enumerate(runs):
        done = Result("done", 2.0 + number / 10, 0.1, 256, 2.1, 2.1, None)
        lost = Result("diverged", None, None, 256, None, 2.0, 5)
        store.write_record(root, record(run.config, lost if number == 5 else done, HOW))
    return root


def record_files(root: Path) -> list[Path]:
    return sorted(root.glob("runs/*/record.json"))


def changed(path: Path, **values: Any) -> None:
    """Set dotted fields of a JSON file; `...` deletes."""
    found = json.loads(path.read_text())
    for name, value in values.items():
        *before, last = name.split("__")
        inner = found
        for part in before:
            inner = inner[part]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    path.write_text(json.dumps(found))


def doubled(path: Path) -> None:
    path.write_text(path.read_text().replace('"status"', '"tokens": 1,\n "status"', 1))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no validation": (lambda path: changed(path, validation=...), "has no validation.loss"),
    "null validation": (lambda path: changed(path, validation=None), "has no validation.loss"),
    "no times": (lambda path: changed(path, times=...), "has no times.seconds"),
    "a text for a loss": (lambda path: changed(path, validation__loss="2.1"), "validation.loss='2.1', which cannot be"),
    "yes for a loss": (lambda path: changed(path, validation__loss=True), "validation.loss=True, which cannot be"),
    "a list for N": (lambda path: changed(path, parameters__non_embedding=[1]), "parameters.non_embedding=[1]"),
    "done without a loss": (lambda path: changed(path, validation__loss=None), "status=done and validation.loss=None"),
    "a negative N": (lambda path: changed(path, parameters__non_embedding=-5), "non_embedding=-5, which cannot be"),
    "a loss beyond squares": (lambda path: changed(path, validation__loss=1e200), "loss=1e+200, which cannot be"),
    "another word": (lambda path: changed(path, status="finished"), "status='finished', which is not done or diverged"),
    "of another run": (
        lambda path: changed(path, run_id="0123456789ab"),
        "is the record of another run (0123456789ab)",
    ),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:300]), "is not readable JSON"),
    "empty": (lambda path: path.write_bytes(b""), "is not readable JSON"),
    "a list": (lambda path: path.write_text("[1]"), "does not hold a JSON object"),
    "not a number": (lambda path: path.write_text(path.read_text().replace("2.1", "NaN")), "NaN is no number of JSON"),
    "a key twice": (doubled, "the key 'tokens' stands twice"),
    "bytes": (lambda path: path.write_bytes(b"\x80\x02\xff" * 50), "is not readable JSON"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is not readable JSON"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "it is no plain file"),
    "a link to itself": (lambda path: (path.unlink(), path.symlink_to(path.name)), "is not readable JSON"),
    "a link to nothing": (lambda path: (path.unlink(), path.symlink_to("dropped")), "is not readable JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_named_and_the_rest_goes_on(root: Path, name: str) -> None:
    damage, words = BROKEN[name]
    path = record_files(root)[0]
    damage(path)
    found = load(root)
    (note,) = found.notes
    assert str(path) in note
    assert words in note
    assert len(found.frame) == 6
    assert found.frame.set_index("run_id")["status"].to_dict()[path.parent.name] == "pending"
    assert len(found.records) == 5


def test_whole_records_are_not_named(root: Path) -> None:
    assert store.scan(root)[1] == {}
    assert load(root).notes == []


@pytest.mark.parametrize("command", ["status", "report"])
def test_commands_say_what_is_broken(root: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    changed(record_files(root)[0], validation=...)
    assert main([command, str(root)]) == 0
    assert "has no validation.loss" in " ".join(capsys.readouterr().out.split())


def test_the_next_launch_trains_a_broken_run_anew_and_keeps_what_was_there(base: RunConfig, root: Path) -> None:
    path = record_files(root)[0]
    changed(path, validation=...)
    before = path.read_bytes()
    (line,) = launch._set_aside(root)
    assert "has no validation.loss: it is kept as record.json.damaged" in line
    assert path.with_name("record.json.damaged").read_bytes() == before
    assert launch._set_aside(root) == []
    assert path.parent.name not in launch._losses(root)
    (run,) = (run for run in resolved(sweep_of(base)) if run.run_id == path.parent.name)
    assert store.write_record(root, record(run.config, Result("done", 2.0, 0.1, 256, 2.1, 2.1, None), HOW))
    assert load(root).notes == []


# Configurations


def test_a_broken_configuration_is_that_of_the_record_or_leaves_its_run_out(root: Path) -> None:
    with_record, without = (path.parent for path in record_files(root)[:2])
    (with_record / "config.json").write_text("{")
    changed(without / "config.json", model__width="wide")
    (without / "record.json").unlink()
    found = load(root)
    assert len(found.frame) == 5
    assert with_record.name in set(found.frame["run_id"])
    assert found.frame["model.width"].notna().all()
    assert len(found.notes) == 2
    for run in (with_record, without):
        (_,) = (note for note in found.notes if f"{run.name}/config.json" in note)


def test_a_launch_writes_a_broken_configuration_again(base: RunConfig, root: Path) -> None:
    path, kept = sorted(root.glob("runs/*/config.json"))[:2]
    before, stamp = path.read_bytes(), kept.stat().st_mtime_ns
    path.write_text("{")
    launch._describe(sweep_of(base), resolved(sweep_of(base)), root, {})
    assert path.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp


# Names that lead out


@pytest.mark.parametrize("name", ["../../outside", "..", ".", "", "/etc", "a/b", "a\\b", "a\n", "\x1b[31m"])
def test_names_of_runs_and_units_stay_in_the_store(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    shutil.copy(record_files(root)[0], tmp_path / "outside" / "record.json")
    path = root / "sweep.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"runs": found["runs"] | {name: {}}}))
    with pytest.raises(InputError, match=r"sweep\.json: the run .* is no name of a run: delete it and run"):
        load(root)
    for folder in (store.run_folder, store.unit_folder, store.fork_folder):
        with pytest.raises(InputError, match="is no name of a run"):
            folder(root, name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": []}, "has no runs as a sweep has it"),
        ({"runs": ...}, "has no runs as a sweep has it"),
        ({"axes": "seed"}, "has no axes as a sweep has it"),
        ({"axes": [1]}, "1 is no setting of a run, and so no axis"),
        ({"axes": ["model.width", "a/b"]}, "'a/b' is no setting of a run"),
        ({"optimum_axes": ["model.weird"]}, "'model.weird' is no setting of a run"),
        ({"runs": {"abc": {"optimizer.lr": "high"}}}, "the run abc has optimizer.lr='high', which cannot be"),
        ({"runs": {"abc": {"seed": 0.5}}}, "the run abc has seed=0.5, which cannot be"),
        ({"runs": {"abc": {"model.width": {}}}}, "the run abc has model.width={}, which cannot be"),
        ({"optimum_axes": []}, "has no axis of the optimum"),
        ({"name": None}, "has no name as a sweep has it"),
        ({"runs": {"abc": 3}}, "the run abc has no point"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(root: Path, changes: dict[str, Any], words: str) -> None:
    changed(root / "sweep.json", **changes)
    with pytest.raises(InputError, match=words) as told:
        load(root)
    assert "\n" not in str(told.value)


def test_links_out_of_the_store_are_not_followed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "report").symlink_to(outside)
    assert main(["report", str(root)]) == 2
    assert "report is a link that leads out of" in capsys.readouterr().err
    assert list(outside.iterdir()) == []
    (root / "report").unlink()
    (root / "report").mkdir()
    (outside / "page").write_text("mine")
    (root / "report" / "report.html").symlink_to(outside / "page")
    assert main(["report", str(root)]) == 2
    assert (outside / "page").read_text() == "mine"
    path = record_files(root)[0]
    shutil.move(path, outside / "record.json")
    path.symlink_to(outside / "record.json")
    (note,) = load(root).notes
    assert "record.json is a link that leads out of" in note


@pytest.mark.parametrize("option", ["--out", "out/below"])
def test_a_link_that_leads_nowhere_is_no_place_for_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out" / "below" if "/" in option else tmp_path / "out"
    for command in (["sweep", "quickstart"], ["train"]):
        assert main([*command, "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is a link that leads nowhere" in line


# Words of a terminal


def test_what_a_terminal_would_act_on_does_not_come_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;mine\x07\x1b[2J"
    changed(root / "sweep.json", name=evil, question=evil)
    for path in sorted(root.glob("runs/*/config.json")):
        changed(path, parametrization__name=evil)
    changed(record_files(root)[0], status=evil)
    moved = root.with_name("s\x1b[31mtore")
    root.rename(moved)
    for command in ("status", "report", "status --json"):
        name, *options = command.split()
        assert main([name, str(moved), *options]) == 0
    assert main(["status", str(moved / "missing\x07")]) == 2
    found = capsys.readouterr()
    assert "\x1b" not in found.out + found.err
    assert "\x07" not in found.out + found.err
    assert r"\x1b]0;mine\x07" in found.out
    written = console()
    written.file = io.StringIO()
    written.print(f"all runs are in {moved}")
    assert "\x1b" not in written.file.getvalue()


# What others put into folders of ours


def stray(folder: Path) -> list[str]:
    """Files that operating systems, shared drives and people leave."""
    (folder / "._final").write_text("x")
    (folder / ".DS_Store").write_text("x")
    (folder / "Thumbs.db").write_text("x")
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("x")
    (folder / "000000010 (1)").mkdir()
    (folder / "000000099").write_text("a file")
    return sorted(path.name for path in folder.iterdir())


def test_what_is_not_ours_among_checkpoints_is_neither_read_nor_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("000000010", "000000020", "final", "000000030.orbax-checkpoint-tmp-1"):
        (folder / name).mkdir(parents=True)
    theirs = [
        name for name in stray(folder) if not name.startswith("0000000") or name in ("000000010 (1)", "000000099")
    ]
    theirs = [name for name in theirs if name != "final"]
    assert checkpoint.names(folder) == ["000000010", "000000020", "final"]
    checkpoint.clear(folder)
    assert checkpoint.names(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == theirs
    # The control: where nothing is theirs, nothing is left.
    (tmp_path / "other" / "000000010").mkdir(parents=True)
    checkpoint.clear(tmp_path / "other")
    assert not (tmp_path / "other").exists()


class Saver:
    """Stands in for Orbax."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def save(self, path: Path, tree: Any, *, force: bool) -> None:
        del tree, force
        if self._error is not None:
            path.with_name(path.name + ".orbax-checkpoint-tmp").mkdir()
            raise self._error
        path.mkdir()


def test_a_new_checkpoint_counts_whatever_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.ocp, "StandardCheckpointer", Saver)
    (tmp_path / "000000010").mkdir()
    stray(tmp_path)

    def kept(path: Path, **_: Any) -> None:
        assert path.name == "000000010"

    with monkeypatch.context() as held:
        held.setattr(shutil, "rmtree", kept)
        checkpoint.save(tmp_path, "000000020", {})
    assert checkpoint.names(tmp_path) == ["000000010", "000000020"]
    checkpoint.save(tmp_path, "000000030", {})
    assert checkpoint.names(tmp_path) == ["000000030"]


def test_a_disk_that_fills_up_during_a_checkpoint_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ValueError("RESOURCE_EXHAUSTED: Failed to write 23659 bytes: No space left on device")
    monkeypatch.setattr(checkpoint.ocp, "StandardCheckpointer", lambda: Saver(error))
    monkeypatch.setattr(checkpoint, "quiet_late_callbacks", lambda: None)
    (tmp_path / "000000010").mkdir()
    with pytest.raises(disk.DiskFull, match="no space left on the disk of"):
        checkpoint.save(tmp_path, "000000020", {})
    assert [path.name for path in tmp_path.iterdir()] == ["000000010"]


def test_a_full_disk_ends_the_work_and_other_failures_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [Unit(name, (), None, ExecConfig()) for name in ("a", "b")]  # type: ignore[arg-type]
    failed: list[str] = []

    class Watcher:
        def failed(self, unit: Unit, error: Exception) -> None:
            failed.append(f"{unit.unit_id} {error}")

    def work(error: Exception) -> int:
        def run(*_: Any) -> None:
            raise error

        monkeypatch.setattr(worker, "_run", run)
        return worker.work(units, tmp_path, Watcher(), worker.StopRequest())  # type: ignore[arg-type]

    assert work(ValueError("odd")) == 2
    assert failed == ["a odd", "b odd"]
    with pytest.raises(disk.DiskFull):
        work(OSError(28, "No space left on device"))
    assert len(failed) == 2


def test_stray_files_among_runs_and_units_change_nothing(root: Path) -> None:
    before = load(root)
    for folder in (root, root / "runs", record_files(root)[0].parent):
        stray(folder)
    copy = root / "runs" / f"{record_files(root)[0].parent.name} (1)"
    shutil.copytree(record_files(root)[0].parent, copy)
    (copy / "record.json").write_text("{")
    unit = root / "units" / "abc"
    (unit / "checkpoints" / "000000010").mkdir(parents=True)
    stray(root / "units")
    (root / "units" / "notes" / "checkpoints").mkdir()
    (root / "units" / "a b" / "fork").mkdir(parents=True)
    after = load(root)
    assert after.notes == []
    assert after.frame.equals(before.frame)
    assert store.unit_ids(root, "checkpoints") == ["abc", "notes"]
    assert store.unit_ids(root, "fork") == []
    for text in ("{", '{"execution": []}', '{"execution": {"lanes": "4"}}'):
        (unit / "unit.json").write_text(text)
        assert saved.begun_lanes(root) is None
    (unit / "unit.json").write_text('{"execution": {"lanes": 4}}')
    assert saved.begun_lanes(root) == 4


def test_notes_of_the_disk_are_printed_by_a_launch(
    base: RunConfig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(disk.fcntl, "flock", none)
    terminal = Console(file=io.StringIO(), width=300)
    assert launch.launch(sweep_of(base), root, again="", smoke=False, console=terminal) == 0
    told = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "note: the file system of" in told
    assert "all 6 runs of tiny are in" in told


def test_a_run_is_one_of_its_sweep(base: RunConfig) -> None:
    """The stand-ins above are what a launch would make."""
    runs = resolved(sweep_of(base))
    assert len({run.run_id for run in runs}) == len(runs) == 6
    assert all(isinstance(run, Run) and store.NAME.fullmatch(run.run_id) for run in runs)
    assert dataclasses.is_dataclass(runs[0])
