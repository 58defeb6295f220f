"""Records of a store as a table, and the cells that they form."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.table import read_text
from lab import store
from lab.check import InputError, require
from lab.config.run import superseded
from lab.text import plain, shown

SEED_AXES = ("seed", "seed_init", "seed_data")
SMOKE_STEPS = 2  # of a run that only shows that it can be trained
TOKEN_AXES = ("schedule.steps", "schedule.tokens")  # how long a run is
# Labels where the last part of a dotted name would say too little, or the same as another.
# What the axis `numerics` says of runs whose numbers a mend has changed since they were trained, and of all others.
OLD, CURRENT = "0.1.0", "current"
# Columns that `lrlab export` adds: the sweep's name, its axes and the axes of its optimum, separated by spaces.
NAMED = ("sweep", "axes", "optimum_axes")
_EXPORTED = {"run_id", "status", "loss", "params", "tokens", "optimizer.lr", "data.sequences", "data.length"}
_NO_AXES = ("schedule.tokens", "data.fingerprint", "model.vocab")
LABELS = {"parametrization.name": "parametrization", "parametrization.depth": "depth_rule"}


@dataclass(frozen=True)
class Results:
    """A sweep's description and its runs.

    `frame` has one row per planned run: `run_id`, `status` (done, diverged or pending), `loss`, `loss_error`,
    `train_loss`, `diverged_step`, `params`, `tokens`, `trunk` (equal for runs that share their first updates), and
    every configuration field under its dotted name; `numerics` is in words, `OLD` or `CURRENT`.

    Where a run is `OLD`, `numerics` is an axis of the sweep: such runs form cells and laws of their own, and are never
    taken for other seeds of the runs that replace them.
    """

    sweep: dict[str, Any]
    frame: pd.DataFrame
    records: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    damaged: tuple[str, ...] = ()

    @property
    def cell_axes(self) -> tuple[str, ...]:
        """Axes that tell cells apart: the sweep's, without the optimum's first axis and the seeds."""
        return tuple(name for name in self.sweep["axes"] if name != self.optimum_axis and name not in SEED_AXES)

    @property
    def optimum_axis(self) -> str:
        return self.sweep["optimum_axes"][0]

    def table(self) -> pd.DataFrame:
        """The frame as `lrlab export` writes it: with the sweep's name and axes, so that it can be read back whole."""
        axes = {name: " ".join(self.sweep[name]) for name in NAMED[1:]}
        return self.frame.assign(**{NAMED[0]: self.sweep.get("name", "")}, **axes)

    @property
    def smoke(self) -> bool:
        """Whether every run has two updates at most, as `lrlab sweep --smoke` makes them: no rate is best then."""
        return "schedule.steps" in self.frame and bool((self.frame["schedule.steps"] <= SMOKE_STEPS).all())

    @property
    def notes(self) -> list[str]:
        """Lines on damaged files, on a smoke, and on runs that were trained with other numerics."""
        told = [f"a smoke: no run has more than {SMOKE_STEPS} updates, which show no optimum"] if self.smoke else []
        return [*self.damaged, *told, *self._of_old]

    @property
    def _of_old(self) -> list[str]:
        old = int((self.frame["numerics"] == OLD).sum()) if "numerics" in self.frame else 0
        told = "run was" if old == 1 else "runs were"
        return (
            [
                f"{old} {told} trained in bfloat16 by version 0.1.0, which added the gradient of the embedding up in "
                f"bfloat16 (off by half and more): they stand apart as numerics {OLD}, and the sweep trains them anew"
            ]
            if old
            else []
        )

    def cells(self) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
        """(axis values, rows) of each cell, in the order of the sweep.

        An axis that a point leaves to the base configuration has the value of the run's resolved configuration, so
        parts of a chain that set different names meet where they coincide.
        """
        axes = list(self.cell_axes)
        if not axes:
            yield {}, self.frame
            return
        for values, rows in self.frame.groupby(axes, sort=False, dropna=False):
            yield dict(zip(axes, map(_plain, values), strict=True)), rows


