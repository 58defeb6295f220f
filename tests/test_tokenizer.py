"""Tokenizers: a document's own tokens and one end, whatever a tokenizer.json brings for the batches of a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import tokenizer
from lab.check import InputError

tokenizers = pytest.importorskip("tokenizers")
models, pre_tokenizers, processors = tokenizers.models, tokenizers.pre_tokenizers, tokenizers.processors

pytestmark = pytest.mark.host

WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "ab": 4, "cd": 5, "[": 6, "]": 7, "SEP": 8}
TEXT = "ab cd ab [SEP] cd zz [PAD] ab\n" * 40


def words(ids: dict[str, int] = WORDS, *, special: bool = True, unknown: str | None = "[UNK]") -> Any:
    made = tokenizers.Tokenizer(models.WordLevel(ids, **({"unk_token": unknown} if unknown else {})))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    return made


def loaded(made: Any, folder: Path, **changes: object) -> tokenizer.Tokenizer:
    text = json.loads(made.to_str())
    text["model"] |= changes
    (folder / "tokenizer.json").write_text(json.dumps(text))
    return tokenizer.load(str(folder / "tokenizer.json"))


def tokens(found: tokenizer.Tokenizer, text: str = TEXT) -> list[str]:
    return [found.backend.id_to_token(int(token)) for token in found.encode(text.encode())]


def bert(made: Any) -> None:
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))


def template(made: Any) -> None:
    ends = [("[SEP]", 2), ("[CLS]", 1)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP] [SEP]", special_tokens=ends)


@pytest.mark.parametrize(
    "brought",
    [
        lambda made: made.enable_truncation(16),
        lambda made: made.enable_padding(length=4096, pad_id=3, pad_token="[PAD]"),
        lambda made: made.enable_padding(pad_to_multiple_of=64, pad_id=3, pad_token="[PAD]"),
        bert,
        template,
    ],
    ids=["truncation", "padding", "multiples", "bert", "template"],
)
def test_nothing_is_cut_filled_or_ended_twice(tmp_path: Path, brought: Callable[[Any], None]) -> None:
    plain = tokens(loaded(words(), tmp_path))
    made = words()
    brought(made)
    assert [made.id_to_token(token) for token in made.encode(TEXT).ids] != plain  # the control: it does something
    found = tokens(loaded(made, tmp_path))
    assert found == plain
    assert found.count("[SEP]") == 1
    assert found[-1] == "[SEP]"
    assert found[:8] == ["ab", "cd", "ab", "[", "SEP", "]", "cd", "[UNK]"]
    assert not {"[CLS]", "[PAD]"} & set(found)


def test_a_text_that_spells_the_end_does_not_end(tmp_path: Path) -> None:
    """Whether the token is special, added without being so, or a plain word of the vocabulary."""
    made = words(special=False)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # leaves [SEP] whole, which is then a word
    for add in (lambda: None, lambda: made.add_tokens(["[SEP]"]), lambda: made.add_special_tokens(["[SEP]"])):
        add()
        assert 2 in made.encode(TEXT).ids  # the control
        found = loaded(made, tmp_path).encode(TEXT.encode())
        assert np.flatnonzero(found == 2).tolist() == [found.size - 1]


def test_pieces_of_a_unigram_model_spell_no_end(tmp_path: Path) -> None:
    letters = [(letter, -3.0) for letter in "ab</s>"]
    made = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *letters], unk_id=0))
    assert 1 in made.encode("a</s>b").ids
    found = loaded(made, tmp_path)
    assert tokens(found, "a</s>bz") == ["a", "<", "/", "s", ">", "b", "<unk>", "</s>"]


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    found = loaded(words({**WORDS, "cd": 1255}, special=False), tmp_path)
    assert found.vocab == 1256
    assert found.dtype == np.uint16
    assert 1255 in found.encode(b"ab cd")
    assert loaded(words({**WORDS, "cd": 70_000}, special=False), tmp_path).encode(b"ab cd").max() == 70_000
    with pytest.raises(InputError, match="has token 3000000000, which is too large"):
        loaded(words(special=False), tmp_path, vocab={**WORDS, "cd": 3_000_000_000})


def test_encoding_has_no_chance_in_it(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([TEXT], trainer)
    plain = tokens(loaded(made, tmp_path))
    assert tokens(loaded(made, tmp_path, dropout=0.5)) == plain
    (tmp_path / "chance.json").write_text(json.dumps(json.loads((tmp_path / "tokenizer.json").read_text())))
    by_chance = tokenizers.Tokenizer.from_file(str(tmp_path / "chance.json"))
    assert len({tuple(by_chance.encode(TEXT).ids) for _ in range(5)}) > 1  # the control


def test_what_has_no_token_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json cannot encode the text: .*UNK"):
        loaded(words({"ab": 0, "cd": 1}, special=False, unknown=None), tmp_path).encode(b"ab zz")
    with pytest.raises(InputError, match="has no tokens"):
        loaded(tokenizers.Tokenizer(models.BPE()), tmp_path)


@pytest.mark.parametrize(
    ("case", "vocab", "size"), [("sparse-token-ids", 1256, None), ("tokenizer-truncation", None, 0)]
)
def test_published_cases(shared: Path, case: str, vocab: int | None, size: int | None) -> None:
    folder = shared.parent / "cases" / "files" / case
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    found = tokenizer.load(str(folder / "tokenizer.json"))
    ids = found.encode((folder / "text.txt").read_bytes())
    if vocab is not None:
        assert (found.vocab, found.dtype) == (vocab, np.uint16)
        assert 256 < ids.max() < vocab
    if size is not None:
        assert ids.size > 19_000
