"""A fitted loss law: its numbers with intervals, its predictions, the best split of a budget, and its JSON.

The forms stand in `analysis.loss.form`; all are of A N^-alpha, B D^-beta and E, in nats per token, with N in
parameters and D in tokens.  For a budget of C = 6 N D FLOPs (any other constant may be given) the loss is least at

    N* = G (C / 6)^a,  D* = (C / 6)^(1 - a) / G,
    a = beta / (alpha + beta),  G = (alpha A / (beta B))^(1 / (alpha + beta))

(Hoffmann et al., arXiv 2203.15556, Eq. 4); `kaplan`, whose terms are summed after a power 1 / beta, has alpha / beta,
1, A^(1/beta) and B^(1/beta) in their place.  Needs numpy only.

Suffixes of arrays: R draws, Z the five PARAMETERS (E, A, B, alpha, beta).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.loss.misfit import Misfit
from lab.check import require

Status = Literal["ok", "unidentifiable", "not converged", "ill-fitting"]
PARAMETERS = ("E", "A", "B", "alpha", "beta")
TAILS = (2.5, 97.5)  # per cent: every interval is one of 95 %
FLOPS = 6.0  # FLOPs per parameter and token
FARTHEST = math.log(100.0)  # of a limit from the prediction: one farther off bounds nothing


@dataclass(frozen=True)
class Alternative:
    """The optimum at another delta (inf: least squares); what the form lacks is None."""

    delta: float
    E: float | None
    A: float | None
    B: float | None
    alpha: float | None
    beta: float | None
    objective: float


@dataclass(frozen=True)
class Range:
    """Lowest and highest value behind the law."""

    low: float
    high: float


@dataclass(frozen=True)
class LackOfFit:
    """The F test of quadratic terms added to a law (`analysis.loss.adequacy`): F, its degrees of freedom, and `share`,
    the part of the residual variance that the terms explain."""

    statistic: float
    terms: int
    freedom: int
    p: float
    share: float

    @property
    def found(self) -> bool:
        """Whether the law misses more than noise explains: significant, and more than half of what is left."""
        return self.p < 1e-3 and self.share > 0.5

    @property
    def words(self) -> str:
        """The test in a line."""
        return (
            f"F = {self.statistic:.3g} with {self.terms} and {self.freedom} degrees of freedom, p = {self.p:.2g}: "
            f"quadratic terms in ln N and ln D explain {self.share:.0%} of the residual variance"
        )


@dataclass(frozen=True)
class LossLaw:
    """A loss law with everything that says how far to trust it.

    `objective` is the sum of Huber losses of log residuals (`raw`: of residuals in nats) at `delta` (0: of absolute
    deviations; inf: half the squares).  `status` is "ok" only where the search converged, the data determine the
    numbers and the law does not lack fit; `flags` say in words what is wrong or was left out.  `agreeing` of `starts`
    starts ended within 1e-6 of the objective.  `condition` is that of J'J over all rows in centred logs and columns of
    unit length.  `profile` holds 95 % limits of E, alpha and beta from refits with that number fixed (None: open on
    that side).  `spread` are the 2.5 % and 97.5 % quantiles of ln measured - ln predicted.  `draws` [R, Z] are
    PARAMETERS refitted to resamples, of what says `resampling`; there are none where the data do not determine the
    numbers, since refits from one start would agree for no reason; `failed` more did not converge, and count as lying
    beyond either limit.  `misfit` is what intervals of predictions rest on, and `lack_of_fit` tells whether the form is
    right; None of a law of version 0.1.0, or without degrees of freedom.
    A number that the form lacks is None.
    """

    form: str
    E: float | None
    A: float | None
    B: float | None
    alpha: float | None
    beta: float | None
    delta: float
    objective: float
    converged: bool
    status: Status
    flags: tuple[str, ...]
    condition: float
    starts: int
    agreeing: int
    rows: int
    spread: tuple[float, float]
    ranges: Mapping[str, Range]
    sensitivity: tuple[Alternative, ...]
    profile: Mapping[str, tuple[float | None, float | None]]
    resampling: str
    draws: tuple[tuple[float | None, ...], ...]
    over: float = 1.0
    fixed_E: float | None = None
    raw: bool = False
    failed: int = 0
    misfit: Misfit | None = None
    lack_of_fit: LackOfFit | None = None

    def __repr__(self) -> str:
        """Form, status and numbers: draws and limits are thousands of them."""
        told = ", ".join(f"{name} {value:.5g}" for name, value in self.values().items() if value is not None)
        return f"LossLaw({self.form}, {self.status}: {told}; {self.rows} rows)"

    def values(self) -> dict[str, float | None]:
        """The PARAMETERS by name."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def predict(self, params: Any, tokens: Any, noise: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(loss, low, high) of runs with N = `params` and D = `tokens`, which broadcast; in nats per token.

        The 95 % limits are those of a new run.  They are the outer ones of two: those of `analysis.loss.misfit`, which
        hold what the law misses and exist wherever the runs determine the prediction, whether or not they determine
        every number; and, where there are draws, the distances to their percentiles and to `spread`, added in
        quadrature in log loss, resamples that failed being at the farthest of the others.  nan: not bounded.
        `noise=False` gives limits of the law itself, over the draws.

        Raises:
            InputError: where a size or a number of tokens is not above 0.
        """
        params, tokens = np.asarray(params, float), np.asarray(tokens, float)
        for name, given in (("params", params), ("tokens", tokens)):
            require(bool(np.all(given > 0)), f"{name}={given.min() if given.size else given} is not above 0")
        params, tokens = np.broadcast_arrays(params, tokens)
        value = loss(self.form, _vector(self.values()), params, tokens)
        low = high = np.full(value.shape, np.nan)
        drawn = self._drawn(lambda one_Z: loss(self.form, one_Z, params[..., None], tokens[..., None]))
        if drawn is not None:
            low, high = (np.log(part / value) for part in self._tails(drawn, drawn.min(axis=-1), drawn.max(axis=-1)))
            if noise:
                low = -np.hypot(np.minimum(low, 0), min(self.spread[0], 0))
                high = np.hypot(np.maximum(high, 0), max(self.spread[1], 0))
        if noise and self.misfit is not None:
            limits = self.misfit.limits(self.form, self.values(), params.ravel(), tokens.ravel())
            first, last = (part.reshape(value.shape) for part in limits)
            low, high = np.fmin(low, first), np.fmax(high, last)
        low, high = (np.where(np.abs(part) > FARTHEST, np.nan, part) for part in (low, high))
        return value, value * np.exp(low), value * np.exp(high)

    def interval(self, name: str) -> tuple[float, float]:
        """95 % percentile limits over the draws of a PARAMETER, or of "a", the budget's exponent of N; nan without."""
        require(name in (*PARAMETERS, "a"), f"name={name} is not one of {', '.join(PARAMETERS)}, a")
        if name == "a":
            drawn = self._drawn(lambda one_Z: one_Z[4] / (one_Z[3] + one_Z[4]))
        else:
            drawn = self._drawn(lambda one_Z: one_Z[PARAMETERS.index(name)])
        if drawn is None or np.isnan(drawn).any():
            return math.nan, math.nan
        low, high = self._tails(drawn, -math.inf, math.inf)
        return float(low), float(high)

    @property
    def params_exponent(self) -> float:
        """a of N* = G (C / 6)^a: beta / (alpha + beta); that of D* is 1 - a."""
        values_Z = self._split()
        return float(values_Z[4] / (values_Z[3] + values_Z[4]))

    def best_params(self, flops: Any, per_token: float = FLOPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N*, low, high) for budgets of `flops` = `per_token` N D, with 95 % limits over the draws."""
        return self._best(flops, per_token, best_params)

    def best_tokens(self, flops: Any, per_token: float = FLOPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(D*, low, high) for budgets of `flops` = `per_token` N D, with 95 % limits over the draws."""
        return self._best(flops, per_token, lambda form, one_Z, product: product / best_params(form, one_Z, product))

    def extrapolation(self, params: float, tokens: float) -> dict[str, float]:
        """How far N and D lie outside the law's range, as a factor (1: inside)."""
        places = {"params": params, "tokens": tokens}
        return {
            name: max(1.0, self.ranges[name].low / place, place / self.ranges[name].high)
            for name, place in places.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps exactly; infinite ones as the text "inf"."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "LossLaw":
        """The law of `to_dict`, also after a passage through JSON.

        Raises:
            InputError: where a field is missing or unknown.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        later = ("raw", "failed", "misfit", "lack_of_fit")  # than version 0.1.0
        missing = [name for name in names if name not in stored and name not in later]
        require(not missing, f"the loss law lacks {', '.join(missing)}: write it again with to_dict")
        unknown = [name for name in stored if name not in names]
        require(not unknown, f"the loss law has unknown fields {', '.join(unknown)}: take them out")
        found = {name: _restored(stored[name]) for name in names if name in stored}
        found["ranges"] = {name: Range(**one) for name, one in found["ranges"].items()}
        found["sensitivity"] = tuple(Alternative(**one) for one in found["sensitivity"])
        for name, kind in (("misfit", Misfit), ("lack_of_fit", LackOfFit)):
            if found.get(name) is not None:
                found[name] = kind(**found[name])
        return cls(**found)

    def _split(self) -> np.ndarray:
        """The PARAMETERS, refused where the form has no two exponents."""
        both = self.alpha is not None and self.beta is not None
        require(both, f"form={self.form} has one exponent only, so no budget can be split: fit form=chinchilla")
        return _vector(self.values())

    def _best(
        self, flops: Any, per_token: float, of: Callable[..., np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values_Z = self._split()
        product = np.asarray(flops, float) / per_token
        require(bool(np.all(product > 0)), f"flops={np.min(product) * per_token} is not above 0")
        drawn = self._drawn(lambda one_Z: of(self.form, one_Z, product[..., None]))
        value = of(self.form, values_Z, product)
        if drawn is None:
            return value, np.full(value.shape, np.nan), np.full(value.shape, np.nan)
        low, high = self._tails(drawn, 0.0, math.inf)
        return value, low, high

    def _tails(self, drawn: np.ndarray, least: Any, most: Any) -> tuple[np.ndarray, np.ndarray]:
        """95 % percentile limits over the last axis; failed draws lie at `least` for one, `most` for the other."""
        if not self.failed:
            low, high = np.percentile(drawn, TAILS, axis=-1)
            return low, high
        beyond = np.ones((*drawn.shape[:-1], self.failed))
        below, above = (np.asarray(end)[..., None] * beyond for end in (least, most))
        low = np.percentile(np.concatenate([drawn, below], axis=-1), TAILS[0], axis=-1, method="lower")
        high = np.percentile(np.concatenate([drawn, above], axis=-1), TAILS[1], axis=-1, method="higher")
        return low, high

    def _drawn(self, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        """`of` the draws, whose PARAMETERS it receives as [Z, R]; None where there are none."""
        if not self.draws:
            return None
        return of(np.array(self.draws, dtype=float).T)


def loss(form: str, values_Z: np.ndarray, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The loss of a form with PARAMETERS `values_Z` (nan: the form lacks it), nats per token."""
    e, a, b, alpha, beta = values_Z
    of_params = np.log(a) - alpha * np.log(params)
    of_tokens = np.log(b) - beta * np.log(tokens)
    if form == "kaplan":
        return np.exp(beta * np.logaddexp(of_params / beta, of_tokens / beta))
    if form == "tokens":
        return e + np.exp(of_tokens)
    if form == "params":
        return e + np.exp(of_params)
    return e + np.exp(of_params) + np.exp(of_tokens)


def best_params(form: str, values_Z: np.ndarray, product: np.ndarray) -> np.ndarray:
    """N* where N D is `product`."""
    _, a, b, alpha, beta = values_Z
    tau = beta if form == "kaplan" else np.ones_like(beta)
    log_g = (np.log(alpha / beta) + (np.log(a) - np.log(b)) / tau) * tau / (alpha + beta)
    return np.exp(log_g + beta / (alpha + beta) * np.log(product))


def _vector(values: Mapping[str, float | None]) -> np.ndarray:
    """[Z] PARAMETERS, nan for None."""
    return np.array([values[name] for name in PARAMETERS], dtype=float)


def _plain(value: Any) -> Any:
    """Tuples as lists, infinities as text."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _restored(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, Mapping):
        return {name: _restored(part) for name, part in value.items()}
    if isinstance(value, list):
        return tuple(_restored(part) for part in value)
    return float(value) if value in ("inf", "-inf", "nan") else value
