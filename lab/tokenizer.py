"""Tokenizers: bytes, or a Hugging Face `tokenizer.json` (extra `tokenizers`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.check import InputError, nearest, require

SEPARATORS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]")


@dataclass(frozen=True)
class Tokenizer:
    """`encode` turns a document's bytes into token ids; `separator` ends each document, None for no token."""

    name: str
    vocab: int
    separator: int | None
    backend: Any = None

    @property
    def dtype(self) -> Any:
        return np.uint8 if self.vocab <= 1 << 8 else np.uint16 if self.vocab <= 1 << 16 else np.int32

    def encode(self, document: bytes) -> np.ndarray:
        """Token ids of one document, its separator included."""
        if self.backend is None:
            ids = np.frombuffer(document, np.uint8)
        else:
            ids = np.asarray(self.backend.encode(document.decode("utf-8", errors="replace")).ids)
        end = [] if self.separator is None else [self.separator]
        return np.concatenate([ids, end]).astype(self.dtype)


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
    ends = [backend.token_to_id(word) for word in SEPARATORS]
    return Tokenizer(
        name=path.name,
        vocab=backend.get_vocab_size(with_added_tokens=True),
        separator=next((token for token in ends if token is not None), None),
        backend=backend,
    )
