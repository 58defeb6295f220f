"""Points of a sharpness probe as one long table, joined with the configurations of their runs.

A point is what a probe measured of one run after some updates: `DIR/runs/<run_id>/probes/<probe_id>/<step>.json`.
Eigenvalues depend strongly on the measurement batch, so a table holds one probe and one batch.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results import SEED_AXES, Results, load
from lab import store
from lab.check import InputError, require
from lab.config.probe import KIND, SCHEMA, SPECTRA

SIZE_AXES = ("model.width", "model.depth")
RATE_AXIS = "optimizer.lr"
SEEDS = ["seed_init", "seed_data"]
# What a run came to, or another meaning of a point's own column: not part of its configuration.
_OUTCOMES = ("loss", "loss_error", "train_loss", "diverged_step", "tokens", "seconds", "trunk")
_REMEDY = "delete it and measure again"


@dataclass(frozen=True)
class Points:
    """All points of one probe on one measurement batch.

    `frame` has one row per run, step, quantity and index: `run_id`, `step` (updates made), `tokens`, `lr_t` (rate of
    the next update), `alive`, `quantity`, `index` (0 = largest eigenvalue), `value`, `error` (a residual, or the
    standard error of a trace; nan where there is none), the run's `status` and its configuration under dotted names.

    Quantities: `hessian` (plain metric); `preconditioned`, `gauss_newton`, `residual` and `tangent_kernel` (update
    metric); each with `/smallest`; `trace`, `directional` and `blocks/NAME` (update metric); `loss` (nats per token)
    and `gradient_norm` on the measurement batch; `train_loss`, the loss of the next update's own batch; `edge` =
    threshold / lr_t, the sharpness at the edge of stability; `ratio` = sharpness / edge.

    `axes` are the sweep's axes without its seeds.  `size_axis` is the one along which runs are compared.
    """

    frame: pd.DataFrame
    axes: tuple[str, ...]
    size_axis: str
    probe_id: str
    batch: str
    measurement: dict[str, Any]

    @property
    def group_axes(self) -> tuple[str, ...]:
        """Axes that tell groups apart: without the size, those that follow it (heads with the width), and those that
        follow an axis of words (the optimizer that each kind of model has)."""
        names = [name for name in self.axes if name != self.size_axis and not _follows(self, name)]
        return tuple(_independent(self.frame, names))

    @property
    def quantities(self) -> list[str]:
        """The quantities that have at least one value."""
        return list(self.frame.loc[self.frame["value"].notna(), "quantity"].unique())

    @property
    def sharpness(self) -> str:
        """What is called sharpness here: the Hessian in the update metric, or else the plain one."""
        return "preconditioned" if "preconditioned" in self.quantities else "hessian"


def read(root: Path, probe_id: str | None = None, batch: str | None = None) -> Points:
    """The points of a store; `probe_id` and `batch` choose where it holds several.

    Raises:
        InputError: no store, no points, damaged points, or several probes or batches to choose from.
    """
    every = read_all(root)
    require(bool(every), f"{root} has no sharpness points: measure them with lrlab sweep NAME --probe sharpness")
    found = [one for one in every if probe_id in (None, one.probe_id) and batch in (None, one.batch)]
    known = "; ".join(f"probe {one.probe_id}, batch {one.batch} ({count(one)} points)" for one in every)
    require(bool(found), f"no points of probe {probe_id or 'any'} on batch {batch or 'any'}: {root} has {known}")
    require(
        len(found) == 1,
        f"{root} has points that cannot be compared, of several probes or measurement batches: choose one of {known}",
    )
    return found[0]


def read_all(root: Path, results: Results | None = None) -> list[Points]:
    """The points of a store, one table per probe and measurement batch, the one with most points first.

    Raises:
        InputError: no store, or a point that is damaged or of an unknown schema.
    """
    results = load(root) if results is None else results
    parts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in _paths(root, results):
        point = store.read_json(path, _REMEDY)
        if point.get("kind") == KIND:
            require(
                point.get("schema") == SCHEMA,
                f"{path} has schema {point.get('schema')}, this version reads {SCHEMA}: install a newer one",
            )
            parts.setdefault(_whose(point, path), []).append(point | {"path": path})
    described = _described(results)
    axes = tuple(name for name in results.sweep["axes"] if name not in SEED_AXES)
    found = [
        Points(
            frame=table([*_rows(points), *_train_losses(root, points)], described),
            axes=axes,
            size_axis=size_axes(described)[0],
            probe_id=probe_id,
            batch=batch,
            measurement=points[0]["measurement"],
        )
        for (probe_id, batch), points in parts.items()
    ]
    return sorted(found, key=count, reverse=True)


def count(points: Points) -> int:
    """How many points there are."""
    return len(points.frame[["run_id", "step"]].drop_duplicates())


def since(points: Points, step: int) -> Points:
    """The points from a step on: for Adam, whose preconditioner means little at the first updates."""
    return dataclasses.replace(points, frame=points.frame[points.frame["step"] >= step])


def size_axes(described: pd.DataFrame) -> list[str]:
    """Width and depth, those that vary (and not only with the kind of model); the width where none does."""
    words = [str(name) for name in described if "." in str(name) and name not in SIZE_AXES]  # of the configuration
    varied = [name for name in SIZE_AXES if name in described and described[name].nunique() > 1]
    free = [name for name in varied if name in _independent(described, [*words, name])]
    return free or varied or list(SIZE_AXES[:1])


def _independent(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The names without those that vary, and only with an axis of words that is kept."""
    described = frame.drop_duplicates("run_id")
    varied = [name for name in names if described[name].nunique(dropna=False) > 1]
    worded = [name for name in varied if not pd.api.types.is_numeric_dtype(described[name])]

    def follows(name: str, word: str) -> bool:
        of_word = described.groupby(word, dropna=False)[name].nunique(dropna=False)
        return name in varied and bool((of_word == 1).all())

    kept: list[str] = []
    for name in (*worded, *(name for name in names if name not in worded)):
        if not any(follows(name, word) for word in kept if word in worded):
            kept.append(name)
    return [name for name in names if name in kept]


