"""The fingerprint of a corpus: any one byte of its text, wherever it stands, makes it another corpus."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab import corpus
from lab.config import DataConfig

pytestmark = pytest.mark.host

MIB = 1 << 20
SIZE = 5 * MIB // 2  # two whole blocks of the fingerprint and half a one
PLACES = (0, 1, 4095, 4096, 5000, 8192, 1 << 16, MIB // 2, MIB - 1, MIB, MIB + 4097, 2 * MIB - 1, 2 * MIB, SIZE - 1)


def read(spec: str, **fields: object) -> corpus.Corpus:
    corpus._load.cache_clear()
    return corpus.load(DataConfig(corpus=spec, **fields))  # type: ignore[arg-type]


def of_text(folder: Path, data: np.ndarray) -> corpus.Corpus:
    (folder / "text.txt").write_bytes(data.astype(np.uint8).tobytes())
    return read(f"text:{folder}/text.txt", validation_fraction=0.1)


def of_tokens(folder: Path, data: np.ndarray) -> corpus.Corpus:
    """The same numbers as token files of two bytes each: one to train on, one to validate with."""
    half = len(data) // 2
    for name, part in (("train.bin", data[:half]), ("val.bin", data[half:])):
        (folder / name).write_bytes(part.astype("<u2").tobytes())
    return read(f"bin:{folder}/*.bin")


@pytest.mark.parametrize("of", [of_text, of_tokens])
def test_any_one_byte_changes_it(tmp_path: Path, of: Callable[[Path, np.ndarray], corpus.Corpus]) -> None:
    data = np.random.default_rng(0).integers(97, 123, SIZE)  # letters, no line end: where text is cut is fixed
    plain, seen = of(tmp_path, data).fingerprint, set()
    for place in PLACES:
        changed = data.copy()
        changed[place] = 126  # a symbol that is nowhere else, and the largest
        found = of(tmp_path, changed)
        assert found.largest == 126
        seen.add(found.fingerprint)
    assert len(seen) == len(PLACES)  # each is a corpus of its own
    assert plain not in seen
    assert of(tmp_path, data).fingerprint == plain  # the control: what is written again is the same corpus


def test_every_block_of_a_large_stream_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `_BLOCKS` blocks a part of each stretch is read: its first block, whole."""
    monkeypatch.setattr(corpus, "_BLOCK", 64)
    monkeypatch.setattr(corpus, "_BLOCKS", 8)
    data = np.random.default_rng(1).integers(97, 123, 8 * 640).astype(np.uint8)
    stream = corpus.Stream((data,))
    plain, largest = corpus._fingerprint(stream, stream, 256)
    assert largest == int(data.max())
    for place in range(0, data.size, 31):
        changed = data.copy()
        changed[place] = 200
        other, most = corpus._fingerprint(corpus.Stream((changed,)), stream, 256)
        read = place % 640 < 64
        assert (other != plain, most == 200) == (read, read)


def test_the_split_and_the_vocabulary_are_part_of_it(tmp_path: Path) -> None:
    """The same bytes cut elsewhere, or known to be of another vocabulary, are another corpus; a copy is not."""
    first = corpus.Stream((np.arange(40, dtype=np.uint8),))
    second = corpus.Stream((np.arange(40, 60, dtype=np.uint8),))
    moved = corpus.Stream((np.arange(41, dtype=np.uint8),)), corpus.Stream((np.arange(41, 60, dtype=np.uint8),))
    prints = {
        corpus._fingerprint(first, second, 256)[0],
        corpus._fingerprint(*moved, 256)[0],
        corpus._fingerprint(second, first, 256)[0],
        corpus._fingerprint(first, second, None)[0],
        corpus._fingerprint(first, second, 257)[0],
    }
    assert len(prints) == 5
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "text.txt").write_bytes(b"one line\n" * 400)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert read(f"text:{tmp_path}/a").fingerprint == read(f"text:{tmp_path}/b").fingerprint
