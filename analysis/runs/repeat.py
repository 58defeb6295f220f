"""Settings that were run more than once, and the other columns in which these runs differ.

Runs of one size, token count, batch and rate are seeds, and laws take their mean.  Where they differ in another column
(the model, the schedule, how often the data were seen) a mean says nothing, so such columns are asked about.  What a
run came to (losses, speeds, times), what names it (identities, seeds, machines) and what is different in nearly every
row is no setting.
"""

import re
import shlex
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.runs.near import LIMITS
from lab.check import require

_PLACES = ("params", "tokens", "batch", "lr")
_COUNTED = ("loss", "status", "flops", "steps")  # canonical columns that say no more than the places
# Words of a column's name that tell an outcome or a running number.
_OUTCOMES = frozenset(
    "loss losses acc accuracy ppl perplexity bpb bpc score metric metrics error stderr se std sd mfu throughput speed "
    "runtime seconds secs hours minutes time timestamp created updated date duration elapsed memory mem gpu gpus "
    "host hostname machine node user username path url link commit id ids uuid seed seeds rep repeat replicate replica "
    "trial unnamed notes note comment sweep name index tflops flops flop flos step eval val test diverged spike".split()
)
_SETTINGS = frozenset("data init initialization epochs repeats warmup decay schedule".split())  # whatever else it says
_GRADIENT = re.compile(r"grad(ient)?s?_?norm", re.IGNORECASE)


def differing(frame: pd.DataFrame, known: Sequence[str] = ()) -> tuple[int, list[str]]:
    """(rows of settings that repeat and differ, the columns in which they do); `known` only number repeats."""
    places = [name for name in (*_PLACES, "variant") if name in frame]
    if "lr" not in places:
        return 0, []
    keys = [("lr_node" if name == "lr" and "lr_node" in frame else name) for name in places]
    groups = frame.groupby(keys, dropna=False)
    repeated = groups["loss"].transform("size").gt(1)
    if not repeated.any():
        return 0, []
    found, rows = [], pd.Series(False, index=frame.index)
    for column in frame:
        if column in (*_PLACES, *keys, *_COUNTED, *known) or not _setting(frame[column], str(column)):
            continue
        differs = _differs(frame[column], [frame[key] for key in keys])
        if differs.any():
            found.append(str(column))
            rows |= differs
    return int(groups.ngroup()[rows].nunique()), found


def _differs(values: pd.Series, keys: list[pd.Series]) -> pd.Series:
    """In which rows a column differs within their setting: numbers by more than budgets do that are one."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.notna().all():
        groups = values.astype(float).groupby(keys, dropna=False)
        low, high = groups.transform("min"), groups.transform("max")
        return high - low > LIMITS["tokens"] * np.maximum(low.abs(), high.abs())
    words = pd.Series([str(value) for value in values], index=values.index)
    return words.groupby(keys, dropna=False).transform("nunique") > 1


def ask(frame: pd.DataFrame, known: Sequence[str], where: str) -> None:
    """Refuse repeats that differ in another column.

    Raises:
        InputError: naming the columns, their values and both remedies.
    """
    for name in known:
        require(name in frame, f"--repeats {name}: {where} has no such column")
    count, columns = differing(frame, known)
    if not columns:
        return
    values = list(dict.fromkeys(map(str, frame[columns[0]])))
    told = f"{', '.join(values[:4])}{' and more' if len(values) > 4 else ''}"
    many = f" ({', '.join(columns[1:4])} too)" if len(columns) > 1 else ""
    condition, number = (shlex.quote(text) for text in (f"{columns[0]}={values[0]}", columns[0]))
    settings = "setting repeats and differs" if count == 1 else "settings repeat and differ"
    require(
        False,
        f"{where}: {count} {settings} in {columns[0]!r} ({told}){many}, which no law averages over: choose with "
        f"--where {condition}, or say --repeats {number} if it only numbers repeats",
    )


def _setting(values: pd.Series, name: str) -> bool:
    """Whether a column may be a setting: few values, each in several rows, and not an outcome by its name."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    outcome = bool(_OUTCOMES & set(words)) or _GRADIENT.search(name) is not None
    if numeric and outcome and not (_SETTINGS & set(words) and "seed" not in words):
        return False
    if not numeric and _IDENTITIES & set(words) and not _recurs(values, 3):
        return False
    distinct = values.nunique(dropna=False)
    # A number that was measured has nearly as many values as rows; settings have a few.
    most = max(6, min(16, len(values) // 8)) if numeric else len(values) // 2
    return 1 < distinct <= max(most, 2)


_IDENTITIES = frozenset(
    "id ids name run created updated date time timestamp host hostname user path url commit".split()
)


def _recurs(values: pd.Series, least: int) -> bool:
    """Whether values come back: on average each stands in so many rows."""
    return values.nunique(dropna=False) * least <= len(values)
