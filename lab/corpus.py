"""Corpora: token streams for training and validation that never overlap, and their fingerprint.

- `python-stdlib`: the source files of the running Python's standard library, real text on every machine;
- `text:PATH`: a file, a folder or a glob of text files;
- `bin:PATH`: uint16 token files as nanoGPT (headerless) and modded-nanogpt (256-word header) write them, memory-mapped.
"""

import functools
import glob
import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab import tokenizer as tokenizers
from lab.check import nearest, require
from lab.config import DataConfig
from lab.tokenizer import Tokenizer

STDLIB_EXCLUDED = frozenset({"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"})
MIN_FILES_TO_SPLIT = 20
BIN_MAGIC, BIN_HEADER_WORDS = 20240520, 256
FINGERPRINT_DIGITS = 16
_BLOCK, _BLOCKS = 1 << 20, 256


@dataclass(frozen=True, eq=False)
class Stream:
    """A token stream in parts (arrays or memory maps) that are read as one; compared by identity."""

    parts: tuple[np.ndarray, ...]

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """Start of each part, and the end: int64 of shape [parts + 1]."""
        return np.concatenate([[0], np.cumsum([part.size for part in self.parts])]).astype(np.int64)

    @property
    def size(self) -> int:
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def array(self) -> np.ndarray:
        return self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [..., length] that begin at `starts` [...]."""
        found = np.empty((starts.size, length), self.parts[0].dtype)
        for row, start in enumerate(starts.ravel()):
            found[row] = self._slice(int(start), length)
        return found.reshape(*starts.shape, length)

    def _slice(self, start: int, length: int) -> np.ndarray:
        pieces, part = [], int(np.searchsorted(self.offsets, start, side="right")) - 1
        while length > 0:
            piece = self.parts[part][start - self.offsets[part] :][:length]
            pieces.append(piece)
            start, length, part = start + piece.size, length - piece.size, part + 1
        return np.concatenate(pieces)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token streams with the vocabulary they need (None where the files do not say) and their fingerprint.

    `largest` is the largest token that the fingerprint has seen: of every token up to 256 MiB, of a sample beyond.
    """

    name: str
    train: Stream
    validation: Stream
    vocab: int | None
    fingerprint: str
    largest: int


def load(config: DataConfig) -> Corpus:
    """The corpus that a configuration names; equal sources are loaded once per process.

    Raises:
        InputError: an unknown kind, a path without files, or text too short to split.
    """
    return _load(config.corpus, config.tokenizer, config.validation_fraction)


@functools.lru_cache(maxsize=4)
def _load(spec: str, tokenizer: str, fraction: float) -> Corpus:
    kind, _, path = spec.partition(":")
    require(
        kind in ("text", "bin") or spec == "python-stdlib",
        f"data.corpus={spec} is not one of python-stdlib, text:PATH, bin:PATH"
        f"{nearest(spec, ['python-stdlib', 'text:', 'bin:'])}",
    )
    if kind == "bin":
        train, validation, vocab = *_read_bin(spec, path, fraction), None
    else:
        words = tokenizers.load(tokenizer)
        documents = stdlib_documents() if spec == "python-stdlib" else _read_text(spec, path)
        parts = split(documents, fraction)
        train, validation = (_encode(words, part) for part in parts)
        vocab = words.vocab
    require(
        train.size > 0 and validation.size > 0,
        f"data.corpus={spec} leaves nothing to train on or to validate with: give a longer text",
    )
    return Corpus(spec, train, validation, vocab, *_fingerprint(train, validation, vocab))


def stdlib_documents() -> list[tuple[str, bytes]]:
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


