"""What a power law of the optimum is fitted to: typed rows, one per cell or run, on their way from runs to laws.

`analysis.runs.target` makes them from runs, `read` from a table of one's own; every reader of optima for a law
(`analysis.power`, the calculator, its pictures, suggestions) takes these rows and nothing else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.edges import DEFAULT, Edges
from lab.check import nearest, require

Response = Literal["lr", "batch"]
COLUMNS: dict[str, str] = {"lr": "lr", "batch": "best_batch"}  # the column of each response in a table
Censored = Literal["", "low", "high"]
CENSORED: tuple[Censored, ...] = ("", "low", "high")
UNKNOWN_SIDE = "edge of unknown side"  # counted in `Targets.left_out`


@dataclass(frozen=True)
class Level:
    """An optimum, or a bound of one.

    `value` is a peak learning rate, or a batch in tokens per update; `variance` that of its natural log, nan where it
    is not known.  `censored` is "" for an optimum; "low" where the optimum lies below `value` and "high" where above.
    """

    value: float
    variance: float = 0.0
    censored: Censored = ""

    def __post_init__(self) -> None:
        require(self.censored in CENSORED, f"censored={self.censored!r} is not one of '', 'low', 'high'")

    @property
    def sound(self) -> bool:
        """Whether the value has a logarithm."""
        return math.isfinite(self.value) and self.value > 0


@dataclass(frozen=True)
class Target:
    """One row of a law.

    `at` holds the regressors: params and tokens as counts, batch in tokens per update where the rate alone is
    optimised.  `lr` and `batch` are the responses, None where nothing is known; `loss` in nats per token.
    """

    at: Mapping[str, float]
    lr: Level | None
    batch: Level | None = None
    loss: float = math.nan
    variant: str | None = None

    def level(self, response: str) -> Level | None:
        """The response of that name."""
        return self.lr if response == "lr" else self.batch


@dataclass(frozen=True)
class Targets:
    """The rows of a law, all bounds among them, and what becomes of bounds.

    `edges`: `drop` leaves bounds out, `censor` lets them enter by the probability that the optimum lies beyond them,
    `keep` takes them for optima, as the authors of near-optimal do.  `left_out` counts the cells that have neither an
    optimum nor a bound, by their quality.
    """

    rows: tuple[Target, ...]
    estimator: str = ""
    edges: Edges = DEFAULT
    left_out: Mapping[str, int] = field(default_factory=dict)

    def points(self, response: str = "lr") -> tuple[Target, ...]:
        """The rows with an optimum of a response that is a number above 0."""
        return tuple(row for row in self.rows if self._is_point(row.level(response)))

    def bounds(self, response: str = "lr") -> tuple[Target, ...]:
        """The rows with a bound of a response that is a number above 0, whatever becomes of them."""
        found = ((row, row.level(response)) for row in self.rows)
        return tuple(row for row, level in found if level is not None and level.sound and level.censored)

    def where(self, chosen: Callable[[Target], bool]) -> "Targets":
        """The rows for which `chosen` holds."""
        return replace(self, rows=tuple(row for row in self.rows if chosen(row)))

    def column(self, name: str) -> np.ndarray:
        """A regressor of every row; nan where a row lacks it."""
        return np.array([row.at.get(name, math.nan) for row in self.rows], float)

    def has(self, name: str) -> bool:
        """Whether any row has this regressor."""
        return any(name in row.at for row in self.rows)

    def frame(self) -> pd.DataFrame:
        """The rows as a table for reading: regressors, `lr`, `lr_variance`, `best_batch`, `batch_variance`, `loss`,
        and `censored` of the rate."""
        return pd.DataFrame([_record(row) for row in self.rows])

    def _is_point(self, level: Level | None) -> bool:
        return level is not None and level.sound and (level.censored == "" or self.edges == "keep")


def _record(row: Target) -> dict[str, Any]:
    lr, batch = row.lr, row.batch
    found: dict[str, Any] = {} if row.variant is None else {"variant": row.variant}
    found |= dict(row.at)
    found |= {"lr": math.nan if lr is None else lr.value, "lr_variance": math.nan if lr is None else lr.variance}
    if "batch" not in row.at:
        told = batch is not None and batch.censored == ""
        found |= {
            "best_batch": batch.value if batch is not None and told else math.nan,
            "batch_variance": batch.variance if batch is not None and told else math.nan,
        }
    return found | {"loss": row.loss, "censored": "" if lr is None else lr.censored}


def read(
    frame: pd.DataFrame,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    variance: str | None = None,
    cluster: str = "params",
    edges: Edges = DEFAULT,
    estimator: str = "",
) -> Targets:
    """The rows of a table: the one place where a column `censored` is understood.

    `censored` is "low" or "high" for a bound, and "", False or missing for an optimum; True says that the optimum is at
    an edge of unknown side, which is neither.  `variance` names the column with the variance of ln y (by default
    `lr_variance` or `batch_variance` where there is one, else 0).

    Raises:
        InputError: a column is missing, or `censored` has another value.
    """
    require(response in COLUMNS, f"response={response} is not one of {', '.join(COLUMNS)}")
    column = COLUMNS[response]
    for name in (column, cluster, *regressors, *([variance] if variance else [])):
        known = f"it has {', '.join(map(str, frame.columns))}"
        close = nearest(name, [str(other) for other in frame.columns])
        require(name in frame.columns, f"no column {name} for the law of {response}: {known}{close}")
    sides: list[Censored | None] = [""] * len(frame)
    if "censored" in frame.columns:
        sides = [_side(value) for value in frame["censored"]]
    names = dict.fromkeys([*regressors, cluster, *(name for name in ("params", "tokens") if name in frame.columns)])
    at_CI = np.column_stack([_numbers(frame[name]) for name in names])
    value_C = pd.to_numeric(frame[column], errors="coerce").to_numpy(float)
    known_column = variance or f"{response}_variance"
    variance_C = np.zeros(len(frame))
    if known_column in frame.columns:
        variance_C = pd.to_numeric(frame[known_column], errors="coerce").to_numpy(float)
    rows, unknown = [], 0
    for at, value, error, side in zip(at_CI.tolist(), value_C.tolist(), variance_C.tolist(), sides, strict=True):
        unknown += side is None
        level = None if side is None else Level(value, error, side)
        place = dict(zip(names, at, strict=True))
        rows.append(Target(place, level) if response == "lr" else Target(place, None, level))
    return Targets(tuple(rows), estimator, edges, {UNKNOWN_SIDE: unknown} if unknown else {})


def _side(value: Any) -> Censored | None:
    """A cell of the column `censored`; None for an edge of unknown side."""
    if isinstance(value, (bool, np.bool_)):
        return None if value else ""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    words: dict[Any, Censored] = {word: word for word in CENSORED}
    found = words.get(value) if isinstance(value, str) else None
    require(
        found is not None,
        f"censored={value!r} is not understood: write low or high where the optimum lies below or above the value, "
        "nothing where it is an optimum",
    )
    return found


def _numbers(column: pd.Series) -> np.ndarray:
    """A column as numbers; names become 1, 2, ..."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    return numbers if np.isfinite(numbers).any() else pd.factorize(column)[0] + 1.0
