"""What the runs of a sweep hold fixed, as a law has to say of itself, and which of its axes make other laws."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.results import OLD

# The condition's name: the configuration's field.
_FIELDS = {
    "schedule": "schedule.kind",
    "decay shape": "schedule.decay_shape",
    "final rate / peak": "schedule.floor",
    "optimizer": "optimizer.kind",
    "weight decay": "optimizer.weight_decay",
    "weight decay kind": "optimizer.decay",
    "beta1": "optimizer.beta1",
    "beta2": "optimizer.beta2",
    "clip": "optimizer.clip",
    "parametrization": "parametrization.name",
    "base width": "parametrization.base_width",
    "sequence length": "data.length",
    "dtype": "dtype",
    "corpus": "data.fingerprint",
}
# Columns of other people's tables that say what a run held fixed, spelt without case and punctuation.
_TABLE_FIELDS = {
    "schedule": "schedule",
    "lrschedule": "schedule",
    "lrscheduler": "schedule",
    "lrschedulertype": "schedule",
    "scheduler": "schedule",
    "schedulekind": "schedule",
    "decayshape": "decay shape",
    "decay": "decay",
    "decaysteps": "decay",
    "decayfraction": "decay",
    "warmupratio": "warm-up",
    "warmupfraction": "warm-up",
    "minlrratio": "final rate / peak",
    "finallrfrac": "final rate / peak",
    "clip": "clip",
    "gradclip": "clip",
    "maxgradnorm": "clip",
    "adambeta1": "beta1",
    "adambeta2": "beta2",
    "optim": "optimizer",
    "optimizertype": "optimizer",
    "weightdecaykind": "weight decay kind",
    "warmup": "warm-up",
    "warmupsteps": "warm-up",
    "weightdecay": "weight decay",
    "wd": "weight decay",
    "beta1": "beta1",
    "beta2": "beta2",
    "optimizer": "optimizer",
    "parametrization": "parametrization",
    "seqlen": "sequence length",
    "sequencelength": "sequence length",
}
_NOT_VARIANTS = ("optimizer.lr", "seed", "seed_init", "seed_data")


def of_sweep(frame: pd.DataFrame) -> dict[str, Any]:
    """The conditions that all rows of a sweep's frame (`analysis.results`) share; lengths as they are held fixed.

    A warm-up or decay that is the same number of updates, of tokens, or the same fraction of every run is told so; one
    that is none of these is no condition.
    """
    found: dict[str, Any] = {"params": "N non-embedding", "loss": "validation loss, nats per token"}
    for name, field in _FIELDS.items():
        if field not in frame:  # of an export of an older version
            continue
        values = frame[field].drop_duplicates()
        if len(values) == 1:
            found[name] = _plain(values.iloc[0])
    if "numerics" in frame and (frame["numerics"] == OLD).all():
        found["numerics"] = f"bfloat16 of version {OLD}"
    per_step = frame["data.sequences"] * frame["data.length"]
    for name in ("warm-up", "decay"):
        if f"schedule.{name.replace('-', '')}_steps" not in frame:
            continue
        steps = frame[f"schedule.{name.replace('-', '')}_steps"].astype(float)
        ways = {
            "of the run": (steps / frame["schedule.steps"]).round(3),
            "updates": steps,
            "tokens": steps * per_step,
        }
        for unit, values in ways.items():
            if steps.notna().all() and values.nunique() == 1:
                found[name] = f"{values.iloc[0]:g} {unit}"
                break
    return found


def of_table(table: pd.DataFrame) -> dict[str, Any]:
    """The conditions that a table's columns state by their names, where one value holds in all rows."""
    found: dict[str, Any] = {}
    for column in table:
        name = _condition(str(column))
        if name and name not in found and table[column].notna().all() and table[column].nunique() == 1:
            found[name] = _plain(table[column].iloc[0])
    return found


def mixed(table: pd.DataFrame) -> list[str]:
    """A line on each condition that is a word and takes a few values: one law over them takes them for one."""
    found = []
    for column in table:
        values = list(dict.fromkeys(map(str, table[column].dropna())))
        if _condition(str(column)) and not pd.api.types.is_numeric_dtype(table[column]) and 1 < len(values) < 6:
            told = f"{column} differs between runs ({', '.join(values)}), and a law takes them together"
            found.append(f"{told}: choose with --where {column}={values[0]}")
    return found


def _condition(column: str) -> str | None:
    """The condition that a column of anyone's table states by its name."""
    # A tracker's folders (`config.optimizer.weight_decay`) say nothing of what a column is.
    ends = (column, re.split(r"[./]", column)[-1])
    plain = ("".join(letter for letter in end.lower() if letter.isalnum()) for end in ends)
    return next((_TABLE_FIELDS[one] for one in plain if one in _TABLE_FIELDS), None)


def variant_axes(frame: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Axes of a sweep that take several values at one size, token count and batch: each value has a law of its own."""
    # Of runs that were trained by other numerics no law is made together with others, wherever they stand.
    apart = [axis for axis in axes if axis == "numerics" and frame[axis].nunique() > 1]
    axes = [axis for axis in axes if axis not in (*_NOT_VARIANTS, "numerics")]
    places = frame.groupby(["params", "tokens", "batch"], dropna=False)
    return apart + [axis for axis in axes if bool((places[axis].nunique(dropna=False) > 1).any())]


def variants(frame: pd.DataFrame, axes: Sequence[str], labels: Mapping[str, str]) -> pd.Series:
    """One text per row, as in `parametrization mup, weight_decay 0.1`."""
    parts = [labels[axis] + " " + frame[axis].astype(str) for axis in axes]
    text = parts[0]
    for part in parts[1:]:
        text = text + ", " + part
    return text


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return value.item() if hasattr(value, "item") else value
