"""Records: the immutable result of one run, schema 1."""

import dataclasses
import importlib.metadata
import platform as host
from dataclasses import dataclass
from typing import Any, Literal

from lab import count
from lab.config import ExecConfig, RunConfig
from lab.identity import run_id
from lab.overlap import Overlap

SCHEMA = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "lr-scaling-lab")


@dataclass(frozen=True)
class Result:
    """What training one run came to; losses in nats per token, None where they are not finite.

    `train_loss` is the mean of the last twentieth of the updates; `diverged_step` the first update whose loss or
    gradient was not finite (the number of updates if only the validation loss is).
    """

    status: Literal["done", "diverged"]
    validation_loss: float | None
    validation_error: float | None
    validation_tokens: int
    train_loss: float | None
    last_finite_loss: float | None
    diverged_step: int | None


@dataclass(frozen=True)
class Provenance:
    """Where and how a run was executed: recorded, never hashed."""

    unit: str
    lane: int
    attempt: int
    lanes: int
    strategy: str
    accumulate: int
    platform: str
    device: str
    devices: int
    settings: ExecConfig
    started: str
    finished: str
    seconds: float


@dataclass(frozen=True)
class Lineage:
    """What a run has in common with others: runs of one `trunk_id` share their first updates, so their errors are
    correlated.  `parent` is the stage that ended where this run went its own way, after `fork_step` updates.
    """

    trunk_id: str | None = None
    parent: str | None = None
    fork_step: int = 0


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose change may change numbers."""
    found = {"python": host.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def record(
    config: RunConfig,
    result: Result,
    provenance: Provenance,
    lineage: Lineage = Lineage(),
    overlap: Overlap | None = None,
) -> dict[str, Any]:
    """Record v1 as plain JSON data: no Infinity, no NaN.  `overlap` is what training holds of the validation split."""
    parameters = count.parameters(config.model, config.data.length)
    where = dataclasses.asdict(provenance)
    times = {key: where.pop(key) for key in ("started", "finished", "seconds")}
    attempt = where.pop("attempt")
    return {
        "run_id": run_id(config),
        "schema": SCHEMA,
        "config": dataclasses.asdict(config),
        "exec": where | {"versions": versions()},
        "corpus": config.data.fingerprint,
        "overlap": None if overlap is None else dataclasses.asdict(overlap),
        "parameters": {
            "non_embedding": parameters.non_embedding,
            "embedding": parameters.embedding,
            "total": parameters.total,
        },
        "tokens": count.training_tokens(config),
        "batch": {"sequences": config.data.sequences, "tokens": config.data.tokens_per_step},
        "status": result.status,
        "validation": {
            "loss": result.validation_loss,
            "standard_error": result.validation_error,
            "tokens": result.validation_tokens,
        },
        "train_loss": result.train_loss,
        "last_finite_loss": result.last_finite_loss,
        "diverged_step": result.diverged_step,
        "trunk_id": lineage.trunk_id,
        "parent": lineage.parent,
        "fork_step": lineage.fork_step,
        "attempt": attempt,
        "times": times,
    }
