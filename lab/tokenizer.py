"""Tokenizers: bytes, or a Hugging Face `tokenizer.json` (extra `tokenizers`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.check import InputError, nearest, require

SEPARATORS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]")


@dataclass(frozen=True)
class Tokenizer:
    """`encode` turns a document's bytes into token ids; `separator` ends each document, None for no token.

    `control` are the tokens that no text becomes, whatever it spells.
    """

    name: str
    vocab: int
    separator: int | None
    backend: Any = None
    control: frozenset[int] = frozenset()

    @property
    def dtype(self) -> Any:
        return np.uint8 if self.vocab <= 1 << 8 else np.uint16 if self.vocab <= 1 << 16 else np.int32

    def encode(self, document: bytes) -> np.ndarray:
        """Token ids of one document, its separator included.

        Raises:
            InputError: the tokenizer has no token for it.
        """
        if self.backend is None:
            ids = np.frombuffer(document, np.uint8)
        else:
            ids = np.asarray(self._ids(document.decode("utf-8", errors="replace")), np.int64)
        end = [] if self.separator is None else [self.separator]
        return np.concatenate([ids, end]).astype(self.dtype)

    def _ids(self, text: str) -> list[int]:
        """Ids of a text.  A word that spells a control token and is one in the vocabulary is taken apart."""
        try:
            found = self.backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the package raises a bare Exception, as for a word where there is no unknown one
            raise InputError(f"data.tokenizer={self.name} cannot encode the text: {error}") from None
        if self.control.isdisjoint(found.ids):
            return found.ids
        ids: list[int] = []
        for token, (begin, end) in zip(found.ids, found.offsets, strict=True):
            if token not in self.control:
                ids.append(token)
            elif end - begin > 1:
                ids += [*self._ids(text[begin : begin + 1]), *self._ids(text[begin + 1 : end])]
        return ids


def load(spec: str) -> Tokenizer:
    """`bytes` (256 tokens, documents end with byte 0) or the path of a `tokenizer.json`.

    Raises:
        InputError: an unknown name, a missing file, or the extra is not installed.
    """
    if spec == "bytes":
        return Tokenizer(name="bytes", vocab=256, separator=0)
    path = Path(spec).expanduser()
    require(
        spec.endswith(".json"),
        f"data.tokenizer={spec} is neither bytes nor the path of a tokenizer.json{nearest(spec, ['bytes'])}",
    )
    require(path.is_file(), f"data.tokenizer={spec} is not a file: give the path of a tokenizer.json")
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            f"data.tokenizer={spec} needs the tokenizers package: pip install 'lr-scaling-lab[tokenizers]'"
        ) from None
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises a bare Exception for a malformed file
        raise InputError(f"data.tokenizer={spec} is not a readable tokenizer.json: {error}") from None
    # What a file brings for batches of a model's input has no place in a stream: it cuts or fills documents up.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    for chance in ("dropout", "alpha", "nbest_size"):  # which encode a text in another way each time
        if getattr(backend.model, chance, None) is not None:
            setattr(backend.model, chance, None)
    ids = backend.get_vocab(with_added_tokens=True)
    require(bool(ids), f"data.tokenizer={spec} has no tokens: give another tokenizer.json")
    largest = max(ids.values())
    require(largest < 1 << 31, f"data.tokenizer={spec} has token {largest}, which is too large: number its tokens anew")
    separator = next((ids[word] for word in SEPARATORS if word in ids), None)
    special = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    model = json.loads(path.read_bytes())["model"]
    unknown = model.get("unk_id", ids.get(str(model.get("unk_token"))))  # a text may hold what no token is for
    return Tokenizer(
        name=path.name,
        vocab=largest + 1,
        separator=separator,
        backend=backend,
        control=frozenset(token for token in (*special, separator) if token not in (None, unknown)),
    )
