"""Cells of published measurements as canonical frames, for tests of laws."""

from pathlib import Path

import numpy as np
import pandas as pd


def openeurollm(shared: Path) -> pd.DataFrame:
    """The 45 published optima of OpenEuroLLM below 1.7e9 parameters."""
    table = pd.read_csv(shared / "laws" / "openeurollm_optima.csv")
    table = table[table["N"] < 1.7e9]
    batch = table["gbsz"] * 4096
    return pd.DataFrame({"params": table["N"], "tokens": table["D"], "lr": table["lr"], "best_batch": batch})


def steplaw_runs(shared: Path) -> pd.DataFrame:
    """The 2,702 runs of Step Law."""
    table = pd.read_csv(shared / "laws" / "steplaw_train.csv")
    names = {"non_embedding_param_size": "params", "data_size": "tokens", "lm_loss": "loss"}
    return table.rename(columns=names).assign(batch=table["bsz"] * 2048.0)


def repository_runs(shared: Path) -> pd.DataFrame:
    """The 1,911 runs in Step Law's repository."""
    table = pd.read_csv(shared / "laws" / "steplaw_repo_dense.csv")
    table = table.drop(columns="loss").rename(columns={"N": "params", "D": "tokens", "smooth loss": "loss"})
    return table.assign(batch=table["bs"] * 2048.0)


def near_optimal(runs: pd.DataFrame, share: float = 0.0025) -> pd.DataFrame:
    """Every run strictly within `share` of its cell's least loss, as rows of a law."""
    least = runs.groupby(["params", "tokens"])["loss"].transform("min")
    return runs[runs["loss"] / least - 1 < share].rename(columns={"batch": "best_batch"})


def surfaces(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per cell: vertex of the quadratic in (ln lr, ln batch) through the runs within 2 % of the least loss, with
    variances by the delta method; `censored` where it is no minimum or lies outside the grid."""
    rows = []
    for (params, tokens), cell in runs.groupby(["params", "tokens"]):
        near = cell[cell["loss"] <= 1.02 * cell["loss"].min()]
        x, z, y = np.log(near["lr"].to_numpy()), np.log(near["batch"].to_numpy()), near["loss"].to_numpy()
        design = np.stack([np.ones_like(x), x, z, x * x / 2, z * z / 2, x * z], axis=1)
        found = np.linalg.lstsq(design, y, rcond=None)[0]
        hessian = np.array([[found[3], found[5]], [found[5], found[4]]])
        vertex = -np.linalg.solve(hessian, found[1:3])
        residual = y - design @ found
        covariance = residual @ residual / (len(y) - 6) * np.linalg.inv(design.T @ design)
        slopes = np.array([[0, 1, 0, vertex[0], 0, vertex[1]], [0, 0, 1, 0, vertex[1], vertex[0]]])
        spread = np.linalg.solve(hessian, slopes)
        variance = np.diag(spread @ covariance @ spread.T)
        logs = np.log(cell[["lr", "batch"]].to_numpy())
        inside = (logs.min(axis=0) <= vertex).all() and (vertex <= logs.max(axis=0)).all()
        lr, batch = np.exp(vertex)
        sound = bool(inside and np.linalg.eigvalsh(hessian)[0] > 0)
        rows.append((params, tokens, lr, batch, variance[0], variance[1], not sound))
    names = ["params", "tokens", "lr", "best_batch", "lr_variance", "batch_variance", "censored"]
    return pd.DataFrame(rows, columns=names)
