"""Records: the immutable result of one run, schema 1."""

import dataclasses
import importlib.metadata
import platform as host
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lab import count, environment
from lab.config import ExecConfig, RunConfig
from lab.identity import run_id
from lab.overlap import Overlap

SCHEMA = 1
_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_LARGEST = 1e100  # beyond, squares of sums are no numbers
# What readers of a record take from it; no number in it is below 0.
_READ: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "status": str,
    "validation.loss": _MAYBE,
    "validation.standard_error": _MAYBE,
    "train_loss": _MAYBE,
    "diverged_step": (int, type(None)),
    "parameters.non_embedding": int,
    "tokens": int,
    "times.seconds": _NUMBER,
    "trunk_id": (str, type(None)),
}
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


def problem(found: Mapping[str, Any], run_id: str) -> str | None:
    """What is wrong with a run's record, as the end of a line that begins with its file; None: it can be used."""
    for path, kinds in _READ.items():
        value: Any = found
        for name in path.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return f"has no {path}"
            value = value[name]
        number = isinstance(value, (int, float)) and not 0 <= value < _LARGEST
        if isinstance(value, bool) or not isinstance(value, kinds) or number:
            return f"has {path}={value!r}, which cannot be"
    if found["run_id"] != run_id:
        return f"is the record of another run ({found['run_id']})"
    status, loss = found["status"], found["validation"]["loss"]
    if status not in ("done", "diverged"):
        return f"has status={status!r}, which is not done or diverged"
    if (status == "done") != (loss is not None):
        return f"has status={status} and validation.loss={loss}, which cannot both be"
    return None


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
        "exec": where | {"versions": versions(), "environment": environment.recorded(provenance.platform)},
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
