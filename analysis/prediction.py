"""A prediction: the learning rate and batch of a run that nobody has made, with intervals and the expected regret.

With K the curvature of the relative loss at the optimum (`analysis.law.Penalty`) and Sigma the variance of (ln lr*,
ln B*) about the law without bias (`PowerLaw.variance`), whose parts are taken as independent, a run at the predicted
setting expects to give up `1/2 tr(K Sigma)`.  At a batch B away from B* the rate follows the valley, `ln lr*(B) =
ln lr* + v (ln B - ln B*)` with v = -K_mixed / K_lr, and the batch itself costs `1/2 (K_batch - K_mixed^2 / K_lr)
((ln B - ln B*)^2 + var ln B*)`.  What one run gives up is between 0 and a multiple of that: the range is the central
90 % of `1/2 d' K d` with d drawn from the predictive distribution, which also knows how unsure Sigma is.

numpy only: `lrlab predict` answers in a fraction of a second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis import law as law_file
from analysis.law import Law
from analysis.literature.answer import answer
from analysis.literature.publication import FAR, Publication, option, published
from analysis.power.law import Estimate, PowerLaw
from lab.check import require

# The settings of the runs behind a law that belong to its rate.
RECIPE = (
    "schedule",
    "decay",
    "decay shape",
    "final rate / peak",
    "warm-up",
    "optimizer",
    "weight decay",
    "weight decay kind",
    "beta1",
    "beta2",
    "clip",
)
_DRAWS = 20_000  # of the range of the regret: its ends are known to a few per cent of themselves
_SAME = 1.02  # ratio up to which a value is the one that all runs had


@dataclass(frozen=True)
class Prediction:
    """What a law says of a run; None where it does not say it.

    `lr` and `batch_tokens` come with the limits of the 95 % prediction interval (`_low`, `_high`) and those of the
    law's mean (`_mean`); `loss` likewise.  `regret` is the expected loss above the best setting, as a share of it, with
    the limits that 90 % of such runs keep; `diverge` the probability that the rate diverges, and `edge` the rate above
    which runs do, with its 95 % prediction interval.  `beyond` says how many times outside the fitted range each input
    lies, `recipe` which settings the runs behind the law had, `conditions` what else they share.  `fitted` counts the
    optima and bounds behind the law of the rate and of the batch.
    """

    law: str
    inputs: Mapping[str, float]
    lr: float | None = None
    lr_low: float | None = None
    lr_high: float | None = None
    lr_mean: tuple[float | None, float | None] | None = None
    batch_tokens: float | None = None
    batch_low: float | None = None
    batch_high: float | None = None
    batch_mean: tuple[float | None, float | None] | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    regret: float | None = None
    regret_low: float | None = None
    regret_high: float | None = None
    diverge: float | None = None
    edge: float | None = None
    edge_low: float | None = None
    edge_high: float | None = None
    beyond: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    fitted: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def predict(law: Law | Publication | str | Path, **inputs: float | None) -> Prediction:
    """What a law says at `params`, `tokens` and, where it wants them, `batch` (tokens per update) and others by name.

    Args:
        law: a fitted law, a published one, the path of a law file, or the name of a published law.
        inputs: numbers above 0; None counts as not given.

    Raises:
        InputError: no such law; an input is missing, not above 0, or not covered by the law.
    """
    if isinstance(law, (str, Path)):
        law = find(str(law))
    given = {name: value for name, value in inputs.items() if value is not None}
    for name, value in given.items():
        require(math.isfinite(value) and value > 0, f"{option(name)} {value} is not a number above 0")
    return _published(law, given) if isinstance(law, Publication) else _fitted(law, given)


def find(name: str) -> Law | Publication:
    """The law of a file, where there is one of that name or the name looks like one, else the published law.

    Raises:
        InputError: no such file, no law in it, or no such published law.
    """
    if Path(name).suffix == ".json" or Path(name).exists():
        return law_file.read(Path(name))
    return published(name)


def _published(law: Publication, given: Mapping[str, float]) -> Prediction:
    found = answer(law, given)
    why = found.lr_why if "lr" in law.formulas else found.batch_why
    lacking = (found.lr is None and "lr" in law.formulas) or (found.lr is None and found.batch is None)
    require(not lacking, why or f"law {law.name} gives neither a rate nor a batch: see lrlab laws show {law.name}")
    conditions = dict(vars(law.conditions))
    recipe = {
        words: conditions.pop(name)
        for name, words in (
            ("schedule", "schedule"),
            ("final_lr", "final rate"),
            ("warmup", "warm-up"),
            ("optimizer", "optimizer"),
            ("weight_decay", "weight decay"),
            ("beta2", "beta2"),
        )
    }
    return Prediction(
        law=law.name,
        inputs=given,
        lr=found.lr,
        batch_tokens=given.get("batch", found.batch),
        beyond={one.name: one.factor for one in found.beyond},
        recipe=recipe,
        conditions=conditions | {"source": law.source},
        warnings=("a published law carries no interval here: fit your own runs for one", *found.warnings),
    )


def _fitted(law: Law, given: Mapping[str, float]) -> Prediction:
    _require_covered(law, given)
    found: dict[str, Any] = {"law": law.name, "inputs": given}
    batch, away = given.get("batch"), 0.0
    found["batch_tokens"] = batch or law.fixed.get("batch")  # what all runs had
    if law.batch is not None:
        best = law.batch.predict(given)
        if batch is None or law.lr is None:
            found |= _limits("batch", best) | {"batch_tokens": best.value}
        else:
            away = math.log(batch / best.value)
    if law.lr is not None:
        slope = law.penalty.valley_slope if law.penalty and away else None
        require(not away or slope is not None, f"law {law.name} knows no valley: leave --batch out")
        lr = _moved(law.lr.predict(given), math.exp((slope or 0.0) * away))
        found |= _limits("lr", lr) | {"lr": lr.value}
        found |= _regret(law, given, away if batch is not None else None)
        found |= _divergence(law.edge, {**given, **_known(batch=found["batch_tokens"])}, lr.value)
    if law.loss is not None:
        value, low, high = (float(part) for part in law.loss.predict(given["params"], given["tokens"]))
        found |= {"loss": value, "loss_low": _finite(low), "loss_high": _finite(high)}
    beyond = _beyond(law, given)
    recipe = {name: law.conditions[name] for name in RECIPE if name in law.conditions}
    return Prediction(
        **found,
        beyond=beyond,
        recipe=recipe,
        conditions={name: value for name, value in law.conditions.items() if name not in recipe},
        fitted={part.response: part.counts for part in (law.lr, law.batch) if part is not None},
        warnings=_warnings(law, found, beyond, recipe),
    )


def _require_covered(law: Law, given: Mapping[str, float]) -> None:
    """Require every input that the law's parts need, and none that the runs behind it cannot speak of."""
    needs = {name: None for part in (law.lr, law.batch) if part is not None for name in part.regressors}
    needs |= {"params": None, "tokens": None} if law.loss is not None else {}
    lacking = [name for name in needs if name not in given]
    require(not lacking, f"law {law.name} needs {' and '.join(lacking)}: add {' '.join(map(option, lacking))}")
    known = {*needs, *law.fixed, *({"batch"} if law.batch is not None else ())}
    for name, value in given.items():
        told = ", ".join(sorted(known))
        require(name in known, f"law {law.name} says nothing of {name}: leave {option(name)} out (it knows {told})")
        if name in needs or name not in law.fixed:
            continue
        only = law.fixed[name]
        require(
            max(value / only, only / value) <= _SAME,
            f"all runs behind law {law.name} had {name}={only:.6g}, so it does not cover {value:.6g}: run a sweep over "
            f"{name}, or leave {option(name)} out",
        )


