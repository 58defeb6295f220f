"""Documents: the texts of a corpus with their names, read from files."""

import glob
import os
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.check import InputError, require
from lab.split import MIN_FILES_TO_SPLIT, Document

STDLIB_EXCLUDED = frozenset({"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"})


def stdlib_documents() -> list[Document]:
    """(relative path, source) of the standard library's modules, in path order.

    Tests, idlelib and site-packages are left out, and so are the files that each build of Python generates about
    itself (`_sysconfigdata*`, `config-*`), which differ between machines of one version.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        generated = path.name.startswith("_sysconfigdata") or parts[0].startswith("config-")
        if not generated and not STDLIB_EXCLUDED.intersection(parts):
            found.append(("/".join(parts), path.read_bytes()))
    require(len(found) >= MIN_FILES_TO_SPLIT, f"the standard library at {root} has no source files: use text:PATH")
    return found


def text_documents(spec: str, path: str) -> list[Document]:
    """The files of a path as (name, text), names relative to the folder that holds them all, however it is spelled.

    Raises:
        InputError: no file, or one that cannot be read.
    """
    files = matches(spec, path)
    return [(name, _read(file)) for name, file in zip(names(files), files, strict=True)]


def no_text(documents: Sequence[Document]) -> tuple[str, ...]:
    """A note on documents that are no text in UTF-8: pictures, archives, UTF-16, which are read all the same."""
    odd = [name for name, text in documents if not _is_text(text)]
    if not odd:
        return ()
    shown = ", ".join(odd[:3]) if len(odd) <= 3 else f"{', '.join(odd[:3])} and {len(odd) - 3} more"
    return (
        f"{len(odd)} of {len(documents)} files are no text in UTF-8 and are trained on all the same: {shown}; "
        "convert them, or leave them out, as text:FOLDER/*.txt does with what is not called .txt",
    )


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in text


def first_text_documents(spec: str, path: str) -> list[Document]:
    """The files of a path as version 0.1.0 named them: as spelled, unless it is a folder; hidden folders too."""
    root = Path(path).expanduser()
    files = [file for file in _every(root, path) if file.is_file() and not file.name.startswith(".")]
    require(bool(files), f"data.corpus={spec} matches no file: check the path")
    return [(file.relative_to(root).as_posix() if root.is_dir() else file.as_posix(), _read(file)) for file in files]


def matches(spec: str, path: str) -> list[Path]:
    """Files of a path: the file itself, every file below a folder, or the matches of a glob; sorted.

    Below a folder whatever is hidden, or in a hidden folder, is left out.  Links to files are followed, links to
    folders below a folder are not.

    Raises:
        InputError: there is none, or a link leads nowhere.
    """
    root = Path(path).expanduser()
    every = _every(root, path)
    seen = [file for file in every if not _hidden(file, root)]
    dead = [file for file in seen if file.is_symlink() and not file.exists()]
    require(not dead, f"data.corpus={spec}: the link {dead[0] if dead else ''} leads nowhere: remove it or mend it")
    files = [file for file in seen if file.is_file()]
    hint = ", hidden ones aside" if any(file.is_file() for file in every) else ""
    require(bool(files), f"data.corpus={spec} matches no file{hint}: check the path")
    return files


def names(files: Iterable[Path]) -> list[str]:
    """Names of files relative to the deepest folder that holds them all."""
    whole = [Path(os.path.abspath(file)) for file in files]
    folder = os.path.commonpath([file.parent for file in whole])
    return [file.relative_to(folder).as_posix() for file in whole]


def _every(root: Path, path: str) -> list[Path]:
    if path and (root.is_file() or root.is_symlink() and not root.exists()):
        return [root]
    if path and root.is_dir():
        return sorted(root.rglob("*"))
    return sorted(map(Path, glob.glob(str(root), recursive=True))) if path else []


def _hidden(file: Path, root: Path) -> bool:
    """Whether a file below a folder is hidden there; of others (globs leave hidden ones out) its name says so."""
    if file == root:
        return False
    parts = file.relative_to(root).parts if root.is_dir() else file.parts[-1:]
    return any(part.startswith(".") for part in parts)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions, or leave it out") from None
