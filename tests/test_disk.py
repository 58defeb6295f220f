"""Disks that are full, or have no locks or hard links; links; and JSON that says one thing."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from lab import disk, store
from lab.check import InputError
from lab.text import parsed, plain, shown

pytestmark = pytest.mark.host

# What file systems without hard links say: Google Drive and gcsfuse, exFAT, Android's cards.
NO_LINKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


def failing(number: int) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Hard links


@pytest.mark.parametrize("number", NO_LINKS)
def test_files_are_created_once_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    path = tmp_path / "deep" / "record.json"
    assert disk.create_exclusive(path, b"first")
    assert not disk.create_exclusive(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(path.parent) == ["record.json"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_not_taken_for_one_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.create_exclusive(tmp_path / "record.json", b"x")
    assert names(tmp_path) == []


def test_without_hard_links_a_name_that_gets_no_content_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    with pytest.raises(disk.DiskFull):
        disk.create_exclusive(tmp_path / "record.json", b"x")
    assert names(tmp_path) == []


# Locks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_used_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with store.locked(tmp_path / "new") as note:
        assert note is not None
        assert "has no locks" in note
        assert str(tmp_path / "new") in note


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES])
def test_a_store_that_is_held_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with store.locked(tmp_path) as note:
        assert note is None  # the control: this disk has locks
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(InputError, match="is in use by process [0-9]+: wait for it"), store.locked(tmp_path):
        pass
    (tmp_path / ".lock").write_text("")  # of a process that has not yet said who it is
    with pytest.raises(InputError, match="is in use by another process"), store.locked(tmp_path):
        pass


# Full disks


@pytest.fixture(params=[errno.ENOSPC, errno.EDQUOT])
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose last room is used up when bytes are to be kept."""
    monkeypatch.setattr(os, "fsync", failing(request.param))


@pytest.mark.usefixtures("full")
def test_a_full_disk_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text("old")
    with pytest.raises(disk.DiskFull, match=f"the disk of {path}: make room"):
        disk.write_atomic(path, b"new")
    with pytest.raises(disk.DiskFull), disk.whole(path) as written:
        written.write_text("new")
    with pytest.raises(disk.DiskFull):
        disk.create_exclusive(tmp_path / "record.json", b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["law.json"]


def test_a_file_that_is_written_whole_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    path.chmod(0o640)
    with disk.whole(path) as written:
        written.write_text("new")
        assert path.read_text() == "old"
        assert written.suffix == ".csv"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    with contextlib.suppress(ZeroDivisionError), disk.whole(path) as written:
        written.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "new"
    assert names(tmp_path) == ["table.csv"]


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    with disk.whole(Path("/dev/null")) as written:
        written.write_text("gone")
    assert Path("/dev/null").is_char_device()
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with disk.whole(tmp_path / "link.csv") as written:
        written.write_text("x")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "x"


def test_full_disks_are_known_however_a_library_says_it(tmp_path: Path) -> None:
    inner = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("the tree was not saved")
    wrapped.__cause__ = inner
    words = ValueError("RESOURCE_EXHAUSTED: write of 4096 bytes: No space left on device")
    for error in (inner, wrapped, words):
        found = disk.full(error, tmp_path)
        assert found is not None
        assert str(found).startswith(f"no space left on the disk of {tmp_path}: ")
    assert disk.full(ValueError("no such run"), tmp_path) is None
    assert disk.full(OSError(errno.EACCES, "denied"), tmp_path) is None


def test_errors_of_a_named_file_are_one_line() -> None:
    for number, words in (
        (errno.EROFS, "can only be read"),
        (errno.ELOOP, "leads to itself"),
        (errno.ENOSPC, "no space left on the disk of x"),
        (errno.EACCES, "check its permissions"),
        (errno.ENOTDIR, "check this path"),
    ):
        line = disk.told(OSError(number, os.strerror(number), "x"))
        assert line is not None
        assert words in line
        assert "\n" not in line
    assert disk.told(OSError(errno.EPIPE, "no file")) is None


# Links


def test_links_that_lead_nowhere_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "real").mkdir()
    (tmp_path / "there").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("gone", "gone/below", "loop"):
        with pytest.raises(InputError, match=r"is a link that leads nowhere \(.*\): make the folder"):
            disk.require_folder(tmp_path / name, "--out")
    for name in ("file", "file/below"):
        with pytest.raises(InputError, match="is a file: give a folder"):
            disk.require_folder(tmp_path / name, "--out")
    for name in ("there", "there/below", "new/below"):
        disk.require_folder(tmp_path / name, "--out")


def test_links_that_lead_out_are_refused_and_links_within_are_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "store", tmp_path / "store-2"
    (root / "runs").mkdir(parents=True)
    outside.mkdir()
    (root / "report").symlink_to(outside)
    (root / "units").symlink_to(root / "runs")
    with pytest.raises(InputError, match=r"report is a link that leads out of .*store \(to .*store-2\): remove it"):
        disk.require_inside(root, root / "report" / "page.html")
    disk.require_inside(root, root / "units" / "x")
    (tmp_path / "alias").symlink_to(root)  # a store may itself be behind a link
    disk.require_inside(tmp_path / "alias", tmp_path / "alias" / "runs" / "x")


# JSON and words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"optimizer": {"lr": 1}, "optimizer": {"lr": 2}}', "the key 'optimizer' stands twice"),
        ('{"a": {"b": [{"lr": 1, "lr": 1}]}}', "the key 'lr' stands twice"),
        ('{"loss": NaN}', "NaN is no number"),
        ('{"loss": -Infinity}', "-Infinity is no number"),
        ('{"loss": 1e999}', "too large"),
        ('{"loss": ' + "1" * 5000 + "}", "digits"),
        ("[" * 200_000, "nested too deeply"),
        ('{"loss": 1', "delimiter"),
    ],
)
def test_json_that_says_two_things_or_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parsed(text)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=rf"run\.json is not readable JSON \(.*{words}.*\): mend it"):
        store.read_json(tmp_path / "run.json", "mend it")


def test_plain_json_is_read() -> None:
    assert parsed('{"a": {"lr": 1}, "b": {"lr": 2.5}}') == {"a": {"lr": 1}, "b": {"lr": 2.5}}
    assert parsed(b'\xef\xbb\xbf{"a": "\xc3\xa4"}') == {"a": "ä"}


def test_what_a_terminal_would_act_on_is_written_out() -> None:
    assert shown("a\x1b]0;title\x07b") == r"a\x1b]0;title\x07b"
    assert shown("width 64, μP, 2⁻⁶\n") == "width 64, μP, 2⁻⁶\n"
    assert shown("\u202edlrow\u2028\u009b") == r"\u202edlrow\u2028\x9b"
    assert shown(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert plain({"\x1b": ["\x07", 1, None]}) == {r"\x1b": [r"\x07", 1, None]}
