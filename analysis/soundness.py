"""Whether what was read from a law's file can be a law: types and numbers as the dataclasses say, and shapes that fit.

A file is a thing that people edit, cut and merge.  Whatever it holds, reading it gives a law or one line.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.power.law import PowerLaw
from lab.check import require

_FINITE = ("E", "A", "B", "alpha", "beta")  # of a loss law, whose limits and condition may be infinite or unknown
_LARGEST = 10**15  # of a count
_CLOSE = 1e-9  # relative, of a readable number and what it was made from


def check_types(law: Any, where: str) -> None:
    """Refuse a dataclass with a value of another type than its annotation, or a number that is not finite.

    Raises:
        InputError: naming the field.
    """
    _check(law, type(law), "law", where)


def check_power(law: PowerLaw, name: str, where: str) -> None:
    """Refuse a power law whose parts do not fit together.

    Raises:
        InputError: naming the part.
    """
    size = 1 + len(law.regressors)

    def ask(sound: bool, what: str) -> None:
        require(sound, f"{where}: {name}.fit has {what}: fit it again")

    ask(
        len(law.centre) == size - 1 and len(law.coefficients) == size,
        "coefficients that are not those of its regressors",
    )
    ask(len(law.intervals) == size - 1, "intervals that are not those of its regressors")
    ask(law.between >= 0 and law.within >= 0, "a negative scatter")
    ask(law.cells >= 1 and law.sizes >= 1 and law.bounds >= 0, "no optimum")
    ask(law.edges in ("drop", "censor", "keep"), f"edges {law.edges!r}")
    ask(all(0 < low <= high for _, low, high in law.ranges), "a range that is none")
    ask(all(len(draw) == size for draw in law.draws), "draws that are not those of its regressors")
    ask(_variance(law.covariance, size), "a covariance that is none")
    for node in law.nodes:
        ask(node.weight > 0, f"a node of weight {node.weight:g}")
        ask(node.variance >= 0, f"a node of variance {node.variance:g}")
        ask(len(node.mean) == size and _variance(node.covariance, size), "a node that is not of its regressors")


def check_summary(told: Any, known: Mapping[str, Any], name: str, where: str) -> None:
    """Refuse a readable half that says something else than what it was made from: which of the two is meant?

    Raises:
        InputError: naming the number and both values.
    """
    require(isinstance(told, Mapping), f"{where}: {name} is no part of a law: fit it again")
    for field, value in known.items():
        if field not in told:
            continue
        difference = _different(told[field], value)
        require(
            difference is None,
            f"{where}: {name}.{field} says {difference and difference[0]}, and the fit that predictions come from says "
            f"{difference and difference[1]}: put it back, or fit again",
        )


def _different(one: Any, other: Any) -> tuple[str, str] | None:
    """The first two values that differ, in words."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if set(one) != set(other):
            return ", ".join(map(str, one)), ", ".join(map(str, other))
        pairs = [(one[name], other[name]) for name in other]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = list(zip(one, other, strict=True))
    else:
        return None if _equal(one, other) else (_words(one), _words(other))
    return next((found for pair in pairs if (found := _different(*pair)) is not None), None)


def _equal(one: Any, other: Any) -> bool:
    if _number(one) and _number(other):
        return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-300)
    return type(one) is type(other) and one == other


def _words(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        return "a number of many digits"
    return f"{value:.6g}" if _number(value) else repr(value)[:60]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _variance(matrix: Any, size: int) -> bool:
    """Whether a matrix is a covariance: symmetric and not negative but for rounding."""
    if len(matrix) != size or any(len(line) != size for line in matrix):
        return False
    values = np.array(matrix, float)
    scale = float(np.abs(values).max()) if size else 0.0
    if not np.allclose(values, values.T, rtol=1e-6, atol=1e-9 * scale):
        return False
    return bool(np.linalg.eigvalsh(values).min() >= -1e-6 * scale) and bool((np.diag(values) >= 0).all())


def _check(value: Any, hint: Any, path: str, where: str) -> None:
    require(_sound(value, hint, path, where), f"{where}: {path}={_words(value)} is no {_named(hint)}: fit it again")


def _sound(value: Any, hint: Any, path: str, where: str) -> bool:
    """Whether a value is of a type; parts of it are checked by their own paths."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return type(None) in parts
        (one, *_) = [part for part in parts if part is not type(None)]
        return _sound(value, one, path, where)
    if origin is typing.Literal:
        return isinstance(value, str) and value in parts
    if hint is float:
        free = path.startswith("law.loss.") and path.rpartition(".")[2] not in _FINITE
        return _number(value) and (
            free or (math.isfinite(value) if isinstance(value, float) else abs(value) < _LARGEST)
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, hint):
            return False
        for name, one in typing.get_type_hints(hint).items():
            _check(getattr(value, name), one, f"{path}.{name}", where)
        return True
    if origin is tuple:
        return _tuple(value, parts, path, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            return False
        for name, one in value.items():
            _check(one, parts[1], f"{path}.{name}", where)
        return True
    return isinstance(hint, type) and isinstance(value, hint)


def _tuple(value: Any, parts: tuple[Any, ...], path: str, where: str) -> bool:
    if not isinstance(value, tuple):
        return False
    hints = [parts[0]] * len(value) if parts[-1] is ... else list(parts)
    if len(hints) != len(value):
        return False
    for number, (one, hint) in enumerate(zip(value, hints, strict=True)):
        _check(one, hint, f"{path}[{number}]", where)
    return True


def _named(hint: Any) -> str:
    """A type in words."""
    known = {float: "finite number", int: "count", str: "text", bool: "true or false"}
    if hint in known:
        return known[hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _named(next(part for part in typing.get_args(hint) if part is not type(None)))
    return "part of a law"
