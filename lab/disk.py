"""Files as any disk keeps them: whole or not at all, created once, held by one.

Not every file system has hard links (exFAT, Google Drive, gcsfuse) or locks (Lustre without `-o flock`, NFS without
lockd), and each of them can be full.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from lab.check import InputError, require

# What a link that cannot be made says where the disk itself is at fault; anything else: it has no hard links.
_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT, errno.ESTALE}
_FULL = {
    errno.ENOSPC: "no space left on",
    errno.EDQUOT: "the quota is used up on",
    errno.EFBIG: "a file is too large for",
}
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
_IN_USE = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
# File systems that cannot sync a folder, or at all, say so in these words.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_OTHER = {
    errno.EROFS: "is on a file system that can only be read: give another place",
    errno.ELOOP: "is a link that leads to itself: remove it, or give another place",
    errno.ENAMETOOLONG: "has a name that is too long for its disk: give a shorter one",
    errno.EIO: "cannot be read or written, its disk reports an error: give a place on another disk",
}


class DiskFull(InputError):
    """There is no room for what is to be written, here or in any file beside it."""


def create_exclusive(path: Path, data: bytes) -> bool:
    """Write a file that did not exist; False if it does, which is then left as it is.

    The bytes are complete and on disk before the name appears (temporary file, fsync, link, fsync of the folder).
    Where there are no hard links, the name is taken first and its empty file replaced.

    Raises:
        DiskFull: there is no room; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        with _filled(path):
            temporary.write_bytes(data)
            _sync(temporary)
            if not _named(temporary, path):
                return False
    _sync_folder(path.parent)
    return True


def write_atomic(path: Path, data: bytes) -> None:
    """Write or replace a file; a reader sees the old bytes or the new ones.

    Raises:
        DiskFull: there is no room; an older file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary, _filled(path):
        temporary.write_bytes(data)
        _sync(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, which then has what was written, or is left as it was where that failed.

    What is no file (`/dev/stdout`, a pipe) is written to directly; a link is followed.

    Raises:
        DiskFull: there is no room.
    """
    target = Path(os.path.realpath(path))
    with _filled(path):
        if target.exists() and not target.is_file():
            yield target
            return
        with _temporary(target, target.suffix) as temporary:  # writers go by the ending
            yield temporary
            _sync(temporary)
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            os.replace(temporary, target)


@contextlib.contextmanager
def held(path: Path) -> Iterator[str | None]:
    """Hold a lock file against other processes; yields a note where the file system has no locks, else None.

    Raises:
        InputError: another process holds it; it is named.
    """
    note = None
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _IN_USE:
                holder = os.read(handle, 20).decode(errors="replace").strip()
                who = f"process {holder}" if holder else "another process"
                raise InputError(f"{path.parent} is in use by {who}: wait for it, or use another --out") from None
            note = (
                f"the file system of {path.parent} has no locks ({error.strerror}): nothing keeps a second process "
                "from it, so start only one"
            )
        with contextlib.suppress(OSError):  # who holds it is said where there is room
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
        yield note
    finally:
        os.close(handle)


def in_use(path: Path) -> bool:
    """Whether a process holds a lock file (`held`); False where there is none, or the file system cannot tell."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _IN_USE
    return False


def require_folder(path: Path, option: str) -> None:
    """Require that a path is a folder, or can be made one.

    Raises:
        InputError: it or a part of it is a file, or a link that leads nowhere.
    """
    for part in (path, *path.parents):
        if part.is_dir():
            return
        where = f"{option} {path}" if part == path else f"{option} {path}: {part}"
        if part.is_symlink() and not part.exists():
            raise InputError(
                f"{where} is a link that leads nowhere ({os.readlink(part)}): make the folder it names, or remove it"
            )
        require(not part.exists(), f"{where} is a file: give a folder")


def require_inside(folder: Path, path: Path) -> None:
    """Require that no link on the way from `folder` to `path` leads out of `folder`.

    Raises:
        InputError: naming the link.
    """
    root = os.path.realpath(folder)
    part = folder
    for name in path.relative_to(folder).parts:
        part = part / name
        if part.is_symlink():
            target = os.path.realpath(part)
            require(
                target.startswith(root + os.sep),
                f"{part} is a link that leads out of {folder} (to {target}): remove it, or put what it names there",
            )


def require_room(folder: Path, size: int) -> None:
    """Require that so many bytes can be written to a folder, which need not be there yet, as far as its disk says.

    Raises:
        DiskFull: it says that there is less.
    """
    there = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    found = os.statvfs(there)
    if found.f_blocks and found.f_bavail * found.f_frsize < size:  # some file systems count no blocks
        raise _no_room(errno.ENOSPC, folder)


def full(error: BaseException, path: Path) -> DiskFull | None:
    """What to raise for an error, however deep a full disk lies below it; None where it does not."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, DiskFull):
            return cause
        number = getattr(cause, "errno", None)
        if number in _FULL:
            return _no_room(number, path)
        if any(words in str(cause) for words in _FULL_WORDS):
            return _no_room(errno.ENOSPC, path)
        cause = cause.__cause__ or cause.__context__
    return None


def _no_room(number: int, path: Path) -> DiskFull:
    return DiskFull(f"{_FULL[number]} the disk of {path}: make room there, and run the same command again")


def told(error: OSError) -> str | None:
    """One line for an error of a file that a person named, or of a disk without room; None for others."""
    if error.filename is None:
        what = "what was written (the printed lines, or --out)"
        return str(_no_room(error.errno, Path(what))) if error.errno in _FULL else None
    found = full(error, Path(os.fsdecode(error.filename)))
    if found is not None:
        return str(found)
    name = os.fsdecode(error.filename)
    if isinstance(error, PermissionError):
        return f"{name} cannot be written: check its permissions"
    known = _OTHER.get(error.errno or 0)
    return f"{name} {known}" if known else f"{name}: {error.strerror}: check this path"


@contextlib.contextmanager
def _filled(path: Path) -> Iterator[None]:
    """Errors of a full disk name the file; all other errors pass."""
    try:
        yield
    except Exception as error:
        found = full(error, path)
        if found is None:
            raise
        raise found from None


@contextlib.contextmanager
def _temporary(path: Path, suffix: str = "") -> Iterator[Path]:
    """A path beside `path` for a file that is gone in the end."""
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}{suffix}"
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _named(temporary: Path, path: Path) -> bool:
    """Give a file its name, unless another has it."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _FAULTS:
            raise
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    try:
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return True


def _sync(path: Path) -> None:
    _synced(path, os.O_RDWR)


def _sync_folder(path: Path) -> None:
    _synced(path, os.O_RDONLY)


def _synced(path: Path, how: int) -> None:
    handle = os.open(path, how)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)
