"""Statistics of sharpness as plain data for JSON: numbers, None where there is none."""

import dataclasses
import math
from typing import Any

import numpy as np

from analysis.drift import named
from analysis.sharpness.distance import Contrast, Distance
from analysis.sharpness.exponent import Exponent
from analysis.sharpness.study import Study


def fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass of numbers."""
    return {name: number(one) for name, one in dataclasses.asdict(value).items()}


def study(one: Study, axis: str) -> dict[str, Any]:
    """A quantity in a group: seed means by size along the steps, growth, and the distances of each size."""
    track = one.track
    return {
        **named(track.group),
        "quantity": track.quantity,
        "since_start": one.since_start,
        "steps": track.steps_T.tolist(),
        "sizes": [
            {
                axis: size,
                "seeds": len(track.seeds(place)),
                "diverged": track.lost.get(size, 0),
                "mean": numbers(track.seeds(place).mean(axis=0)),
            }
            for place, size in enumerate(track.sizes)
        ],
        "growth": None
        if one.growth is None
        else {
            name: numbers(getattr(one.growth, f"{name}_T"))
            for name in ("value", "low", "high", "pooled_low", "pooled_high")
        },
        "distances": [
            {axis: size, **_distance(found), "exponent": exponent(one.exponents[size])}
            for size, found in one.distances.items()
        ],
        "exponent": exponent(one.pooled),
        "verdict": one.verdict if one.distances else None,
        "averaged": one.averaged,
    }


def contrast(one: Study, other: Study, size: Any, axis: str, found: Contrast) -> dict[str, Any]:
    """Relative distances of two groups against one another, as shares of S_inf."""
    names = ("value", "low", "high")
    return {
        **named(one.track.group),
        "against": named(other.track.group),
        "quantity": one.track.quantity,
        "since_start": one.since_start,
        axis: size,
        "steps": found.steps_T.tolist(),
        **{name: numbers(getattr(found, f"{name}_T")) for name in names},
        "mean": {name: number(value) for name, value in zip(names, found.mean, strict=True)},
    }


def exponent(found: Exponent | None) -> dict[str, Any] | None:
    """beta with its interval, and whether it may be read."""
    if found is None:
        return None
    return {
        "beta": found.beta.value,
        "low": found.beta.low,
        "high": found.beta.high,
        "level": found.level,
        "steps": found.steps,
        "above_noise": found.above,
        "readable": found.readable,
    }


def number(value: Any) -> Any:
    """A number as JSON has it; None where it is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(values_T: np.ndarray) -> list[Any]:
    return [number(value) for value in values_T]


def _distance(found: Distance) -> dict[str, Any]:
    place = found.largest
    return {
        "proxy": found.proxy,
        "signed": numbers(found.signed_T),
        "standard_error": numbers(found.error_T),
        "relative": numbers(found.relative_T),
        "low": numbers(found.low_T),
        "high": numbers(found.high_T),
        "verdicts": list(found.verdicts),
        "largest": {
            "step": int(found.steps_T[place]),
            "relative": number(found.relative_T[place]),
            "low": number(found.low_T[place]),
            "high": number(found.high_T[place]),
        },
        "mean": number(found.mean[0]),
        "verdict": found.verdict,
    }
