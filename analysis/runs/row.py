"""Which rows of a table can be used: numbers, units that agree, duplicates, rates stored in several roundings.

A loss that is not finite is a diverged run and stays.  A row without a rate, a size or a token count can be placed
nowhere and is left out, with a note.  What cannot be true (a negative loss, a batch larger than its run) is refused
with the rows' names, because it is a mistake in the table that the other rows may share.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.runs import formula
from analysis.runs.column import said
from lab.check import InputError

SNAP = 0.005  # rates this close are one node that was stored with different rounding
# Tokens per parameter beyond which two columns cannot be in the same unit.
LEAST_RATIO, MOST_RATIO = 1e-3, 1e6
LEAST_COUNT = 1000  # parameters and tokens below this are counted in thousands, millions or billions
# Nobody trains with this many sequences in every batch, and hardly anybody with fewer tokens.
SEQUENCES_BELOW = 1 << 15

MOST_RATE = 10.0
MOST_BEST_LOSS = 7.0  # nats per token that every trained model is below
MOST_LOSS = 15.0  # nats per token: more than a uniform guess among three million tokens
GAP = 100.0  # times in tokens per parameter that the rows of one table leave between them
LEAST_UPDATES, MOST_UPDATES = 20, 3e6
LEAST_BATCH, LARGE = 512, 1e6  # tokens per update that no model of so many parameters is trained with


class Names:
    """How messages call a table's rows: lines of a file, or labels of a frame."""

    def __init__(self, labels: Sequence[object] | pd.Index, word: str) -> None:
        self.labels, self.word = labels, word

    def some(self, chosen: np.ndarray, most: int = 3) -> str:
        """'line 4', or 'lines 4, 9, 12 and 7 more'."""
        places = np.flatnonzero(chosen)
        more = f" and {len(places) - most} more" if len(places) > most else ""
        listed = ", ".join(str(self.labels[place]) for place in places[:most])
        return f"{self.word}{'s' if len(places) > 1 else ''} {listed}{more}"


def numbers(column: pd.Series, name: str, names: Names, source: str) -> np.ndarray:
    """The column as float64; empty cells and 'nan' are nan.

    Raises:
        InputError: a text that is not a number; row and value are named.
    """
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=float, na_value=np.nan)
    found = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    blank = column.isna().to_numpy() | column.astype(str).str.strip().str.lower().isin(["", "nan", "none"]).to_numpy()
    wrong = np.isnan(found) & ~blank
    if wrong.any():
        value = column.iloc[int(np.flatnonzero(wrong)[0])]
        meant = _meant(str(value))
        remedy = "correct it, or empty the cell" if meant is None else f"write {meant}"
        raise InputError(f"{source}, {names.some(wrong, most=1)}: {name}={value!r} is not a number: {remedy}")
    return found


def _meant(text: str) -> str | None:
    """How a number that people write as 125M, 1.5 B or 25,000,000 is written in a table."""
    short = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMbBgGtT])", text.strip())
    if short:
        return short[1] + {"k": "e3", "m": "e6", "b": "e9", "g": "e9", "t": "e12"}[short[2].lower()]
    # One group may be a decimal comma; several are thousands.
    grouped = re.fullmatch(
        r"[0-9]{1,3}(?:(?:,[0-9]{3}){2,}|(?:\.[0-9]{3}){2,}|(?:[ '_\u00a0\u202f][0-9]{3})+)", text.strip()
    )
    return re.sub(r"[^0-9]", "", text) if grouped else None


def check_values(frame: pd.DataFrame, names: Names, source: str) -> None:
    """Refuse values that cannot be: rates, sizes and batches that are not positive finite numbers, negative losses.

    Raises:
        InputError: the rows and the first value.
    """
    for name in ("lr", "batch", "params", "tokens", "loss", "steps", "length", "flops"):
        if name not in frame:
            continue
        values = frame[name].to_numpy(float)
        wrong = np.isfinite(values) & (values <= 0)
        if name != "loss":
            wrong |= np.isinf(values)
        if wrong.any():
            value = values[int(np.flatnonzero(wrong)[0])]
            what = "losses are nats per token, above 0" if name == "loss" else f"{name} is a number above 0"
            raise InputError(f"{source}, {names.some(wrong)}: {name}={value:g}, but {what}: correct or drop the rows")


