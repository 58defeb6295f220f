"""Texts that say the same: hashes of their windows, which documents are near copies, and what a text shares.

White space and case are left out, so a copy with other line ends, another indentation or one more newline is the same
text.  What remains is hashed in every window, and a part of the hashes is kept that depends on the hash alone (Broder,
"On the resemblance and containment of documents", 1997): the same window is kept in every document.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHORT = 16  # bytes of a window by which near copies are known: most are whole where every tenth word is another
LONG = 32  # bytes of a window that is hardly in two texts by chance
KEPT = 1 << 21  # windows of a corpus that are kept, about
_BASE, _MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_SPACE = b" \t\n\r\f\v"


def hashes(values: np.ndarray, window: int) -> np.ndarray:
    """Hash of every window of so many values: uint64 [size - window + 1], empty where there is none.

    The polynomial sum of values[i + j] * r^(window - 1 - j) modulo 2^64, by doubling, and mixed.
    """
    if values.size < window:
        return np.zeros(0, np.uint64)
    found, length = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(_MIX), 1
    while length < window:
        more = min(length, window - length)  # the windows overlap where it is no power of two
        found = found[: found.size - more] * np.uint64(pow(_BASE, more, 1 << 64)) + found[more:]
        length += more
    found ^= found >> np.uint64(32)
    found *= np.uint64(_MIX)
    return found


def rarity(texts: Sequence[bytes]) -> int:
    """With how many zero bits the hash of a window begins that is kept, so that of all texts about `KEPT` are."""
    return (sum(map(len, texts)) // KEPT).bit_length()


def places(text: bytes, window: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, first bytes) of a text's kept windows, in order.  Of any text one is kept at least."""
    raw = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(~np.isin(raw, np.frombuffer(_SPACE, np.uint8)))
    every = _every(text, window)
    kept = np.arange(every.size) if bits == 0 else np.flatnonzero(every >> np.uint64(64 - bits) == 0)
    kept = kept if kept.size else np.asarray([every.argmin()])
    return every[kept], at[kept] if at.size else kept


def _every(text: bytes, window: int) -> np.ndarray:
    plain = np.frombuffer(text.lower().translate(None, _SPACE), np.uint8)
    return hashes(np.pad(plain, (0, max(0, window - plain.size))), window)


@dataclass(frozen=True)
class Index:
    """The kept windows of documents: of each (`sketches`, sorted), and all of them sorted, with their document."""

    sketches: tuple[np.ndarray, ...]
    hash_W: np.ndarray
    place_W: np.ndarray


def index(texts: Sequence[bytes], window: int) -> Index:
    """The kept windows of texts.  Texts that say the same have the same ones, and no text has none."""
    bits = rarity(texts)
    sketches = []
    for text in texts:
        every = _every(text, window)
        kept = every if bits == 0 else every[every >> np.uint64(64 - bits) == 0]
        sketches.append(np.unique(np.append(kept, every.min())))
    hash_W, place_W = np.concatenate(sketches), np.repeat(np.arange(len(texts)), [part.size for part in sketches])
    order = np.argsort(hash_W, kind="stable")
    return Index(tuple(sketches), hash_W[order], place_W[order])


def shares(index: Index, groups: np.ndarray) -> np.ndarray:
    """The part of each group's windows that another group has too; `groups` [documents] numbers them from 0."""
    group_W = groups[index.place_W]
    begins = np.flatnonzero(np.append(True, index.hash_W[1:] != index.hash_W[:-1]))
    several = np.minimum.reduceat(group_W, begins) != np.maximum.reduceat(group_W, begins)
    held_W = np.repeat(several, np.diff(np.append(begins, group_W.size)))
    return np.bincount(group_W, weights=held_W) / np.bincount(group_W)


def resemblances(index: Index) -> list[tuple[float, int, int]]:
    """(part of the smaller one's windows that both have, document, document) of pairs with enough in common.

    Only pairs are compared that follow each other among the documents of several windows: two near copies do in most.
    """
    sketches, place_W = index.sketches, index.place_W
    same = index.hash_W[1:] == index.hash_W[:-1]
    pairs, count = np.unique(place_W[:-1][same] * len(sketches) + place_W[1:][same], return_counts=True)
    found = []
    for pair, met in zip(pairs.tolist(), count.tolist(), strict=True):
        first, second = divmod(pair, len(sketches))
        least = min(sketches[first].size, sketches[second].size)
        if met >= 0.05 * least:
            common = np.intersect1d(sketches[first], sketches[second], assume_unique=True).size
            found.append((common / least, first, second))
    return found


def joined(documents: int, resemblances: Sequence[tuple[float, int, int]], least: float) -> np.ndarray:
    """Group of each document, numbered in the order of the first ones: int64 [documents].

    Two documents are of one group where they have at least this part in common, directly or through others.
    """
    parent = list(range(documents))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for common, first, second in resemblances:
        if common >= least:
            low, high = sorted((root(first), root(second)))
            parent[high] = low
    roots = np.asarray([root(place) for place in range(documents)], np.int64)
    return np.unique(roots, return_inverse=True)[1].ravel().astype(np.int64)
