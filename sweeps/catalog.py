"""Finding a sweep: by the name of a bundled one, in a user's Python file, or in a list of runs."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

import sweeps.bundled
from lab.check import InputError, nearest, require
from sweeps import run_list
from sweeps.sweep import Sweep


def names() -> list[str]:
    """Names of the bundled sweeps."""
    return sorted(module.name for module in pkgutil.iter_modules(sweeps.bundled.__path__))


def load(name_or_file: str) -> Sweep:
    """The sweep of a bundled name, of a `.py` file with a `sweep()` function, or of a `.json` list of runs.

    Raises:
        InputError: no such name or file, a file that cannot be read, or one whose `sweep()` gives no Sweep.
    """
    if name_or_file.endswith(".json"):
        return run_list.read(Path(name_or_file))
    if name_or_file.endswith(".py"):
        return _called(_module(Path(name_or_file)), name_or_file)
    require(
        name_or_file in names(),
        f"no bundled sweep is called {name_or_file}{nearest(name_or_file, names())}: see lrlab sweep --list, or give "
        "the path of a .py or .json file",
    )
    return _called(importlib.import_module(f"sweeps.bundled.{name_or_file}"), name_or_file)


def _module(path: Path) -> ModuleType:
    require(path.is_file(), f"{path} is not a file: give the path of a sweep file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _called(module: ModuleType, source: str) -> Sweep:
    require(
        callable(getattr(module, "sweep", None)),
        f"{source} has no function sweep(): write def sweep() -> Sweep (docs/sweeps.md shows one)",
    )
    try:
        found = module.sweep()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{source}: sweep() failed: {type(error).__name__}: {error}") from error
    require(isinstance(found, Sweep), f"{source}: sweep() gives {type(found).__name__} and not a Sweep")
    return found