def table(rows: Sequence[Sequence[Any]], described: pd.DataFrame) -> pd.DataFrame:
    """Rows (run_id, step, tokens, lr_t, alive, quantity, index, value, error) with the columns of `described`."""
    names = ["run_id", "step", "tokens", "lr_t", "alive", "quantity", "index", "value", "error"]
    made = pd.DataFrame(list(rows), columns=pd.Index(names))
    made = made.astype({"lr_t": float, "value": float, "error": float, "alive": bool})
    return made.merge(described, on="run_id", how="left", sort=False)


def _paths(root: Path, results: Results) -> Iterator[Path]:
    """Files of points in the order of the sweep's runs; temporary files of a writer have other names."""
    for run_id in results.sweep["runs"]:
        yield from sorted((store.run_folder(root, run_id) / "probes").glob("*/[0-9]*.json"))


def _described(results: Results) -> pd.DataFrame:
    frame = results.frame
    return frame[[name for name in frame.columns if name not in _OUTCOMES]]


def _whose(point: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """(probe, measurement batch) of a point whose parts are all there.

    Raises:
        InputError: they are not.
    """
    for name in ("run_id", "probe_id", "step", "lr", "alive", "quantities", "measurement"):
        require(name in point, f"{path} has no {name!r}: {_REMEDY}")
    require(isinstance(point["quantities"], dict), f"{path}: quantities is not a JSON object: {_REMEDY}")
    require(
        isinstance(point["measurement"], dict) and "batch" in point["measurement"],
        f"{path} does not say on which batch it was measured: {_REMEDY}",
    )
    return str(point["probe_id"]), str(point["measurement"]["batch"])


def _rows(points: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for point in points:
        about = [point["run_id"], point["step"], point.get("tokens"), point["lr"], point["alive"]]
        try:
            found = list(_quantities(point))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{point['path']} has a damaged quantity ({error!r}): {_REMEDY}") from None
        for quantity, index, value, error in found:
            yield [*about, quantity, index, _number(value), _number(error)]


def _quantities(point: Mapping[str, Any]) -> Iterator[tuple[str, int, Any, Any]]:
    """(quantity, index, value, error) of everything that a point holds; a dead one has its loss only, as nan."""
    found = point["quantities"]
    for name in SPECTRA:
        part = found.get(name)
        if part is not None:
            yield from _spectrum(name, part)
    for name in ("trace", "directional"):
        if name in found:
            yield name, 0, found[name]["value"], found[name].get("error")
    if "blocks" in found:
        part = found["blocks"]
        errors = part.get("residuals") or [None] * len(part["names"])
        for name, value, error in zip(part["names"], part["values"], errors, strict=True):
            yield f"blocks/{name}", 0, value, error
    yield "loss", 0, point.get("loss"), None
    yield "gradient_norm", 0, point.get("gradient_norm"), None
    edge = point.get("edge")
    if edge:
        rate, threshold = point["lr"], edge["threshold"]
        top = found.get("preconditioned", {}).get("residuals") or [None]
        yield "edge", 0, threshold / rate if rate > 0 else None, None
        yield "ratio", 0, edge.get("ratio"), None if top[0] is None else top[0] * rate / threshold


def _spectrum(name: str, part: Mapping[str, Any]) -> Iterator[tuple[str, int, Any, Any]]:
    errors = part.get("residuals") or [None] * len(part["values"])
    for index, (value, error) in enumerate(zip(part["values"], errors, strict=True)):
        yield name, index, value, error
    if "smallest" in part:
        yield f"{name}/smallest", 0, part["smallest"], part.get("smallest_residual")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _train_losses(root: Path, points: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """The loss of the update after each point, at the same parameters, from the run's `curve.csv` where it has one.

    Raises:
        InputError: the curve is damaged.
    """
    for run_id, members in itertools.groupby(points, key=lambda point: point["run_id"]):
        path = store.run_folder(root, run_id) / "curve.csv"
        if not path.is_file():
            continue
        try:
            curve = pd.read_csv(path, usecols=["step", "loss"]).set_index("step")["loss"].astype(float)
        except (ValueError, pd.errors.ParserError) as error:
            raise InputError(f"{path} is not a readable curve ({error}): delete the run and train it again") from None
        for point in members:
            if point["alive"] and point["step"] in curve.index:
                about = [run_id, point["step"], point.get("tokens"), point["lr"], True]
                yield [*about, "train_loss", 0, curve[point["step"]], math.nan]


def _follows(points: Points, name: str) -> bool:
    """Whether an axis that varies has one value per size: then it tells nothing that the size does not."""
    frame = points.frame
    if frame[name].nunique(dropna=False) < 2 or frame[points.size_axis].nunique() < 2:
        return False
    return int(frame.groupby(points.size_axis)[name].nunique(dropna=False).max()) == 1
