"""Which documents train and which validate, so that no near copy of a text is on the other side.

Documents that have half of their windows in common (`lab.duplicate`) are one group, and a group stays together.  Groups
are drawn for validation in the order of sha256(name), those first that share least with all others.  Where no draw
comes near the fraction, or there are fewer than 20 documents, the end of every document is cut off instead, of near
copies at the same place.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lab.duplicate import LONG, SHORT, index, joined, places, rarity, resemblances, shares

MIN_FILES_TO_SPLIT = 20
ALIKE = 0.5  # of the windows of the shorter of two near copies
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
NEAR = (0.9, 1.1)
MOST = 0.5  # of a document that is cut

Document = tuple[str, bytes]


@dataclass(frozen=True)
class Split:
    """Texts to train on and to validate with, in the order of the documents."""

    train: list[bytes]
    validation: list[bytes]

    def __iter__(self) -> Iterator[list[bytes]]:
        return iter((self.train, self.validation))


def split(documents: Sequence[Document], fraction: float) -> Split:
    """`fraction` of the bytes of the documents to validate with, the rest to train on.

    A text that occurs twice is used once.  Names decide the draw, so they may not depend on how a path was spelled.
    """
    unique = list({text: (name, text) for name, text in reversed(documents) if text}.values())[::-1]
    if not unique:
        return Split([], [])
    texts = [text for _, text in unique]
    sizes = np.asarray([len(text) for text in texts])
    groups = joined(len(unique), resemblances(index(texts, SHORT)), ALIKE)
    if len(unique) >= MIN_FILES_TO_SPLIT:
        chosen = _drawn(unique, sizes, groups, fraction)
        if NEAR[0] <= sizes[sorted(chosen)].sum() / (fraction * sizes.sum()) <= NEAR[1]:
            return Split(
                [text for place, text in enumerate(texts) if place not in chosen],
                [texts[place] for place in sorted(chosen)],
            )
    cuts = _ends(texts, _members(groups), fraction)
    parts = [(text[:place], text[place:]) for text, place in zip(texts, cuts, strict=True)]
    return Split([train for train, _ in parts if train], [end for _, end in parts if end])


def _members(groups: np.ndarray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        found.setdefault(group, []).append(place)
    return found


def _drawn(documents: Sequence[Document], sizes: np.ndarray, groups: np.ndarray, fraction: float) -> set[int]:
    """Documents of whole groups that hold about `fraction` of the bytes."""
    wanted, members = fraction * sizes.sum(), _members(groups)
    level = np.searchsorted(LEVELS, shares(index([text for _, text in documents], LONG), groups))
    drawn = sorted(members, key=lambda group: (level[group], min(_digest(documents[p][0]) for p in members[group])))
    chosen: set[int] = set()
    held = 0
    for group in drawn:
        size = sizes[members[group]].sum()
        if held + size <= NEAR[1] * wanted:  # a group that would overshoot stays in training
            chosen.update(members[group])
            held += size
        if held >= wanted:
            break
    return chosen


def _ends(texts: Sequence[bytes], members: dict[int, list[int]], fraction: float) -> list[int]:
    """Where each text is cut so that about `fraction` of all validates; whole texts that only repeat others train."""
    share, total, cuts = fraction, sum(map(len, texts)), []
    for _ in range(4):
        cuts = [0] * len(texts)
        for group in members.values():
            found = _aligned([texts[p] for p in group], share) if len(group) > 1 else [cut(texts[group[0]], share)]
            for place, where in zip(group, found, strict=True):
                cuts[place] = where
        got = 1 - sum(cuts) / total
        if NEAR[0] <= got / fraction <= NEAR[1]:
            break
        share = min(max(MOST, fraction), share * fraction / max(got, fraction / 4))
    return cuts


def _aligned(copies: Sequence[bytes], share: float) -> list[int]:
    """Where near copies are cut, the longest first: where what validates of those before begins.

    A copy that holds nothing of what validates, and ends with what is trained on, is not cut.
    """
    bits, cuts = rarity(copies), [0] * len(copies)
    trained, held = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    for place in sorted(range(len(copies)), key=lambda place: -len(copies[place])):
        text = copies[place]
        hash_W, at_W = places(text, SHORT, bits)
        in_held, in_trained = np.isin(hash_W, held), np.isin(hash_W, trained)
        new, old = in_held & ~in_trained, in_trained & ~in_held
        where = cut(text, share)
        ending = old[at_W >= where]
        if new.sum() >= 0.2 * share * new.size:
            # What validates before the cut and what is trained on behind it are as few as can be.
            wrong = np.append(0, np.cumsum(new)) + old.sum() - np.append(0, np.cumsum(old))
            first = int(wrong.argmin())
            where = text.rfind(b"\n", 0, int(at_W[first])) + 1 if first < at_W.size else len(text)
        elif ending.size and ending.mean() >= ALIKE:
            where = len(text)
        cuts[place] = where
        trained = np.union1d(trained, hash_W[at_W < where])
        held = np.union1d(held, hash_W[at_W >= where])
    return cuts


def cut(text: bytes, fraction: float) -> int:
    """Where the last `fraction` of a text begins: at the line that begins next to there, or else at a character."""
    target = int(len(text) * (1 - fraction))
    near = 0.1 * (len(text) - target)
    after, before = text.find(b"\n", target) + 1, text.rfind(b"\n", 0, target) + 1
    if 0 < after < len(text) and after - target <= near:
        return after
    if before > 0 and target - before <= near:
        return before
    while target < len(text) - 1 and text[target] & 0xC0 == 0x80:  # within a character of several bytes
        target += 1
    return target


def _first_cut(text: bytes, fraction: float) -> int:
    target = int(len(text) * (1 - fraction))
    line_end = text.find(b"\n", target)
    return line_end + 1 if 0 <= line_end < len(text) - 1 else target


def first_version(documents: Sequence[Document], fraction: float) -> Split:
    """The split of version 0.1.0, for stores that were begun with it: near copies may be on both sides."""
    unique = list({text: (name, text) for name, text in reversed(documents) if text}.values())[::-1]
    if len(unique) < MIN_FILES_TO_SPLIT:
        cuts = [_first_cut(text, fraction) for _, text in unique]
        return Split(
            [text[:place] for (_, text), place in zip(unique, cuts, strict=True)],
            [text[place:] for (_, text), place in zip(unique, cuts, strict=True)],
        )
    wanted = fraction * sum(len(text) for _, text in unique)
    chosen: set[str] = set()
    held = 0
    for name, text in sorted(unique, key=lambda item: _digest(item[0])):
        if held + len(text) <= 1.1 * wanted:
            chosen.add(name)
            held += len(text)
        if held >= wanted:
            break
    return Split(
        [text for name, text in unique if name not in chosen], [text for name, text in unique if name in chosen]
    )


def _digest(name: str) -> bytes:
    """A name's place in the draw; names need not be UTF-8."""
    return hashlib.sha256(os.fsencode(name)).digest()
