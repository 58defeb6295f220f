"""Token files: read as what they are, or refused by name; and which of them validate."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab import corpus, token_file
from lab.check import InputError
from lab.config import DataConfig

pytestmark = pytest.mark.host

RNG = np.random.default_rng(0)
SMALL = np.minimum(RNG.zipf(1.3, 9000), 50256)  # as GPT-2's tokens are: all below 50,257, and few of them large
LARGE = np.minimum(RNG.zipf(1.3, 9000), 128255)


def header(magic: int, version: int, count: int, kind: str = "<i4") -> bytes:
    return np.concatenate([[magic, version, count], np.zeros(253)]).astype(kind).tobytes()


def load(spec: str, **fields: object) -> corpus.Corpus:
    corpus._load.cache_clear()
    return corpus.load(DataConfig(corpus=spec, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (SMALL.astype("<u2").tobytes(), SMALL),
        (header(20240520, 1, SMALL.size) + SMALL.astype("<u2").tobytes(), SMALL),
        (header(20240801, 7, LARGE.size) + LARGE.astype("<u4").tobytes(), LARGE),
        (RNG.integers(0, 4, 9000).astype("<u2").tobytes(), None),  # a vocabulary of four
        (RNG.integers(0, 1 << 16, 9000).astype("<u2").tobytes(), None),
        (np.arange(40, dtype="<u2").tobytes(), None),
    ],
    ids=["uint16", "gpt-2 header", "llama-3 header", "four tokens", "every token", "short"],
)
def test_what_it_holds_is_read(tmp_path: Path, data: bytes, wanted: np.ndarray | None) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    found = token_file.tokens(tmp_path / "a.bin")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, np.frombuffer(data, "<u2") if wanted is None else wanted)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (LARGE.astype("<u4").tobytes(), "32-bit numbers, little-endian"),
        (LARGE.astype(">u4").tobytes(), "32-bit numbers, big-endian"),
        (LARGE.astype("<i8").tobytes(), "64-bit numbers, little-endian"),
        (LARGE.astype(">i8").tobytes(), "64-bit numbers, big-endian"),
        (np.where(LARGE > 9, -100, LARGE).astype("<i4").tobytes(), "32-bit numbers, little-endian"),
        (LARGE.astype("<f4").tobytes(), "32-bit floats"),
        (SMALL.astype(">u2").tobytes(), "big-endian numbers"),
        (header(20240520, 1, 9000, ">i4") + SMALL.astype(">u2").tobytes(), r"big-endian \(magic 20240520\)"),
        (
            header(20240801, 7, 9000) + LARGE.astype("<u4").tobytes()[:-4],
            "states version 7 and 9000 tokens, and holds 89",
        ),
        (header(20240801, 8, 9000) + LARGE.astype("<u4").tobytes(), "states version 8"),
        (header(20240520, 1, 9000)[:600], "is damaged or newer"),
        (header(20240520, 1, 0), "states version 1 and 0 tokens"),
        (header(20240326, 3, 1024) + SMALL.astype("<f4").tobytes(), "a header of magic 20240326"),
        (b"", "its size is 0 bytes"),
        (b"abc", "its size is 3 bytes"),
        ("A text, and no tokens: é€\n".encode() * 99, r"is text: use data\.corpus=text:"),
        (b"PAR1" + bytes(100), "a parquet table"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"\x1f\x8b\x08\0" + bytes(100), "compressed by gzip"),
        (b"\x80\x04\x95\0" + bytes(100), "a pickle"),
        (b"MMIDIDX\0\0" + bytes(101), "the index of a Megatron file"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\0" + bytes(800), "a tar archive"),
        ((60).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}'.ljust(60) + bytes(80), "a model in safetensors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture"),
        (b"\x7fELF" + bytes(100), "a program"),
        (("words of a text\n" * 99).encode("utf-16"), "text in UTF-16: convert it to UTF-8"),
        (bytes(9000), "nothing but zeros"),
        ((np.minimum(RNG.zipf(1.3, 20000), 255)).astype("u1").tobytes(), "8-bit numbers"),
    ],
)
def test_what_it_is_instead_is_said(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(InputError, match=said):
        load(f"bin:{tmp_path / 'a.bin'}")


@pytest.mark.parametrize(
    "tokens",
    [
        np.random.default_rng(0).integers(0, 1 << 16, 9000),  # all tokens are as frequent: so are all bytes
        np.random.default_rng(0).integers(0, 65, 9000),  # letters, as nanoGPT numbers them
        np.r_[0xFEFF, np.random.default_rng(0).integers(0, 50257, 9000)],  # begins as a text in UTF-16 does
    ],
)
def test_tokens_that_look_a_little_like_something_else_are_tokens(tmp_path: Path, tokens: np.ndarray) -> None:
    (tmp_path / "a.bin").write_bytes(tokens.astype("<u2").tobytes())
    found = load(f"bin:{tmp_path / 'a.bin'}")
    np.testing.assert_array_equal(np.concatenate([found.train.array(), found.validation.array()]), tokens)


@pytest.mark.parametrize("kind", ["<u2", "<i4", "<u4", "<i8", "u1"])
def test_arrays_of_numpy_say_what_they_are(tmp_path: Path, kind: str) -> None:
    values = (SMALL if kind != "u1" else SMALL % 256).astype(kind)
    np.save(tmp_path / "a.npy", values)
    found = load(f"bin:{tmp_path}")
    np.testing.assert_array_equal(np.concatenate([found.train.array(), found.validation.array()]), values)
    assert found.train.parts[0].dtype.kind == "u"
    assert found.largest == values.max()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (SMALL.astype("f4"), "holds float32 of shape 9000"),
        (SMALL.reshape(9, -1), "of shape 9x1000"),
        (SMALL.astype(">i4"), "big-endian"),
        (np.append(SMALL, -1), "from -1 to"),
        (np.zeros(0, "u2"), "of shape 0"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=said):
        load(f"bin:{tmp_path}")


def test_a_negative_number_is_beyond_every_model(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.append(SMALL, -1).astype("<i4"))
    assert load(f"bin:{tmp_path}").largest == (1 << 32) - 1


def test_megatrons_index_tells_the_type(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(LARGE.astype("<i4").tobytes())
    (tmp_path / "a.idx").write_bytes(b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x04" + bytes(99))
    np.testing.assert_array_equal(token_file.tokens(tmp_path / "a.bin"), LARGE)
    (tmp_path / "a.idx").write_bytes(b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x06" + bytes(99))
    with pytest.raises(InputError, match="states no type of whole numbers"):
        token_file.tokens(tmp_path / "a.bin")


def test_parts_of_two_types_are_one_stream(tmp_path: Path) -> None:
    """Windows took the first part's type, in which the second's tokens wrapped."""
    (tmp_path / "a.bin").write_bytes(SMALL.astype("<u2").tobytes())
    np.save(tmp_path / "b.npy", LARGE.astype("<u4"))
    found = load(f"bin:{tmp_path}", validation_fraction=0.01).train
    np.testing.assert_array_equal(found.windows(np.array([8990]), 900)[0], np.concatenate([SMALL[8990:], LARGE[:890]]))
    assert LARGE[:890].max() > 1 << 16


def test_the_published_case_of_llama_3(shared: Path) -> None:
    file = shared.parent / "cases" / "files" / "bin-not-uint16" / "uint32_with_header.bin"
    if not file.is_file():
        pytest.skip(f"no {file}")
    found = load(f"bin:{file}")
    assert found.train.size + found.validation.size == int(np.fromfile(file, "<i4", 3)[2])
    assert found.train.parts[0].dtype == np.uint32


def names(folder: Path, *files: str) -> Callable[[], corpus.Corpus]:
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((np.arange(1000) + 1000 * number).astype("<u2").tobytes())
    return lambda: load(f"bin:{folder}", validation_fraction=0.1)


@pytest.mark.parametrize(
    ("files", "validate"),
    [
        (("interval_001.bin", "interval_002.bin"), None),
        (("eval_set.bin", "train.bin"), "eval_set.bin"),
        (("fineweb_train_000001.bin", "fineweb_val_000000.bin"), "fineweb_val_000000.bin"),
        (("carnival.bin", "medieval.bin", "my-valid-01.bin"), "my-valid-01.bin"),
        (("train/000.bin", "val/000.bin"), "000.bin"),
        (("VAL.bin", "x.bin"), "VAL.bin"),
        (("WikiTrain.bin", "WikiVal.bin"), "WikiVal.bin"),
        (("retrieval.bin", "value.bin", "validator.bin"), None),
        (("devices.bin", "dev.bin"), "dev.bin"),
    ],
)
def test_a_word_of_the_name_decides(tmp_path: Path, files: tuple[str, ...], validate: str | None) -> None:
    found = names(tmp_path, *files)()
    (note,) = found.notes
    if validate is None:
        assert found.validation.size == 100 * len(files)
        assert found.train.size == 900 * len(files)
        assert "no file is called val" in note
    else:
        assert found.validation.size == 1000
        assert f"by their names: {validate} (1 of {len(files)} files)" in note
    assert note in "\n".join(corpus.described(DataConfig(corpus=f"bin:{tmp_path}", validation_fraction=0.1)))


def test_what_is_for_tests_is_left_out(tmp_path: Path) -> None:
    found = names(tmp_path, "test.bin", "train.bin", "val.bin")()
    assert (found.train.size, found.validation.size) == (1000, 1000)
    assert "test.bin left out" in found.notes[0]
    assert names(tmp_path / "only", "test.bin")().train.size == 900  # nothing else is there
    with pytest.raises(InputError, match="has validation files only"):
        names(tmp_path / "val", "val.bin")()


def test_other_files_of_a_folder_are_no_tokens(tmp_path: Path) -> None:
    """nanoGPT's folders hold the text and the script that made the tokens."""
    load_folder = names(tmp_path, "train.bin", "val.bin")
    before = load_folder().fingerprint
    (tmp_path / "input.txt").write_text("a text\n" * 100)
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04" + bytes(20))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "old.bin").write_bytes(bytes(2000))
    assert load_folder().fingerprint == before
    os.remove(tmp_path / "train.bin")
    os.remove(tmp_path / "val.bin")
    with pytest.raises(InputError, match=re.escape("holds no .bin or .npy file")):
        load_folder()


def test_what_training_holds_is_said(tmp_path: Path) -> None:
    tokens = RNG.integers(0, 60000, 20_000).astype("<u2")
    tokens.tofile(tmp_path / "train.bin")
    np.concatenate([tokens[:3000], RNG.integers(0, 60000, 3000).astype("<u2")]).tofile(tmp_path / "val.bin")
    assert load(f"bin:{tmp_path}").overlap.share == pytest.approx(0.5, abs=0.02)
    lines = corpus.described(DataConfig(corpus=f"bin:{tmp_path}"))
    assert "training holds 49" in lines[0]
    assert "a loss on text that was trained on is too low" in lines[-1]
