"""From records to claims: load, optimum per cell, drift, figures, report, laws and predictions.

Nothing here imports JAX.  The calculator as functions, each imported when it is asked for:

>>> import analysis
>>> runs = analysis.load("runs.csv", batch_unit="sequences:2048")  # doctest: +SKIP
>>> analysis.predict(analysis.published("step"), params=7e9, tokens=1.4e12).lr
0.0009165569088563072
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.calculator import fit
    from analysis.literature.publication import published
    from analysis.loss.fit import fit_loss_law
    from analysis.power.fit import fit_power_law
    from analysis.prediction import predict
    from analysis.runs.optima import find_optima
    from analysis.runs.source import load

__all__ = ["find_optima", "fit", "fit_loss_law", "fit_power_law", "load", "predict", "published"]

_HOMES = {
    "find_optima": "runs.optima",
    "fit": "calculator",
    "fit_loss_law": "loss.fit",
    "fit_power_law": "power.fit",
    "load": "runs.source",
    "predict": "prediction",
    "published": "literature.publication",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
