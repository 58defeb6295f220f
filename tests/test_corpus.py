"""Corpora: what they hold, that train and validation never overlap, and that a fingerprint tells texts apart."""

import dataclasses
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from lab import corpus, train
from lab.check import InputError
from lab.config import (
    DataConfig,
    EvaluationConfig,
    ExecConfig,
    ModelConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from lab.corpus import Stream
from lab.device import execution
from sweeps.sweep import Run, Sweep, axis, resolved


def load(spec: str, **fields: object) -> corpus.Corpus:
    corpus._load.cache_clear()
    return corpus.load(DataConfig(corpus=spec, **fields))  # type: ignore[arg-type]


def test_python_stdlib_is_real_source_on_every_machine() -> None:
    found = load("python-stdlib")
    total = found.train.size + found.validation.size
    assert 9e6 < total < 13e6
    assert 0.045 < found.validation.size / total < 0.056
    assert found.vocab == 256
    names = [name for name, _ in corpus.stdlib_documents()]
    assert names == sorted(names)
    assert "os.py" in names
    assert not [name for name in names if "idlelib" in name or "/test/" in name or "site-packages" in name]
    source = (Path(sysconfig.get_paths()["stdlib"]) / "os.py").read_bytes()
    both = found.train.array().tobytes() + found.validation.array().tobytes()
    assert source in both


def test_no_document_is_in_both_splits() -> None:
    train, validation = corpus.split(corpus.stdlib_documents(), 0.05)
    assert not set(train) & set(validation)
    assert len(train) > 300
    assert len(validation) > 10


def test_a_text_that_occurs_twice_is_used_once() -> None:
    documents = [(f"{i}.txt", b"same text" if i % 2 else b"text %d" % i) for i in range(60)]
    train, validation = corpus.split(documents, 0.2)
    assert sorted([*train, *validation]) == sorted({text for _, text in documents})


def test_few_files_are_cut_at_a_line_end(tmp_path: Path) -> None:
    lines = [f"line {i}\n".encode() for i in range(1000)]
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    found = load(f"text:{tmp_path / 'a.txt'}", validation_fraction=0.1)
    train, validation = (stream.array().tobytes().rstrip(b"\0") for stream in (found.train, found.validation))
    assert train + validation == b"".join(lines)
    assert train.endswith(b"\n")
    assert 0.09 < len(validation) / (len(train) + len(validation)) < 0.11


def test_a_folder_and_a_glob_name_the_same_text(text: Path) -> None:
    folder, pattern = load(f"text:{text}"), load(f"text:{text}/*.txt")
    assert folder.train.size + folder.validation.size == pattern.train.size + pattern.validation.size


def test_the_fingerprint_follows_the_text_and_not_the_place(text: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in text.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before = load(f"text:{text}").fingerprint
    assert load(f"text:{copy}").fingerprint == before
    (copy / "00.txt").write_text("another text\n")
    assert load(f"text:{copy}").fingerprint != before
    assert load(f"text:{text}", validation_fraction=0.2).fingerprint != before


def test_published_text_is_read(shared: Path) -> None:
    found = load(f"text:{shared / 'text' / 'tinyshakespeare.txt'}")
    assert found.train.size + found.validation.size == 1_115_394 + 2  # and a separator at each end


def test_nanogpt_token_files(tmp_path: Path) -> None:
    tokens = np.arange(5000, dtype=np.uint16)
    tokens[:4000].tofile(tmp_path / "train.bin")
    tokens[4000:].tofile(tmp_path / "val.bin")
    found = load(f"bin:{tmp_path}")
    assert isinstance(found.train.parts[0], np.memmap)
    assert found.vocab is None
    np.testing.assert_array_equal(found.train.array(), tokens[:4000])
    np.testing.assert_array_equal(found.validation.array(), tokens[4000:])


def test_modded_nanogpt_shards_have_a_header(tmp_path: Path) -> None:
    for shard in range(2):
        header = np.zeros(256, np.int32)
        header[:3] = 20240520, 1, 3000
        body = np.arange(3000, dtype=np.uint16) + 3000 * shard
        (tmp_path / f"train_{shard}.bin").write_bytes(header.tobytes() + body.tobytes())
    found = load(f"bin:{tmp_path}/train_*.bin", validation_fraction=0.1)
    assert (found.train.size, found.validation.size) == (5400, 600)  # a tenth of all, not of the last file
    np.testing.assert_array_equal(found.train.windows(np.array([2990, 0]), 20)[0], np.arange(2990, 3010))


def test_damaged_token_files_are_refused(tmp_path: Path) -> None:
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, 9999
    (tmp_path / "short.bin").write_bytes(header.tobytes() + bytes(2000))
    with pytest.raises(ValueError, match=r"short\.bin states version 1 and 9999 tokens, and holds 1000"):
        load(f"bin:{tmp_path / 'short.bin'}")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"odd\.bin is not a uint16 token file: its size is 3 bytes"):
        load(f"bin:{tmp_path / 'odd.bin'}")


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gather clamps an unknown token without a word, so it may not get that far."""
    tokens = np.arange(3000, dtype=np.uint16) % 300
    tokens.tofile(tmp_path / "train.bin")
    config = RunConfig(
        model=ModelConfig(width=16, depth=1, head_dim=8, vocab=299),
        parametrization=ParametrizationConfig(base_width=16),
        schedule=ScheduleConfig(steps=4, decay_steps=1),
        data=DataConfig(corpus=f"bin:{tmp_path}/train.bin", sequences=2, length=16),
        evaluation=EvaluationConfig(sequences=2),
    )

    def runs(vocab: int) -> list[Run]:
        return resolved(Sweep("bin", "?", "none", "none", config, axis("model.vocab", vocab)))

    with pytest.raises(InputError, match=r"model\.vocab=299 is too small for token 299 .* to 300 or more"):
        runs(299)
    (run,) = runs(300)
    monkeypatch.setattr(train, "DEVICE_BYTES", 0)  # fed from the host, where each batch is looked at
    small = dataclasses.replace(run.config, model=dataclasses.replace(run.config.model, vocab=299))
    how = execution(ExecConfig(), small.model, platform="cpu", runs=1)
    feed = train.prepare([small], how, corpus.load(small.data)).feed
    with pytest.raises(InputError, match=r"model\.vocab=299 is too small for token 299"):
        feed.batches(0)


def test_a_stream_in_parts_reads_like_one_array() -> None:
    whole = np.arange(100)
    stream = Stream((whole[:10], whole[10:11], whole[11:60], whole[60:]))
    starts = np.array([[0, 5], [9, 55], [10, 80]])
    expected = whole[starts[..., None] + np.arange(20)]
    np.testing.assert_array_equal(stream.windows(starts, 20), expected)


def test_hugging_face_tokenizers(tmp_path: Path, text: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[UNK]": 0, "<|endoftext|>": 1, "ab": 2}, unk_token="[UNK]")
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "words.txt").write_text("ab xx ab\nab ab ab\n" * 50)
    found = load(f"text:{tmp_path / 'words.txt'}", tokenizer=str(tmp_path / "tokenizer.json"))
    assert found.vocab == 3
    assert set(found.train.array().tolist()) == {0, 1, 2}
    assert found.fingerprint != load(f"text:{tmp_path / 'words.txt'}").fingerprint
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is not a readable tokenizer.json"):
        load(f"text:{text}", tokenizer=str(tmp_path / "broken.json"))