def check_units(frame: pd.DataFrame, names: Names, source: str, origins: Mapping[str, str] = {}) -> None:
    """Refuse counts that are in other units than the rest, or than they should be; `origins` are the table's columns.

    Raises:
        InputError: the rows, with the values of the first.
    """
    raw = "give raw counts, never thousands, millions or billions"
    for name in ("params", "tokens"):
        if name in frame:
            values = frame[name].to_numpy(float)
            few = values < LEAST_COUNT
            # Sizes in millions are rarely below ten, token counts are rarely told in millions.
            factor = "1e6" if name == "params" and np.nanmin(values, initial=np.inf) >= 10 else "1e9"
            why = f"is less than {LEAST_COUNT}: {raw}{_times(name, factor, origins) if few.all() else ''}"
            _refuse(few, frame, (name,), why, names, source)
    if {"params", "tokens"} <= set(frame):
        ratio = frame["tokens"].to_numpy(float) / frame["params"].to_numpy(float)
        _refuse(ratio < LEAST_RATIO, frame, ("tokens", "params"), f"cannot be one unit: {raw}", names, source)
        _refuse(ratio > MOST_RATIO, frame, ("tokens", "params"), f"cannot be one unit: {raw}", names, source)
    if {"batch", "tokens"} <= set(frame):
        larger = frame["batch"].to_numpy(float) > frame["tokens"].to_numpy(float)
        why = "the batch in tokens exceeds the run: check the batch unit, and that tokens are raw counts"
        _refuse(larger, frame, ("batch", "tokens"), why, names, source)


def _times(name: str, factor: str, origins: Mapping[str, str]) -> str:
    """`, as in --columns 'tokens=D*1e9'`; empty where the quantity is no column of the table but a formula."""
    origin = origins.get(name, "*")
    plain = formula.columns(origin) == [origin]
    return f", as in {said(name, f'{origin}*{factor}')}" if plain else ""


def ask_units(frame: pd.DataFrame, names: Names, source: str, origins: Mapping[str, str] = {}) -> None:
    """Ask about values that are possible and look like another unit; `as_is` of `analysis.runs.source.load` skips this.

    `origins` are the table's columns by our names.

    Raises:
        InputError: the rows, with the values of the first, and what to say.
    """

    def ask(wrong: np.ndarray, columns: tuple[str, ...], why: str) -> None:
        _refuse(wrong, frame, columns, f"{why}; if it is right, --as-is", names, source)

    known = ("lr", "batch", "params", "tokens", "loss")
    numbers = {name: frame[name].to_numpy(float) for name in known if name in frame}
    if "lr" in numbers:
        high = numbers["lr"] > MOST_RATE
        thousandths = _times("lr", "1e-3", origins)
        ask(high, ("lr",), f"is above {MOST_RATE:g}: is the rate in thousandths or other units{thousandths}?")
    if "loss" in numbers:
        wrong, told = _perplexities(frame)
        remedy = said("loss", f"log({origins.get('loss', 'loss')})")
        ask(wrong, ("loss",), f"{told}: is it a perplexity? {remedy}")
    if {"params", "tokens"} <= set(numbers):
        ratio = numbers["tokens"] / numbers["params"]
        if (ratio < 1).mean() > 0.5:
            why = ": fewer tokens than parameters: are the columns swapped, or in other units?"
            ask(ratio < 1, ("tokens", "params"), why)
        ask(_apart(ratio), ("tokens", "params"), f"is {GAP:g} times off the other rows: is one in other units?")
    if not {"batch", "tokens"} <= set(numbers):
        return
    batch, updates = numbers["batch"], numbers["tokens"] / numbers["batch"]
    remedy = "check the batch unit, --batch-unit tokens or sequences:LENGTH"
    ask(updates < LEAST_UPDATES, ("batch", "tokens"), f"makes fewer than {LEAST_UPDATES} updates: {remedy}")
    large = numbers.get("params", np.full(len(batch), np.inf)) >= LARGE
    few = ((batch < LEAST_BATCH) & large) | ((updates > MOST_UPDATES) & (batch < SEQUENCES_BELOW))
    ask(few, ("batch", "tokens"), f"has less than a sequence in an update: {remedy}")


