"""The instrument: how one run, or K lanes of runs, is configured, trained and recorded.

Importing this package does not import JAX; its modules do so only where they compute.  What a user of the
parametrizations needs for a model of her own is exported here: `lab.parametrize` and what it takes.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.check import InputError
    from lab.config import OptimizerConfig, ParametrizationConfig
    from lab.recipe import Recipe, parametrize
    from lab.role import Place, Role, RoleRow

__all__ = [
    "InputError",
    "OptimizerConfig",
    "ParametrizationConfig",
    "Place",
    "Recipe",
    "Role",
    "RoleRow",
    "parametrize",
]

_MODULES = {
    "InputError": "lab.check",
    "OptimizerConfig": "lab.config",
    "ParametrizationConfig": "lab.config",
    "Place": "lab.role",
    "Recipe": "lab.recipe",
    "Role": "lab.role",
    "RoleRow": "lab.role",
    "parametrize": "lab.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
