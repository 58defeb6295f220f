"""Which documents train and which validate, so that no near copy of a text is on the other side.

Documents that have a fourth of their windows in common (`lab.duplicate`) are one group, and a group stays together.
Groups are drawn for validation in the order of sha256(name), those first that share least with all others.  Where no
draw comes near the fraction, or there are fewer than 20 documents, the end of every document is cut off instead.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lab.duplicate import Index, index, joined, resemblances, shares

MIN_FILES_TO_SPLIT = 20
ALIKE = (0.25, 0.5, 0.8)  # where boilerplate makes one group of everything, more is asked of a near copy
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
NEAR = (0.9, 1.1)
MOST = 0.5  # of a document that is cut

Document = tuple[str, bytes]


@dataclass(frozen=True)
class Split:
    """Texts to train on and to validate with, in the order of the documents; what is worth saying about it."""

    train: list[bytes]
    validation: list[bytes]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[list[bytes]]:
        return iter((self.train, self.validation))


def split(documents: Sequence[Document], fraction: float) -> Split:
    """`fraction` of the bytes of the documents to validate with, the rest to train on.

    A text that occurs twice is used once, and so is a near copy where documents have to be cut and hardly one is
    without copies.  Names decide the draw and nothing else, so they may not depend on how a path was spelled.
    """
    unique = list({text: (name, text) for name, text in reversed(documents) if text}.values())[::-1]
    if not unique:
        return Split([], [])
    sizes = np.asarray([len(text) for _, text in unique])
    windows = index([text for _, text in unique])
    alike = resemblances(windows)
    groupings = [joined(len(unique), alike, least) for least in ALIKE]
    for groups in groupings if len(unique) >= MIN_FILES_TO_SPLIT else []:
        chosen = _drawn(unique, sizes, groups, windows, fraction)
        if NEAR[0] <= sizes[sorted(chosen)].sum() / (fraction * sizes.sum()) <= NEAR[1]:
            return Split(
                [text for place, (_, text) in enumerate(unique) if place not in chosen],
                [unique[place][1] for place in sorted(chosen)],
            )
    return _ends(unique, sizes, groupings, fraction)


def _drawn(
    documents: Sequence[Document], sizes: np.ndarray, groups: np.ndarray, windows: Index, fraction: float
) -> set[int]:
    """Documents of whole groups that hold about `fraction` of the bytes."""
    wanted = fraction * sizes.sum()
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(place)
    level = np.searchsorted(LEVELS, shares(windows, groups))
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


def _ends(documents: Sequence[Document], sizes: np.ndarray, groupings: Sequence[np.ndarray], fraction: float) -> Split:
    """The ends of the documents without near copies; of those with copies the longest, where too little remains."""
    wanted = fraction * sizes.sum()
    notes: tuple[str, ...] = ()
    for groups in groupings:
        alone = np.bincount(groups)[groups] == 1
        if wanted <= max(fraction, MOST) * sizes[alone].sum():
            break
    else:
        groups = groupings[-1]
        longest = {group: place for place, group in sorted(enumerate(groups.tolist()), key=lambda item: sizes[item[0]])}
        used = sorted(longest.values())
        notes = (f"{len(documents) - len(used)} of {len(documents)} documents are near copies and are left out",)
        documents, sizes, alone = [documents[p] for p in used], sizes[used], np.ones(len(used), bool)
    share = fraction * (sizes.sum() / sizes[alone].sum())
    cuts = [cut(text, share) if single else len(text) for (_, text), single in zip(documents, alone, strict=True)]
    parts = [(text[:place], text[place:]) for (_, text), place in zip(documents, cuts, strict=True)]
    return Split([train for train, _ in parts if train], [end for _, end in parts if end], notes)


def cut(text: bytes, fraction: float) -> int:
    """Where the last `fraction` of a text begins: at the next line, or at one that is near, or at a character."""
    target = int(len(text) * (1 - fraction))
    most = len(text) - target
    after, before = text.find(b"\n", target) + 1, text.rfind(b"\n", 0, target) + 1
    if 0 < after < len(text) and (after - target <= 0.1 * most or after - target <= min(0.3 * most, target - before)):
        return after
    if 0 < before and target - before <= 0.3 * most:
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