def _limits(name: str, found: Estimate) -> dict[str, Any]:
    """Limits of an estimate; None where they are unbounded."""
    return {
        f"{name}_low": _finite(found.low),
        f"{name}_high": _finite(found.high),
        f"{name}_mean": (_finite(found.mean_low), _finite(found.mean_high)),
    }


def _moved(found: Estimate, factor: float) -> Estimate:
    return Estimate(*(factor * value for value in vars(found).values()))


def _regret(law: Law, given: Mapping[str, float], away: float | None) -> dict[str, float]:
    """The expected regret of the module's formulas with its range; `away` is ln B - ln B* of a given batch.

    Empty where there is no curvature, or no prediction is bounded.
    """
    penalty = law.penalty
    if penalty is None or law.lr is None or not law.lr.nodes or (law.batch is not None and not law.batch.nodes):
        return {}
    own = _quadratic(law.lr, given, penalty.lr, 0.0, 0)
    if law.batch is None or penalty.batch is None:
        parts = [own]
    elif away is None:
        parts = [own, _quadratic(law.batch, given, penalty.batch, 0.0, 1)]
    else:
        assert penalty.valley_batch is not None
        parts = [own, _quadratic(law.batch, given, max(penalty.valley_batch, 0.0), away, 1)]
    expected = sum(mean for mean, _ in parts)
    low, high = np.quantile(sum(drawn_D for _, drawn_D in parts), (0.05, 0.95))
    if not math.isfinite(expected):
        return {}
    return {"regret": expected, "regret_low": float(low), "regret_high": float(high)}


