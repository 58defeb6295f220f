"""Stores with planted points of a sharpness probe, as a launch and a probe would leave them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from analysis.results import Results, load
from lab import store
from lab.config import RunConfig
from sweeps import launch
from sweeps.sweep import Sweep, axis, product, resolved

WIDTHS, RATES, SEEDS = (16, 32, 64, 128), (2.0**-6, 2.0**-4), (0, 1, 2)
STEPS = (0, 1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
THRESHOLD = 2.0
BATCH = "abcdef012345"


def planned(base: RunConfig, root: Path, **axes: tuple[Any, ...]) -> Results:
    """A store before its first run; axes as `model__width=(16, 32)`, in their order."""
    grid = product(*(axis(name.replace("__", "."), *values) for name, values in axes.items()))
    return planned_points(base, root, grid)


def planned_points(base: RunConfig, root: Path, grid: list[dict[str, Any]]) -> Results:
    sweep = Sweep(name="planted", question="?", cost="", expected="", base=base, points=grid)
    launch._describe(sweep, resolved(sweep), root, {})
    return load(root)


def widths(base: RunConfig, root: Path, widths: tuple[int, ...] = WIDTHS, rates: tuple[float, ...] = RATES) -> Results:
    """muP and NTK, three seeds."""
    names = ("mup", "ntk")
    return planned(base, root, parametrization__name=names, model__width=widths, optimizer__lr=rates, seed=SEEDS)


def plant(root: Path, results: Results, *, noise: float = 0.02, probe_id: str = "p0", batch: str = BATCH) -> None:
    """Points for every run: muP's sharpness alike at every width, NTK's falling with it; exponents as in `value`."""
    for number, row in enumerate(results.frame.to_dict("records")):
        rng = np.random.default_rng(number)
        level = {name: math.exp(noise * rng.normal()) for name in ("sharpness", "kernel", "loss")}
        for step in STEPS:
            write(root, planted(row, step, level, rng, noise, probe_id=probe_id, batch=batch))


def diverging(base: RunConfig, root: Path) -> None:
    """`widths` with points for every run; one of muP's diverges after 16 updates."""
    results = widths(base, root)
    plant(root, results)
    frame = results.frame
    here = (frame["parametrization.name"] == "mup") & (frame["model.width"] == 16) & (frame["seed"] == 2)
    run_id = str(frame.loc[here & (frame["optimizer.lr"] == RATES[1]), "run_id"].iloc[0])
    for step in (step for step in STEPS if step > 16):
        write(root, dead(run_id, step))


def one_width(base: RunConfig, root: Path) -> tuple[Path, str]:
    """A store of one width and two seeds, without points yet, and its first run."""
    results = planned(base, root, seed=(0, 1), optimizer__lr=(0.01,))
    return root, str(results.frame["run_id"].iloc[0])


def value(name: str, width: int, lr: float, step: int) -> dict[str, float]:
    """Planted values: the distance to infinity of the kernel is step^1 / width, of the loss 0.1 step^0.5 / width."""
    grown = min(1.0, 0.3 + 0.7 * step / 64 * lr / RATES[-1])
    sharpness = THRESHOLD / lr * grown * (1.0 if name == "mup" else (16 / width) ** 0.5)
    return {"sharpness": sharpness, "kernel": 20.0 + step / width, "loss": 4 * 0.995**step + 0.8 * step**0.5 / width}


def planted(
    row: dict[Any, Any], step: int, level: dict[str, float], rng: np.random.Generator, noise: float, **which: str
) -> dict[str, Any]:
    found = value(row["parametrization.name"], row["model.width"], row["optimizer.lr"], step)
    # A seed's level and, half as large, noise of each point; the loss has a tenth of both.
    top = found["sharpness"] * level["sharpness"] * math.exp(0.5 * noise * rng.normal())
    kernel = found["kernel"] * level["kernel"]
    loss = found["loss"] * level["loss"] ** 0.1
    return point(row["run_id"], step, lr=row["optimizer.lr"], top=top, kernel=kernel, loss=loss, **which)


def point(
    run_id: str,
    step: int,
    *,
    lr: float = 0.01,
    top: float = 10.0,
    kernel: float = 5.0,
    loss: float | None = 2.0,
    probe_id: str = "p0",
    batch: str = BATCH,
    **changes: Any,
) -> dict[str, Any]:
    """One point; `changes` replace its fields."""
    spectrum = {"residuals": [1e-3, 2e-3], "smallest": -0.1, "smallest_residual": 1e-4, "steps": 12, "warm": step > 0}
    quantities = {
        "preconditioned": {"values": [top, 0.5 * top], **spectrum},
        "tangent_kernel": {"values": [kernel, 0.5 * kernel], **spectrum},
        "trace": {"value": 3 * top, "error": 0.1, "probes": 16},
        "directional": {"value": 0.2 * top},
        "blocks": {"names": ["blocks/0", "head"], "values": [top / 2, top / 3], "residuals": [0.1, 0.2], "steps": 12},
    }
    return {
        "run_id": run_id,
        "probe_id": probe_id,
        "schema": 1,
        "kind": "sharpness",
        "step": step,
        "tokens": 64 * step,
        "lr": lr,
        "alive": True,
        "loss": loss,
        "gradient_norm": 0.4,
        "quantities": quantities,
        "edge": {"threshold": THRESHOLD, "ratio": lr * top / THRESHOLD},
        "measurement": {"sequences": 32, "length": 16, "tokens": 512, "seed": 0, "batch": batch, "steps": 12},
        "unit": "u",
        "lane": 0,
        "lanes": 4,
        "seconds": 0.1,
        **changes,
    }


def dead(run_id: str, step: int) -> dict[str, Any]:
    """The point of a lane that has diverged."""
    return point(run_id, step, alive=False, quantities={}, loss=None, gradient_norm=None, edge=None)


def path_of(root: Path, run_id: str, step: int, probe_id: str = "p0") -> Path:
    return store.run_folder(root, run_id) / "probes" / probe_id / f"{step:09d}.json"


def write(root: Path, found: dict[str, Any]) -> Path:
    path = path_of(root, found["run_id"], found["step"], found["probe_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path
