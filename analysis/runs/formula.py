"""A quantity that is said as a product of columns and numbers, `max_steps*batch*2048`, as `log(COLUMN)`, or as a power.

A column of logarithms is undone by `2**COLUMN`, `10**COLUMN` or `exp(COLUMN)`.
"""

import re
from collections.abc import Callable, Collection

import numpy as np
import pandas as pd

_LOG = re.compile(r"(?:log|ln)\((.+)\)")
_POWER = re.compile(r"(?:(?P<base>2|10)\s*\*\*\s*(?P<column>.+)|exp\((?P<natural>.+)\))")
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?")


def columns(text: str, known: Collection[str] = ()) -> list[str]:
    """The columns that a formula needs; of a text that is itself a known column, that one."""
    if text in known:
        return [text]
    logged = _LOG.fullmatch(text.strip())
    if logged:
        return [logged[1].strip()]
    if power := _POWER.fullmatch(text.strip()):
        return [(power["column"] or power["natural"]).strip()]
    if "*" not in text:
        return [text]
    return [part for part in _factors(text) if not _NUMBER.fullmatch(part)]


def value(text: str, table: pd.DataFrame, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """The quantity in every row; `read` gives a column's numbers."""
    if text in table.columns:
        return read(text)
    logged = _LOG.fullmatch(text.strip())
    if logged:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(read(logged[1].strip()))
    if power := _POWER.fullmatch(text.strip()):
        with np.errstate(over="ignore"):
            return float(power["base"] or np.e) ** read((power["column"] or power["natural"]).strip())
    if "*" not in text:
        return read(text)
    found = np.ones(len(table))
    for part in _factors(text):
        found = found * (float(part) if _NUMBER.fullmatch(part) else read(part))
    return found


def _factors(text: str) -> list[str]:
    return [part.strip() for part in text.split("*")]