def _quadratic(
    part: PowerLaw, given: Mapping[str, float], curvature: float, away: float, seed: int
) -> tuple[float, np.ndarray]:
    """(mean, draws) of `curvature / 2 (away + d)^2`, d what the optimum of one new cell is off the law."""
    off_D = part.sample(given, _DRAWS, seed) - math.log(part.predict(given).value)
    return curvature / 2 * (away**2 + part.variance(given)), curvature / 2 * (away + off_D) ** 2


def _divergence(edge: PowerLaw | None, at: Mapping[str, float], lr: float) -> dict[str, float | None]:
    """The rate above which runs diverge, and the probability that a rate lies above it; empty where nobody knows."""
    if edge is None or not all(name in at for name in edge.regressors):
        return {}
    found, variance = edge.predict({name: at[name] for name in edge.regressors}), edge.scatter
    if not math.isfinite(variance):
        return {}
    away = math.log(lr / found.value)
    share = 0.5 * math.erfc(-away / math.sqrt(2 * variance)) if variance > 0 else float(away > 0)
    limits = _limits("edge", found)
    return {"edge": found.value, "edge_low": limits["edge_low"], "edge_high": limits["edge_high"], "diverge": share}


def _known(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _beyond(law: Law, given: Mapping[str, float]) -> dict[str, float]:
    """Times outside the fitted range, of every input that a part of the law uses."""
    found: dict[str, float] = {}
    for part in (law.lr, law.batch):
        if isinstance(part, PowerLaw):
            for name, times in part.extrapolation(given).items():
                found[name] = max(found.get(name, 1.0), times)
    if law.loss is not None:
        for name, ends in ((name, ends) for name, ends in law.loss.ranges.items() if name in given):
            found[name] = max(found.get(name, 1.0), given[name] / ends.high, ends.low / given[name])
    return found


def _warnings(
    law: Law, found: Mapping[str, Any], beyond: Mapping[str, float], recipe: Mapping[str, Any]
) -> tuple[str, ...]:
    lines = [
        f"{name} lies {times:.3g} times outside the fitted runs: beyond {FAR:g} times nobody knows"
        for name, times in beyond.items()
        if times > FAR
    ]
    for part in (law.lr, law.batch):
        if part is not None and not part.nodes:
            lines.append(f"the runs bound no prediction of the {part.response}: no interval")
    if law.loss is not None and law.loss.status != "ok":
        lines.append(f"the loss law is {law.loss.status}: {'; '.join(law.loss.flags)}")
    for rival in law.rivals:
        if rival.outside:
            words = ", ".join(rival.outside)
            lines.append(f"{rival.words} puts the {rival.response}'s exponent of {words} elsewhere")
    if found.get("lr") is not None and not recipe:
        lines.append("the source does not tell schedule, warm-up or weight decay: keep those of its runs")
    return tuple(lines)


def _finite(value: float) -> float | None:
    """None for what is unbounded: JSON has no infinity, and a rate of 0 is no bound."""
    return value if math.isfinite(value) and value > 0 else None
