"""What part of a validation split training holds: windows of tokens that stand in both, token by token."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lab.duplicate import hashes
from lab.stream import Stream

WINDOW = 64
READ = 1 << 26  # bytes of training tokens that are looked at
_BLOCK = 1 << 19  # tokens
_KEPT = 1 << 17  # windows of the validation split that are looked for, about


@dataclass(frozen=True)
class Overlap:
    """`share` of the validation split's windows of `window` tokens stand in training, of which `searched` was read."""

    window: int
    share: float
    searched: float

    @property
    def told(self) -> str:
        """In words."""
        part = "" if self.searched >= 1 else f" (of which {self.searched:.0%} was searched)"
        return f"training{part} holds {self.share:.2%} of its windows of {self.window} tokens"


def overlap(train: Stream, validation: Stream) -> Overlap:
    """The overlap of two streams; windows are chosen by their hash, so that the same ones are chosen in both.

    Of streams longer than `READ` bytes evenly spaced blocks are read: what is found there is a lower bound.
    """
    window = min(WINDOW, train.size, validation.size)
    bits = max(0, (min(validation.size, READ) // _KEPT).bit_length() - 1)
    wanted = np.concatenate([_kept(block, window, bits) for block in _blocks(validation)])
    distinct, count = np.unique(wanted, return_counts=True)
    held, read = np.zeros(distinct.size, bool), 0
    for block in _blocks(train):
        found = _kept(block, window, bits)
        place = np.minimum(np.searchsorted(distinct, found), distinct.size - 1)
        held[place[distinct[place] == found]] = True
        read += block.size
    return Overlap(window, float(count[held].sum() / count.sum()), min(1.0, read / train.size))


def _kept(tokens: np.ndarray, window: int, bits: int) -> np.ndarray:
    """Hashes of those windows whose hash begins with so many zeros."""
    found = hashes(tokens, window)
    return found if bits == 0 else found[found >> np.uint64(64 - bits) == 0]


def _blocks(stream: Stream) -> Iterator[np.ndarray]:
    """Pieces of a stream, each with the beginning of the next where they touch; at most about `READ` bytes."""
    apart = max(1, -(-stream.nbytes // READ))  # of so many blocks one is read
    for part in stream.parts:
        for start in range(0, part.size, _BLOCK * apart):
            yield np.asarray(part[start : start + _BLOCK + WINDOW - 1])
