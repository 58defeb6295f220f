"""What a table says became of its runs: words of trackers and of people in a column called state or status."""

import re

import numpy as np
import pandas as pd

from lab.check import InputError

_COLUMNS = ("status", "state", "runstate", "runstatus")
DONE = frozenset("done finished finish complete completed success succeeded successful ok converged".split())
DIVERGED = frozenset("diverged diverge divergent nan exploded blewup unstable lossnan".split())
PENDING = frozenset(
    "pending running crashed crash failed fail failure killed preempted preempting queued waiting scheduled stopped "
    "interrupted aborted canceled cancelled error oom outofmemory timeout timedout incomplete unfinished active "
    "started paused partial".split()
)
_KNOWN = DONE | DIVERGED | PENDING
_TRUE, _FALSE = frozenset(("true", "1", "1.0", "yes", "y")), frozenset(("false", "0", "0.0", "no", "n"))
_DIVERGED_FLAGS = ("diverged", "isdiverged", "hasdiverged")
_ENDED_FLAGS = ("finished", "completed", "isfinished", "done")
# Steps that a run has made, and those that it was to make.
_MADE = ("_step", "globalstep", "trainglobalstep", "trainerglobalstep", "laststep", "finalstep", "currentstep")
_PLANNED = (
    "maxsteps",
    "numtrainsteps",
    "totalsteps",
    "numiterations",
    "maxiters",
    "trainsteps",
    "trainernumtrainsteps",
)
ENDED = 0.95  # of its steps, of a run that counts


def states(table: pd.DataFrame, where: str) -> tuple[pd.Series | None, list[str]]:
    """("done", "diverged" or "pending" of every row, the columns that say so); None where no column does.

    Raises:
        InputError: a column of known words has one that is not known.
    """
    found, origins = pd.Series("done", index=table.index, dtype=object), []
    for column in table:
        plain = _plain(str(column))
        if plain not in (*_COLUMNS, *_DIVERGED_FLAGS, *_ENDED_FLAGS):
            continue
        words = pd.Series([_plain(str(value)) for value in table[column]], index=table.index)
        if plain in _COLUMNS and words.isin(_KNOWN).any():
            empty = table[column].isna() | words.eq("")
            unknown = ~words.isin(_KNOWN) & ~empty
            if unknown.any():
                raise InputError(
                    f"{where}: {column}={table[column][unknown].iloc[0]!r} is no known word for a run's end "
                    f"(as finished, crashed, diverged): correct it, or choose rows by --where {column}=VALUE"
                )
            # Where only what went wrong has a word, the others ended.
            lacking = empty & bool(words.isin(DONE).any())
            found = found.mask(words.isin(PENDING) | lacking, "pending")
            found = found.mask(words.isin(DIVERGED) & ~empty, "diverged")
        elif plain in _DIVERGED_FLAGS and words.isin(_TRUE | _FALSE).all():
            found = found.mask(words.isin(_TRUE), "diverged")
        elif plain in _ENDED_FLAGS and words.isin(_TRUE | _FALSE).all():
            found = found.mask(words.isin(_FALSE), "pending")
        else:
            continue
        origins.append(str(column))
    return (found if origins else None), origins


def cut_short(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """(which runs made fewer than 95 % of their planned steps, the two columns in words).

    Only where the two columns count alike: most runs have to have made all of them.
    """
    made, planned = (
        [column for column in table if _plain(str(column)) in names and pd.api.types.is_numeric_dtype(table[column])]
        for names in (_MADE, _PLANNED)
    )
    for one in made:
        for other in planned:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = table[one].to_numpy(float) / table[other].to_numpy(float)
            if np.isfinite(share).any() and ENDED <= float(np.nanmedian(share)) <= 1 / ENDED:
                return np.nan_to_num(share, nan=1.0) < ENDED, f"{one} below {other}"
    return np.zeros(len(table), bool), ""


def _plain(text: str) -> str:
    """Without case and punctuation; W&B's `_step` keeps its mark, and 1.0 its point."""
    return ("_" if text.startswith("_") else "") + re.sub(r"[^a-z0-9.]", "", text.lower()).strip(".")