def load(root: Path) -> Results:
    """Read a store, finished or not, or a file of `lrlab export`.

    What is damaged in a store is named in `notes`, and its run pending or left out.

    Raises:
        InputError: the folder is not a store, not one run of it can be read, or the file is none of `lrlab export`.
    """
    if root.is_file():
        table = read_text(root)
        require(
            exported(table), f"{root} is no table of lrlab export: give the folder of a sweep (lrlab fit takes others)"
        )
        return of_export(table, root.stem)
    sweep: dict[str, Any] = store.read_sweep(root)
    records, wrong = store.scan(root)
    damaged = [
        f"{line}: it counts as not trained; run lrlab sweep with the same --out again" for line in wrong.values()
    ]
    configs: dict[str, dict[str, Any]] = {}
    for run_id in sweep["runs"]:
        try:
            configs[run_id] = plain(store.read_config(root, run_id))
        except InputError as error:
            told = records.get(run_id, {}).get("config")
            if isinstance(told, dict) and store.may_describe(told, run_id):
                configs[run_id] = plain(told)
            damaged.append(f"{error}" if run_id in configs else f"{error}; until then its run is left out")
    require(bool(configs), f"{root} holds no run that can be read: {damaged[0] if damaged else 'its sweep has none'}")
    sweep["runs"] = {run_id: sweep["runs"][run_id] for run_id in configs}
    damaged += [line for run_id, point in sweep["runs"].items() for line in _set_right(root, run_id, point, configs)]
    if any(map(superseded, configs.values())):
        sweep = sweep | {
            "axes": [*sweep["axes"], "numerics"],
            "runs": {run: point | {"numerics": _numerics(configs[run])} for run, point in sweep["runs"].items()},
        }
    rows = [_row(run_id, point, configs[run_id], records.get(run_id)) for run_id, point in sweep["runs"].items()]
    frame = _with_durations(pd.DataFrame(rows), sweep["axes"])
    return Results(sweep, frame, records, configs, tuple(map(shown, damaged)))