def _perplexities(frame: pd.DataFrame) -> tuple[np.ndarray, str]:
    """(losses that may be perplexities, why): all of a table that are high, or one below a rate whose loss is low."""
    loss = frame["loss"].to_numpy(float)
    finite = np.isfinite(loss)
    high = finite & (loss > MOST_BEST_LOSS)
    if high.any() and (high == finite).all():
        return high, f"and no loss is below {MOST_BEST_LOSS:g} nats per token"
    if "lr" not in frame or not high.any():
        return np.zeros(len(loss), bool), ""
    keys = [name for name in ("params", "tokens", "batch") if name in frame]
    high &= loss > MOST_LOSS  # runs do diverge at low rates too, to the loss of a uniform guess
    sound = frame["lr"].where(finite & (loss <= MOST_BEST_LOSS))
    above = sound.groupby([frame[name] for name in keys], dropna=False).transform("max") if keys else sound.max()
    return high & (frame["lr"] < above).to_numpy(), "beside lower losses at higher rates"


def _apart(ratio: np.ndarray) -> np.ndarray:
    """Which rows lie on the smaller side of a gap in the ratio of tokens to parameters that no design leaves."""
    values = np.sort(np.log(ratio[np.isfinite(ratio) & (ratio > 0)]))
    steps = np.diff(values)
    if len(steps) == 0 or steps.max() < np.log(GAP):
        return np.zeros(len(ratio), bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.log(ratio) <= values[int(steps.argmax())]
    return below if below.mean() <= 0.5 else ~below


def _refuse(
    wrong: np.ndarray, frame: pd.DataFrame, columns: tuple[str, ...], why: str, names: Names, source: str
) -> None:
    if wrong.any():
        first = frame.iloc[int(np.flatnonzero(wrong)[0])]
        values = " with ".join(f"{name}={first[name]:g}" for name in columns)
        of = "all rows" if wrong.all() else names.some(wrong)
        raise InputError(f"{source}, {of}: {values} {why}")


def complete(frame: pd.DataFrame, needed: Sequence[str], names: Names, source: str) -> tuple[np.ndarray, list[str]]:
    """(which rows have everything that places a run, notes on those that do not); losses may be missing.

    Raises:
        InputError: no row is left.
    """
    keep, notes = np.ones(len(frame), bool), []
    for name in needed:
        if name == "loss" or name not in frame:
            continue
        missing = np.isnan(frame[name].to_numpy(float)) & keep
        if missing.any():
            notes.append(f"{int(missing.sum())} without {name} left out ({names.some(missing)})")
            keep &= ~missing
    if not keep.any():
        placing = [name for name in needed if name != "loss" and name in frame]
        empty = [name for name in placing if frame[name].isna().all()]
        told = " or ".join(empty) if empty else " and ".join(placing) + " together"
        raise InputError(f"{source}: no row has {told}: fill the column, or name another with --columns")
    return keep, notes


def duplicates(table: pd.DataFrame) -> np.ndarray:
    """Which rows repeat an earlier one in every column but a running number."""
    columns = [column for column in table if not str(column).startswith("Unnamed:")]
    part = table[columns]
    texts = [column for column in part if part[column].dtype == object]
    return part.astype(dict.fromkeys(texts, str)).duplicated().to_numpy()


def snapped(lr_R: np.ndarray) -> np.ndarray:
    """Rates with those of one node made equal: to the most frequent of the values that lie within 0.5 % of each other.

    A chain of close values that is longer than that (rates drawn at random) is left as it is.
    """
    values, inverse, counts = np.unique(lr_R, return_inverse=True, return_counts=True)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(np.log(values)) > SNAP]))
    ends = np.concatenate([starts[1:], [len(values)]])
    nodes = values.copy()
    for start, end in zip(starts, ends, strict=True):
        if 1 < end - start and np.log(values[end - 1] / values[start]) <= SNAP:
            nodes[start:end] = values[start + int(counts[start:end].argmax())]
    return nodes[inverse]
