"""The rows of a loss law: read from a frame, cleaned, and what their places leave undetermined whatever the losses are.

Suffixes of arrays: C rows.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.check import require

COLUMNS = ("params", "tokens", "loss")
SAME = 0.01  # sizes whose logs differ by less are one size
LINE = 0.05  # standard deviation of ln(D / N) or ln(N D) below which all rows lie on one line
FEW_CLUSTERS = 10
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Rows:
    """Usable rows, ordered by N, D and loss (nats per token): the number of each row's cluster, and what is left out or
    odd."""

    params_C: np.ndarray
    tokens_C: np.ndarray
    loss_C: np.ndarray
    cluster_C: np.ndarray
    notes: tuple[str, ...]

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster_C.max()) + 1


def rows_of(frame: pd.DataFrame, cluster: str | None, least: int, form: str) -> Rows:
    """Rows with a finite loss, params and tokens above 0, and not marked as diverged; at least `least` of them.

    Raises:
        InputError: for a missing column, a word where a number belongs, or too few or too many rows.
    """
    for name in (*COLUMNS, *([cluster] if cluster else [])):
        require(
            name in frame.columns, f"column {name} is missing: the columns are {', '.join(map(str, frame.columns))}"
        )
    numbers = {name: _numbers(frame[name], name) for name in COLUMNS}
    sound_C = np.ones(len(frame), dtype=bool)
    for values_C in numbers.values():
        with np.errstate(invalid="ignore"):
            sound_C &= np.isfinite(values_C) & (values_C > 0)
    notes = []
    if (~sound_C).any():
        notes.append(
            f"{int((~sound_C).sum())} of {len(frame)} rows left out: loss, params or tokens not above 0 or not finite"
        )
    if "status" in frame.columns:
        done_C = (frame["status"] == "done").to_numpy()
        if (sound_C & ~done_C).any():
            notes.append(f"{int((sound_C & ~done_C).sum())} rows left out: their status is not done")
        sound_C &= done_C
    count = int(sound_C.sum())
    require(
        count > least,
        f"{count} usable rows do not exceed the {least} numbers of form={form}: give more runs, or a form with fewer",
    )
    require(
        count <= MOST_ROWS,
        f"{count} rows are more than {MOST_ROWS}: give the best run of each (params, tokens), or fewer checkpoints",
    )
    # A resample is a draw of row or cluster numbers, so the order in which rows are given must not choose among them.
    order_C = _order([numbers[name][sound_C] for name in COLUMNS], None if cluster is None else frame[cluster][sound_C])
    numbers = {name: values_C[sound_C][order_C] for name, values_C in numbers.items()}
    kept = frame[sound_C].iloc[order_C]
    codes_C = np.arange(count) if cluster is None else pd.factorize(kept[cluster], use_na_sentinel=False)[0]
    params_C, tokens_C, loss_C = (numbers[name] for name in COLUMNS)
    notes += _oddities(kept, params_C, tokens_C, loss_C)
    for name, values_C in (("params", params_C), ("tokens", tokens_C)):
        if form in ("params", "tokens") and name != form and distinct(values_C) > 1:
            notes.append(f"form={form} takes no account of the {distinct(values_C)} distinct {name}")
    found = Rows(params_C, tokens_C, loss_C, codes_C, tuple(notes))
    if cluster is not None and found.clusters < FEW_CLUSTERS:
        few = f"{found.clusters} clusters of {cluster} are few: intervals from resampling so few tend to be too narrow"
        found = Rows(params_C, tokens_C, loss_C, codes_C, (*notes, few))
    return found


def undetermined(rows: Rows, form: str, fixed_E: bool, numbers: int) -> list[str]:
    """What the rows' sizes and tokens leave undetermined for a form with so many numbers, in words."""
    n_C, d_C = np.log(rows.params_C), np.log(rows.tokens_C)
    sizes, horizons = distinct(rows.params_C), distinct(rows.tokens_C)
    cells = len({(round(n / SAME), round(d / SAME)) for n, d in zip(n_C.tolist(), d_C.tolist(), strict=True)})
    found = []
    needed = 2 if fixed_E or form in ("tied", "kaplan") else 3
    if form != "tokens" and sizes < needed:
        other = "; form=tokens fits runs of one size" if sizes == 1 else ""
        found.append(f"{sizes} distinct params do not determine A and alpha: give at least {needed} sizes{other}")
    if form != "params" and horizons < needed:
        other = "; form=params fits runs of one horizon" if horizons == 1 else ""
        found.append(f"{horizons} distinct tokens do not determine B and beta: give at least {needed}{other}")
    if cells < numbers and not found:
        found.append(f"{cells} distinct (params, tokens) do not determine {numbers} numbers: give more of them")
    if form in ("tokens", "params"):
        return found
    if sizes > 1 and np.std(d_C - n_C) < LINE:
        ratio = float(np.exp(np.mean(d_C - n_C)))
        found.append(f"one ratio of tokens to params, about {ratio:.3g}: the terms of N and D cannot be told apart")
    if sizes > 1 and np.std(d_C + n_C) < LINE:
        product = float(np.exp(np.mean(d_C + n_C)))
        found.append(f"one budget, params x tokens about {product:.3g}: E, A and B cannot be told apart")
    return found


def _order(keys: list[np.ndarray], clusters: pd.Series | None) -> np.ndarray:
    """Places of the rows by params, tokens and loss, and where all three are equal by the name of their cluster."""
    names = [] if clusters is None else [clusters.astype(str).to_numpy(str)]
    return np.lexsort([*names, *reversed(keys)])


def _numbers(values: pd.Series, name: str) -> np.ndarray:
    """The column as float64; texts that are no numbers are refused."""
    found = pd.to_numeric(values, errors="coerce")
    words = values[found.isna() & values.notna()]
    if len(words):
        require(
            str(words.iloc[0]).lower() in ("nan", "inf", "-inf", ""),
            f"{name}={words.iloc[0]!r} is not a number: mend the column",
        )
    return found.to_numpy(float)


def _oddities(kept: pd.DataFrame, params_C: np.ndarray, tokens_C: np.ndarray, loss_C: np.ndarray) -> list[str]:
    """Rows that resampling or the law itself would take for something else."""
    places = pd.DataFrame({"params": params_C, "tokens": tokens_C, "loss": loss_C})
    found = []
    if repeats := int(places.duplicated().sum()):
        found.append(f"{repeats} rows repeat others exactly: they count, and resampling takes them for independent")
    if "lr" in kept.columns:
        rates = kept["lr"].groupby([places["params"].to_numpy(), places["tokens"].to_numpy()]).nunique()
        if rates.max() > 1:
            found.append(
                f"up to {int(rates.max())} learning rates in one (params, tokens): the law averages over them, "
                "so give the best run of each"
            )
    return found


def distinct(values_C: np.ndarray) -> int:
    """Number of distinct values, those that lie within SAME above the first of their group, in logs, being one."""
    logs = np.sort(np.log(values_C))
    count, first = 0, 0
    while first < len(logs):
        count, first = count + 1, int(np.searchsorted(logs, logs[first] + SAME, side="right"))
    return count
