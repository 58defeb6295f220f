"""Corpora: token streams for training and validation, what they share, and their fingerprint.

- `python-stdlib`: the source files of the running Python's standard library, real text on every machine;
- `text:PATH`: a file, a folder or a glob of text files (`lab.document`), parted by `lab.split`;
- `bin:PATH`: token files, memory-mapped (`lab.token_file`).
"""

import functools
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lab import document, token_file
from lab import tokenizer as tokenizers
from lab.check import nearest, require
from lab.config import DataConfig
from lab.document import stdlib_documents
from lab.overlap import Overlap, overlap
from lab.split import Document, first_version, split
from lab.stream import Stream
from lab.tokenizer import Tokenizer

__all__ = ["Corpus", "Stream", "described", "load", "require_known", "split", "stdlib_documents"]

NOW, FIRST = "now", "0.1.0"  # how a corpus is read and parted
FINGERPRINT_DIGITS = 16
_BLOCK, _BLOCKS = 1 << 20, 256
MUCH = 0.01  # of validation that training holds


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token streams with the vocabulary they need (None where the files do not say) and their fingerprint.

    `largest` is the largest token that the fingerprint has seen: of every token up to 256 MiB, of a sample beyond.
    `notes` say how the validation split was chosen, where that is worth knowing.
    """

    name: str
    train: Stream
    validation: Stream
    vocab: int | None
    fingerprint: str
    largest: int
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def overlap(self) -> Overlap:
        """What part of the validation split training holds."""
        return overlap(self.train, self.validation)


def load(config: DataConfig, among: Collection[str] = ()) -> Corpus:
    """The corpus that a configuration names; equal sources are loaded once per process.

    A configuration that states a fingerprint, or a store that was begun with one (`among`), gets the split of version
    0.1.0 where that is the one it was made on.

    Raises:
        InputError: an unknown kind, a path without files, text too short to split, or another text than was stated.
    """
    source = config.corpus, config.tokenizer, config.validation_fraction
    found, wanted = _load(*source), {config.fingerprint} if config.fingerprint is not None else set(among)
    if not wanted or found.fingerprint in wanted:
        return found
    first = _load(*source, FIRST)
    require(
        first.fingerprint in wanted,
        f"data.fingerprint={' or '.join(sorted(wanted))} but data.corpus={config.corpus} now has {found.fingerprint}: "
        "the text has changed; use a new output folder or the old text",
    )
    return first


@functools.lru_cache(maxsize=4)
def _load(spec: str, tokenizer: str, fraction: float, version: str = NOW) -> Corpus:
    kind, _, path = spec.partition(":")
    require(
        kind in ("text", "bin") or spec == "python-stdlib",
        f"data.corpus={spec} is not one of python-stdlib, text:PATH, bin:PATH"
        f"{nearest(spec, ['python-stdlib', 'text:', 'bin:'])}",
    )
    if kind == "bin":
        train, validation, notes = _token_files(spec, path, fraction, version)
        vocab = None
    else:
        words = tokenizers.load(tokenizer)
        documents = _documents(spec, path, version)
        parts = split(documents, fraction) if version == NOW else first_version(documents, fraction)
        train, validation = (_encode(words, part) for part in parts)
        vocab, notes = words.vocab, document.no_text(documents) if kind == "text" else ()
    require(
        train.size > 0 and validation.size > 0,
        f"data.corpus={spec} leaves nothing to train on or to validate with: give a longer text, or another "
        f"data.validation_fraction than {fraction:g}",
    )
    if version != NOW:
        notes = (*notes, "the split of 0.1.0, with which this was begun; a new folder gets today's")
    return Corpus(spec, train, validation, vocab, *_fingerprint(train, validation, vocab), notes)


def _documents(spec: str, path: str, version: str) -> list[Document]:
    if spec == "python-stdlib":
        return stdlib_documents()
    read = document.text_documents if version == NOW else document.first_text_documents
    return read(spec, path)


def _token_files(spec: str, path: str, fraction: float, version: str) -> tuple[Stream, Stream, tuple[str, ...]]:
    if version == NOW:
        train, validation, told = token_file.read(spec, path, fraction)
        return Stream(tuple(train)), Stream(tuple(validation)), (told,)
    train, validation = token_file.first_read(spec, path, fraction)
    return Stream(tuple(train)), Stream(tuple(validation)), ()


def described(config: DataConfig) -> list[str]:
    """Lines on a configuration's corpus: how it is parted, what of the validation split training holds, what helps."""
    found = load(config)
    share = found.validation.size / (found.train.size + found.validation.size)
    notes = [*found.notes]
    if not config.corpus.startswith("bin:") and not 0.8 <= share / config.validation_fraction <= 1.25:
        notes.append(
            f"data.validation_fraction={config.validation_fraction:g} was asked for, and no cut comes nearer without "
            "near copies on both sides or half a line: set another fraction, or give a longer text"
        )
    if found.overlap.share >= MUCH:
        notes.append(
            "a loss on text that was trained on is too low: use a text with fewer repetitions, or files that repeat "
            "nothing of others for validation"
        )
    size = f"{found.train.size:,} tokens to train on, {found.validation.size:,} ({share:.2%}) to validate with"
    return [printable(line) for line in (f"{found.name}: {size}; {found.overlap.told}", *map("note: {}".format, notes))]


def printable(text: str) -> str:
    """A text with what cannot be printed escaped: bytes of names that are not UTF-8, and control characters."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in plain)


def _encode(words: Tokenizer, documents: Sequence[bytes]) -> Stream:
    return Stream((np.concatenate([words.encode(text) for text in documents] or [np.zeros(0, words.dtype)]),))


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
