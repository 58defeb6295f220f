"""Planted tables of runs for the calculator's tests."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sweeps import final_run
from sweeps.cli import main
from sweeps.sweep import Sweep

PARAMS = (6e7, 1.2e8, 2.4e8, 4.8e8, 9.6e8)
TOKENS = (2e9, 8e9, 3.2e10)
LR = (2.0, -0.7, 0.3)  # ln lr* = ln 2 - 0.7 ln N + 0.3 ln D
BATCH = (0.5, 0.0, 0.57)
K_LR, K_BATCH, K_MIXED = 0.02, 0.01, -0.006  # curvature of the loss over its minimum, per squared natural log


def power(law: Sequence[float], params: float, tokens: float) -> float:
    return law[0] * params ** law[1] * tokens ** law[2]


def least(params: float, tokens: float) -> float:
    """The loss at the optimum: a Chinchilla law."""
    return 1.7 + 400 * params**-0.34 + 410 * tokens**-0.28


def grid(noise: float = 0.0, seed: int = 0, batches: int = 5) -> pd.DataFrame:
    """Runs around the planted optimum of every size and token count, seven rates and `batches` batches."""
    rng, rows = np.random.default_rng(seed), []
    for params in PARAMS:
        for tokens in TOKENS:
            lr, batch = power(LR, params, tokens), power(BATCH, params, tokens)
            for i in range(-3, 4):
                for j in range(-(batches // 2), batches // 2 + 1):
                    dx, dz = i * math.log(2) / 2, j * math.log(2) * 0.7
                    bowl = 0.5 * (K_LR * dx**2 + K_BATCH * dz**2) + K_MIXED * dx * dz
                    loss = least(params, tokens) * (1 + bowl) + rng.normal(0, noise)
                    rows.append((params, tokens, lr * math.exp(dx), batch * math.exp(dz), loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "batch_tokens", "loss"])


def planted_laws(folder: Path) -> dict[str, Path]:
    """Law files of the planted runs in a folder: of the rate, and of rate and batch."""
    grid().to_csv(folder / "runs.csv", index=False, float_format="%.17g")
    found = {kind: folder / f"{kind}.json" for kind in ("lr", "lr+batch")}
    for kind, path in found.items():
        assert main(["fit", str(folder / "runs.csv"), "--law", kind, "--out", str(path), "--draws", "0"]) == 0
    return found


def planned(config_file: Path, changes: dict[str, Any]) -> Sweep:
    """The sweep of one run that `lrlab train --config` plans."""
    return final_run.changed(final_run.read(config_file), changes)
