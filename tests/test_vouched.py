"""Stores whose files say something else than the ids of their runs: the id decides, and it is said."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_damaged import HOW, changed, record_files, sweep_of
from test_damaged import root as root  # the fixture

from analysis.results import load
from lab import store
from lab.check import InputError
from lab.config import RunConfig
from lab.record import Result, record
from sweeps import launch
from sweeps.sweep import axis, product, resolved

pytestmark = pytest.mark.host


def test_a_configuration_of_another_run_is_not_that_of_this_one(root: Path) -> None:
    """Columns that are no axes come from config.json: one that was edited or exchanged made them silently wrong."""
    first, second = (path.parent for path in record_files(root)[:2])
    whole = load(root).frame.set_index("run_id")
    changed(first / "config.json", optimizer__weight_decay=0.5, optimizer__lr=0.25)
    (second / "config.json").write_bytes((record_files(root)[2].parent / "config.json").read_bytes())
    found = load(root)
    assert found.frame.set_index("run_id").equals(whole)
    assert len(found.notes) == 2
    for run in (first, second):
        assert any(f"{run.name}/config.json does not describe this run" in note for note in found.notes)


def test_a_configuration_of_another_version_is_taken_as_it_is(root: Path) -> None:
    path = record_files(root)[0].parent / "config.json"
    changed(path, optimizer__of_a_later_version=1)
    assert load(root).notes == []


def test_neither_the_configuration_nor_the_record_describes_the_run(root: Path) -> None:
    path = record_files(root)[0]
    changed(path.parent / "config.json", optimizer__weight_decay=0.5)
    changed(path, config__optimizer__weight_decay=0.5)
    found = load(root)
    assert path.parent.name not in set(found.frame["run_id"])
    assert "until then its run is left out" in found.notes[0]


def test_a_point_that_was_edited_has_the_value_of_its_run(root: Path) -> None:
    whole, path = load(root).frame, root / "sweep.json"
    found = json.loads(path.read_text())
    run_id = next(iter(found["runs"]))
    found["runs"][run_id]["optimizer.lr"] *= 10
    path.write_text(json.dumps(found))
    results = load(root)
    assert results.frame.equals(whole)
    (note,) = results.notes
    assert run_id in note and "optimizer.lr=" in note and "delete the file" in note


def test_a_sweep_of_a_later_schema_is_refused(root: Path) -> None:
    changed(root / "sweep.json", schema=2)
    with pytest.raises(InputError, match=r"is of schema 2, and this version knows 1: use the one that wrote it"):
        store.read_sweep(root)


def test_a_broken_configuration_of_another_grid_keeps_no_launch_from_going_on(base: RunConfig, root: Path) -> None:
    other = next(run for run in resolved(sweep_of(base)) if run.config.model.width == 32)
    (store.run_folder(root, other.run_id) / "config.json").write_text("{")
    sweep = dataclasses.replace(sweep_of(base), points=product(axis("model.width", 16), axis("optimizer.lr", 2.0**-8)))
    launch._describe(sweep, resolved(sweep), root, {})
    with pytest.raises(InputError):  # the broken file is still there
        store.read_config(root, other.run_id)
    assert not launch._of_old(root, other.run_id)


def test_a_record_that_is_a_link_to_nothing_makes_room_for_a_new_one(base: RunConfig, root: Path) -> None:
    path = record_files(root)[0]
    path.unlink()
    path.symlink_to("dropped")
    (run,) = (run for run in resolved(sweep_of(base)) if run.run_id == path.parent.name)
    new = record(run.config, Result("done", 2.0, 0.1, 256, 2.1, 2.1, None), HOW)
    assert not store.write_record(root, new)  # what a launch did that had not seen the link: its training was lost
    assert len(launch._set_aside(root)) == 1
    assert store.write_record(root, new)
    assert load(root).notes == []


def test_printed_lines_that_find_no_room_are_one_line(root: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    found = {}
    for where in ("/dev/full", os.devnull):  # the second is the control
        with open(where, "w") as out:
            command = [sys.executable, "-m", "sweeps.cli", "status", str(root)]
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        found[where] = done.returncode, done.stderr
    status, said = found["/dev/full"]
    assert status == 2
    assert said.count("\n") == 1
    assert "no space left on the disk of what was written" in said
    assert found[os.devnull] == (0, "")
