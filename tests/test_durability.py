"""What is on disk when: records are synced before their name appears, and resume points follow the clock."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab import store, train
from lab.config import ExecConfig
from sweeps import worker

pytestmark = pytest.mark.host

DATA = b"x" * 5000


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is asked of the disk, in order: syncs with the size of what is synced, and names that appear."""
    seen: list[tuple[str, Any]] = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "replace")}

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        seen.append(("sync folder", found.st_ino) if stat.S_ISDIR(found.st_mode) else ("sync file", found.st_size))
        real["fsync"](handle)

    def link(source: str, target: Path) -> None:
        seen.append(("name", Path(target).name))
        real["link"](source, target)

    def replace(source: str, target: Path) -> None:
        seen.append(("name", Path(target).name))
        real["replace"](source, target)

    for name, function in {"fsync": fsync, "link": link, "replace": replace}.items():
        monkeypatch.setattr(os, name, function)
    return seen


def test_a_record_is_complete_and_synced_before_its_name_appears(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    record = {"run_id": "0123", "numbers": list(range(500))}
    assert store.write_record(tmp_path, record)
    folder = store.run_folder(tmp_path, "0123")
    size = (folder / "record.json").stat().st_size
    assert calls == [("sync file", size), ("name", "record.json"), ("sync folder", folder.stat().st_ino)]
    assert [path.name for path in folder.iterdir()] == ["record.json"]
    # The second writer changes nothing, and what it wrote on the way is gone.
    assert not store.write_record(tmp_path, record | {"numbers": []})
    assert (folder / "record.json").stat().st_size == size
    assert [path.name for path in folder.iterdir()] == ["record.json"]


def test_a_file_that_is_replaced_is_synced_before(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    store.write_atomic(tmp_path / "curve.csv", DATA)
    assert calls == [("sync file", len(DATA)), ("name", "curve.csv")]
    calls.clear()
    (tmp_path / "plain.csv").write_bytes(DATA)
    assert not calls  # the control: a plain write syncs nothing


class Clock:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "steps"), [(25.0, [6, 12]), (9.0, [2, 4, 6, 8, 10, 12]), (10.0, [4, 8, 12]), (1000.0, [])]
)
def test_resume_points_come_when_so_many_seconds_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: list[int]
) -> None:
    """Ten seconds pass in each segment of two updates; the end of a run has no resume point, its record comes."""
    clock, kept = Clock(), []
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(worker.saved, "save", lambda *args: kept.append(args[-1].step))

    def segments(job: train.Job, begin: train.Snapshot, stops: Sequence[int]) -> Iterator[train.Snapshot]:
        del stops
        for step in range(2, job.steps + 1, 2):
            clock.now += 10
            yield train.Snapshot(step, begin.state, begin.loss, begin.grad_norm)

    monkeypatch.setattr(train, "train", segments)
    job: Any = SimpleNamespace(steps=14)
    unit: Any = SimpleNamespace(settings=ExecConfig(checkpoint_seconds=seconds))
    state: Any = None
    empty = np.zeros((0, 1))
    begin = train.Snapshot(0, state, empty, empty)
    stop = worker.StopRequest()
    told = [newest.step for newest in worker._checkpointed(job, begin, tmp_path, unit, stop, None, None)]
    assert told == [2, 4, 6, 8, 10, 12, 14]
    assert kept == steps
