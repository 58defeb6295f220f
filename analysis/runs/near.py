"""Sizes and budgets that are one: parameters within 1 % of each other, tokens within 2 %.

Whole steps times the batch make other tokens at every batch, and a vocabulary or a rounding another size.  Cells are
told apart by exact numbers, so such values are made equal: to the most frequent of a group, the largest of those that
are equally frequent.  A chain of close values that is longer than that is a continuum and stays as it is, unless the
runs of each size by themselves have groups.
"""

import numpy as np
import pandas as pd

LIMITS = {"params": 0.01, "tokens": 0.02}


def merged(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The frame with near sizes and budgets made equal, and a note for each."""
    notes = []
    for name, limit in LIMITS.items():
        if name not in frame:
            continue
        values = frame[name].to_numpy(float)
        made, whole = grouped(values, limit)
        if not whole and name == "tokens":
            for _, places in frame.reset_index(drop=True).groupby("params").indices.items():
                made[places] = grouped(made[places], limit)[0]
        if (made != values).any():
            before, after = len(np.unique(values)), len(np.unique(made))
            what = {"params": "sizes", "tokens": "token counts"}[name]
            notes.append(f"{before} {what} within {100 * limit:g} % of each other count as {after}")
            frame = frame.assign(**{name: made})
    return frame, notes


def grouped(values: np.ndarray, limit: float) -> tuple[np.ndarray, bool]:
    """(values with those of each group made equal, whether every chain of close ones was a group); all above 0."""
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    reach = np.log1p(limit) * (1 + 1e-9)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(np.log(distinct)) > reach]))
    ends = np.concatenate([starts[1:], [len(distinct)]])
    made, whole = distinct.copy(), True
    for start, end in zip(starts, ends, strict=True):
        if np.log(distinct[end - 1] / distinct[start]) > reach:
            whole = False
        elif end - start > 1:
            most = np.flatnonzero(counts[start:end] == counts[start:end].max())[-1]
            made[start:end] = distinct[start + most]
    return made[inverse], whole