def split(documents: Sequence[tuple[str, bytes]], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(train, validation) documents, in the given order; a text that occurs twice is used once.

    With 20 documents or more, whole documents are drawn for validation in the order of sha256(path) until they hold
    `fraction` of the bytes; with fewer, the last `fraction` of each document is cut off at a line end.
    """
    unique = list({text: (name, text) for name, text in reversed(documents) if text}.values())[::-1]
    if len(unique) < MIN_FILES_TO_SPLIT:
        cuts = [_cut(text, fraction) for _, text in unique]
        return [text[:cut] for (_, text), cut in zip(unique, cuts, strict=True)], [
            text[cut:] for (_, text), cut in zip(unique, cuts, strict=True)
        ]
    wanted = fraction * sum(len(text) for _, text in unique)
    chosen: set[str] = set()
    held = 0
    for name, text in sorted(unique, key=lambda item: hashlib.sha256(item[0].encode()).digest()):
        if held + len(text) <= 1.1 * wanted:  # a document that would overshoot stays in training
            chosen.add(name)
            held += len(text)
        if held >= wanted:
            break
    train = [text for name, text in unique if name not in chosen]
    return train, [text for name, text in unique if name in chosen]


def _cut(text: bytes, fraction: float) -> int:
    target = int(len(text) * (1 - fraction))
    line_end = text.find(b"\n", target)
    return line_end + 1 if 0 <= line_end < len(text) - 1 else target


def _read_text(spec: str, path: str) -> list[tuple[str, bytes]]:
    root = Path(path).expanduser()
    files = _files(spec, path)
    if not root.is_dir():
        return [(file.as_posix(), file.read_bytes()) for file in files]
    return [(file.relative_to(root).as_posix(), file.read_bytes()) for file in files]


def _files(spec: str, path: str) -> list[Path]:
    """Files of a path: the file itself, every file below a folder, or the matches of a glob; sorted."""
    root = Path(path).expanduser()
    if path and root.is_file():
        return [root]
    if path and root.is_dir():
        found: Iterable[Path] = root.rglob("*")
    else:
        found = map(Path, glob.glob(str(root), recursive=True)) if path else []
    files = sorted(p for p in found if p.is_file() and not any(part.startswith(".") for part in p.parts[-1:]))
    require(bool(files), f"data.corpus={spec} matches no file: check the path")
    return files


def _encode(words: Tokenizer, documents: Sequence[bytes]) -> Stream:
    return Stream((np.concatenate([words.encode(text) for text in documents] or [np.zeros(0, words.dtype)]),))


def _read_bin(spec: str, path: str, fraction: float) -> tuple[Stream, Stream]:
    """Files with `val` in their name validate; without any, the end of the last file does."""
    files = _files(spec, path)
    validation = [_map_bin(file) for file in files if "val" in file.name]
    train = [_map_bin(file) for file in files if "val" not in file.name]
    require(bool(train), f"data.corpus={spec} has validation files only: name the training files too")
    if not validation:
        cut = int(train[-1].size * (1 - fraction))
        train, validation = [*train[:-1], train[-1][:cut]], [train[-1][cut:]]
    return Stream(tuple(train)), Stream(tuple(validation))


def _map_bin(file: Path) -> np.ndarray:
    require(
        file.stat().st_size % 2 == 0 and file.stat().st_size > 0,
        f"{file} is not a uint16 token file: its size is {file.stat().st_size} bytes",
    )
    tokens = np.memmap(file, dtype="<u2", mode="r")
    if tokens.size < 2 * BIN_HEADER_WORDS:
        return tokens
    header = np.asarray(tokens[: 2 * BIN_HEADER_WORDS]).view("<i4")
    if header[0] != BIN_MAGIC:
        return tokens
    body = tokens[2 * BIN_HEADER_WORDS :]
    require(
        header[1] == 1 and header[2] == body.size,
        f"{file} states version {header[1]} and {header[2]} tokens, and holds {body.size}: it is damaged or newer",
    )
    return body


def _fingerprint(train: Stream, validation: Stream, vocab: int | None) -> tuple[str, int]:
    """(sha256 over both streams' lengths and tokens, largest token seen).

    Streams above 256 MiB are read in 256 evenly spaced blocks of 1 MiB.
    """
    largest = 0
    seen = hashlib.sha256(f"v1 vocab={vocab}".encode())
    for stream in (train, validation):
        for part in stream.parts:
            seen.update(f" {part.dtype.str} {part.size} ".encode())
            step = max(_BLOCK, part.nbytes // _BLOCKS) // part.itemsize
            for start in range(0, part.size, step):
                block = np.ascontiguousarray(part[start : start + _BLOCK // part.itemsize])
                seen.update(block.tobytes())
                largest = max(largest, int(block.max()))
    return seen.hexdigest()[:FINGERPRINT_DIGITS], largest


def require_known(largest: int, vocab: int) -> None:
    """Refuse a token that the model has no embedding for: a gather would clamp it without a word.

    Raises:
        InputError: naming the token and the vocabulary.
    """
    require(
        largest < vocab,
        f"model.vocab={vocab} is too small for token {largest} of data.corpus: set it to {largest + 1} or more",
    )
