"""Token streams: arrays or memory maps that are read as one."""

import functools
from dataclasses import dataclass

import numpy as np


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
        found = np.empty((starts.size, length), np.result_type(*self.parts))
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
