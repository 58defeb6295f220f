"""Dataclass fields that say how they take part in a run's identity (`lab.identity`)."""

import dataclasses
from typing import Any

NOT_HASHED = {"hashed": False}


def added(*, schema: int, frozen: Any, default: Any = dataclasses.MISSING) -> Any:
    """A field that joined in `schema` and whose old behaviour is `frozen` (also its default)."""
    default = frozen if default is dataclasses.MISSING else default
    return dataclasses.field(default=default, metadata={"schema": schema, "frozen": frozen})
