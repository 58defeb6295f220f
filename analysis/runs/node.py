"""Nodes: what the runs of one cell at one learning rate and batch come to, and where the best of them lies.

A cell is the runs of one (params, tokens), or (params, tokens, batch); where a table has a column `variant`, the runs
of one variant.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.optimum import divergence_limit
from analysis.runs.source import Runs
from analysis.target import Censored


@dataclass(frozen=True)
class Cell:
    """A cell's nodes: rate, ln rate, ln batch (nan without a batch), mean loss (nan if lost), runs, diverged or not.

    They are sorted by batch, then by rate; `keys` are the cell's params, tokens, and so on.
    """

    keys: dict[str, Any]
    lr_P: np.ndarray
    x_P: np.ndarray
    z_P: np.ndarray
    loss_P: np.ndarray
    runs_P: np.ndarray
    diverged_P: np.ndarray

    def part(self, chosen_P: np.ndarray) -> "Cell":
        """The cell with some of its nodes."""
        parts = (self.lr_P, self.x_P, self.z_P, self.loss_P, self.runs_P, self.diverged_P)
        return Cell(self.keys, *(part[chosen_P] for part in parts))

    @property
    def alive(self) -> "Cell":
        """The cell without its diverged nodes."""
        return self.part(~self.diverged_P)

    @property
    def best(self) -> int:
        """Where the lowest loss is; of a cell with none that has one, an error."""
        return int(np.nanargmin(self.loss_P))


@dataclass(frozen=True)
class Edge:
    """On which side of the grid a cell's best node lies: low or high, '' inside or below diverged runs.

    `bound` is the rate below or above which the optimum then lies: of a parabola through equidistant nodes, halfway (in
    ln lr) between the edge and its neighbour; nan where fewer than three rates tell no side.
    """

    lr: Censored
    batch: Censored
    bound: float


def frame_of(runs: Runs | pd.DataFrame) -> pd.DataFrame:
    """The canonical frame, with `status` from the losses where a frame has none."""
    frame = runs.frame if isinstance(runs, Runs) else runs
    if "status" not in frame and "loss" in frame:
        finite = np.isfinite(frame["loss"].to_numpy(float))
        frame = frame.assign(status=np.where(finite, "done", "diverged"), loss=frame["loss"].where(finite))
    return frame


def keys_of(frame: pd.DataFrame, *, joint: bool) -> list[str]:
    """The columns that tell cells apart; `joint` cells hold all batches of a size."""
    names = ["variant", "params", "tokens"] + ([] if joint else ["batch"])
    return [name for name in names if name in frame]


def axis_of(frame: pd.DataFrame) -> str:
    """The column that names a run's rate: the node, where rates are stored in several roundings."""
    return "lr_node" if "lr_node" in frame else "lr"


def nodes_of(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per size, batch and rate: mean `loss` over `runs`, mean ln lr `x`, ln batch `z`, `lr`, `diverged`.

    A node is diverged if one of its runs is, or if its loss is too high at a rate above the best one of its size and
    batch: the rule of `analysis.optimum.curve`, for all curves of a table at once.
    """
    keys = keys_of(frame, joint=False)
    lost = frame["status"] == "diverged"
    frame = frame.assign(_x=np.log(frame["lr"].to_numpy(float)), _lost=lost, _node=frame[axis_of(frame)])
    grouped = frame.groupby([*keys, "_node"], dropna=False)
    nodes = grouped.agg(loss=("loss", "mean"), x=("_x", "mean"), runs=("loss", "size"), diverged=("_lost", "any"))
    nodes = nodes.reset_index().rename(columns={"_node": "lr"})
    nodes["z"] = np.log(nodes["batch"].to_numpy(float)) if "batch" in nodes else np.nan
    nodes["loss"] = nodes["loss"].where(~nodes["diverged"])
    loss_P, x = nodes["loss"].to_numpy(float), nodes["x"]
    curve = nodes.groupby(keys, dropna=False).ngroup()
    best_P = nodes["loss"].groupby(curve).transform("min").to_numpy(float)
    at_P = x.where(loss_P == best_P).groupby(curve).transform("min").to_numpy(float)
    nodes["diverged"] |= (loss_P > divergence_limit(best_P)) & (x.to_numpy(float) > at_P)
    return nodes


def cells_of(frame: pd.DataFrame, *, joint: bool) -> list[Cell]:
    """The cells of a table of runs with their nodes, in the order of their keys."""
    nodes, keys = nodes_of(frame), keys_of(frame, joint=joint)
    number_P = nodes.groupby(keys, dropna=False).ngroup().to_numpy()  # in order: the nodes are sorted by their keys
    starts = np.flatnonzero(np.diff(number_P, prepend=-1))
    ends = np.append(starts[1:], len(nodes))
    names = ("lr", "x", "z", "loss", "runs", "diverged")
    arrays = [nodes[name].to_numpy(bool if name == "diverged" else float) for name in names]
    labels = nodes[keys].iloc[starts].to_dict("records")
    return [
        Cell({str(name): value for name, value in label.items()}, *(array[start:end] for array in arrays))
        for label, start, end in zip(labels, starts, ends, strict=True)
    ]


def edge_of(cell: Cell) -> Edge:
    """Where the best of a cell's nodes lies; an axis with one value has no edge."""
    alive = cell.alive
    if len(alive.x_P) == 0:
        return Edge("", "", math.nan)
    best = alive.best
    beyond = bool((cell.diverged_P & (cell.x_P > alive.x_P[best])).any())
    side = _side(alive.x_P, best)
    lr: Censored = "" if beyond and side == "high" else side
    rates = np.unique(np.round(alive.x_P, 3))  # a rate's roundings are one
    bound = math.nan
    if lr and len(rates) > 2:
        bound = math.exp(float(rates[:2].mean() if lr == "low" else rates[-2:].mean()))
    return Edge(lr, _side(alive.z_P, best), bound)


def _side(x_P: np.ndarray, best: int) -> Censored:
    """low or high where the best lies at an end; nodes of one rate differ by less than a thousandth in x."""
    close = 2e-3
    if not np.ptp(x_P) > close:
        return ""
    if x_P[best] <= x_P.min() + close:
        return "low"
    return "high" if x_P[best] >= x_P.max() - close else ""