def _set_right(root: Path, run_id: str, point: dict[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Give a point the values of its run's configuration, which the run's id vouches for; a line per other value."""
    known, lines = flattened(configs[run_id]), []
    for name, value in flattened(point).items():
        right = known.get(name)
        if right is not None and value is not None and right != value:
            point[name] = right
            lines.append(
                f"{root / 'sweep.json'} has {name}={value} for the run {run_id}, which was made with {right}: that is "
                "what counts; delete the file and run lrlab sweep with the same --out to write it again"
            )
    return lines


def exported(table: pd.DataFrame) -> bool:
    """Whether a table is what `lrlab export` writes."""
    return _EXPORTED <= set(map(str, table.columns))


def of_export(table: pd.DataFrame, name: str) -> Results:
    """The results that a table of `lrlab export` holds; those of a table that names no axes are the settings that vary.

    There are no records and no configurations: what a report says of machines stays in the store.
    """
    frame = table.reset_index(drop=True)
    named = [_only(frame, column) for column in NAMED]
    title, axes, optimum = named[0] or name, (named[1] or "").split(), (named[2] or "optimizer.lr").split()
    if not axes:
        axes = _independent(frame, [str(column) for column in frame if _varies(frame, str(column))])
    frame = frame.drop(columns=[column for column in NAMED if column in frame])
    if "numerics" not in frame:
        frame["numerics"] = CURRENT
    for column in frame:
        if "." in str(column) and frame[column].dtype == object:
            frame[column] = frame[column].where(frame[column].notna(), None)
    axes += [axis for axis in optimum if axis not in axes]
    told = {"question": "", "cost": "", "expected": ""}  # an export does not tell them
    sweep = told | {"name": title, "axes": axes, "optimum_axes": optimum, "runs": {}}
    return Results(sweep, frame, {}, {})


def _only(frame: pd.DataFrame, column: str) -> str | None:
    """The text that a column holds in all rows."""
    values = frame[column].dropna().unique() if column in frame else []
    return str(values[0]) if len(values) == 1 else None


def _independent(frame: pd.DataFrame, names: list[str]) -> list[str]:
    """Settings without those that another, earlier one decides: heads and the MLP's width follow the width."""
    kept: list[str] = []
    for name in names:
        deciding = [other for other in kept if other not in (*SEED_AXES, "optimizer.lr")]
        follows = any(frame.groupby(other, dropna=False)[name].nunique(dropna=False).max() == 1 for other in deciding)
        if name in SEED_AXES or name == "optimizer.lr" or not follows:
            kept.append(name)
    return kept


def _varies(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column is a setting that takes several values; of lengths in several units, steps stand for all."""
    setting = ("." in column and not column.startswith("exec.")) or column in SEED_AXES
    derived = column.startswith("schedule.") and column.endswith(("_steps", "_tokens", "_fraction"))
    return setting and not derived and column not in _NO_AXES and frame[column].nunique(dropna=False) > 1


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            # A list (the cycles of a schedule) as it is written on a command line: cells compare and hash values.
            flat[prefix + name] = ":".join(map(str, value)) if isinstance(value, list) else value
    return flat


def axis_label(name: str) -> str:
    """The short name of an axis in tables and JSON: `width`, `depth`, `lr`, `parametrization`."""
    return LABELS.get(name, name.rsplit(".", 1)[-1])


def describe(values: Mapping[str, Any], axes: Sequence[str] | None = None) -> str:
    """A cell in a few words: `mup, width 64`."""
    words = [
        str(values[name]) if isinstance(values[name], str) else f"{axis_label(name)} {values[name]}"
        for name in (axes if axes is not None else values)
    ]
    return ", ".join(words) or "all runs"


def _row(
    run_id: str, point: Mapping[str, Any], config: Mapping[str, Any], record: Mapping[str, Any] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": run_id, "status": "pending", "loss": math.nan}
    if record is not None:
        validation = record["validation"]
        row |= {
            "status": record["status"],
            "loss": math.nan if validation["loss"] is None else validation["loss"],
            "loss_error": validation["standard_error"],
            "train_loss": record["train_loss"],
            "diverged_step": record["diverged_step"],
            "params": record["parameters"]["non_embedding"],
            "tokens": record["tokens"],
            "seconds": record["times"]["seconds"],
            "trunk": record["trunk_id"],
        }
    return row | flattened(config) | flattened(point) | {"numerics": _numerics(config)}


def _numerics(config: Mapping[str, Any]) -> str:
    return OLD if superseded(config) else CURRENT


def _with_durations(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The frame with the durations that are axes filled in where a point leaves them to the base configuration.

    A resolved run keeps its durations in steps only.  An unset `tokens` or `fraction` is what the steps amount to, or,
    where another point's value resolves to the same amount, that value: 300000 tokens are 292 steps of 1024.
    """
    frame = frame.copy()
    for name in axes:
        unit = name.rpartition(".")[2].rpartition("_")[2]
        if not name.startswith("schedule.") or unit not in ("tokens", "fraction") or frame[name].notna().all():
            continue
        steps = frame[name.removesuffix(unit) + "steps"]
        per_step = frame["data.sequences"] * frame["data.length"]
        amount = steps * per_step if unit == "tokens" else steps / frame["schedule.steps"]
        given = frame[name].notna()
        labels = dict(zip(amount[given], frame.loc[given, name], strict=True))
        filled = frame[name].where(given, amount.map(lambda value, known=labels: known.get(value, value)))
        frame[name] = filled.astype(int if unit == "tokens" else float)
    return frame


def _plain(value: Any) -> Any:
    """A value of a cell as JSON has it: a Python number, None where the configuration has none."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
