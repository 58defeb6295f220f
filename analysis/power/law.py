"""A power law of the best learning rate or batch: its numbers, its predictions, and its JSON.

    ln y = c_0 + sum_i b_i (ln x_i - m_i)

y the peak learning rate or the batch in tokens, x_i parameters, tokens and perhaps batch tokens, m_i the mean of ln x_i
over the cells fitted.  What is unknown about c_0, b and the two variances (between sizes and between cells) is a
mixture of at most some dozens of normals, the nodes (`analysis.power.reml`): at x each has a mean of ln y, a variance
of that mean, and the variance of a new size's own deviation.  Intervals are quantiles of the mixture.

numpy only: a prediction does not wait for scipy or pandas.  Suffixes: K nodes, P coefficients (constant first), X
places.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.check import require

SCHEMA = 2
_HALVINGS = 60


@dataclass(frozen=True)
class Estimate:
    """A prediction: its value, the confidence interval of the law's mean there, and the prediction interval of the
    optimum of one new cell of a new size.  Unbounded ends are 0 and inf."""

    value: float
    mean_low: float
    mean_high: float
    low: float
    high: float


@dataclass(frozen=True)
class Exponent:
    """An exponent with its intervals.

    `low`, `high` (95 %) and `low80`, `high80`: cluster-robust over sizes (CR2), Student's t with `freedom` degrees of
    freedom after Bell and McCaffrey; None where the sizes are too few for one.  `percentile`: the 2.5 and 97.5 % points
    of the cluster bootstrap, uncorrected; `optimistic`: as if cells were independent.
    """

    value: float
    low: float | None
    high: float | None
    low80: float | None
    high80: float | None
    freedom: float | None
    percentile: tuple[float, float] | None
    optimistic: tuple[float, float] | None


@dataclass(frozen=True)
class Curvature:
    """Coefficient of (ln N - mean)^2 added to the law, with its 95 % interval: upward where above 0."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Node:
    """One normal of the mixture: its weight, coefficients, their covariance, and the variance of a new size's cell."""

    weight: float
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    variance: float


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law; see the module.

    `coefficients` holds c_0 and the exponents, `covariance` their cluster-robust covariance (CR2).  `between` and
    `within` are the standard deviations of ln y between sizes and between cells of a size (REML), beyond the known
    error of the cells.  `nodes` is empty where the data bound no prediction: then every interval is (0, inf).
    `cells` counts the optima that are fitted (of near-optimal: runs) and `bounds` the cells of which only a bound is
    known; `edges` says what became of these: `drop`, left out; `censor`, entered as bounds; `keep`, counted among the
    optima.  `draws` are coefficients of laws refitted to resampled sizes.  `ranges` holds the least and the largest x
    of the cells, `condition` the condition number of the standardised regressors.
    """

    response: str
    regressors: tuple[str, ...]
    centre: tuple[float, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    intervals: tuple[Exponent, ...]
    between: float
    within: float
    nodes: tuple[Node, ...]
    draws: tuple[tuple[float, ...], ...]
    ranges: tuple[tuple[str, float, float], ...]
    cells: int
    sizes: int
    weights: str
    bounds: int = 0
    edges: str = "drop"
    estimator: str = ""
    condition: float = 1.0
    curvature: Curvature | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The formula and its counts: nodes and draws are thousands of numbers."""
        powers = " ".join(f"{name}^{value:.4f}" for name, value in self.exponents.items())
        return f"PowerLaw({self.response} = {self.coefficient:.6g} {powers}; {self.counts})".replace(" ;", ";")

    @property
    def counts(self) -> str:
        """How many optima and bounds the law is about, and what became of the bounds."""
        if self.edges == "keep":
            return f"{self.cells} runs, {self.bounds} of them of cells at an edge, kept as optima"
        what = {"drop": "left out", "censor": "entered as bounds"}[self.edges]
        optima = f"{self.cells} optimum" if self.cells == 1 else f"{self.cells} optima"
        bounds = f"{self.bounds} bound" if self.bounds == 1 else f"{self.bounds} bounds"
        return f"{optima}, {bounds}" + (f" {what}" if self.bounds else "")

    @property
    def coefficient(self) -> float:
        """The constant k of `y = k prod_i x_i^b_i`: exp(c_0 - b . m), at most e^700 and at least e^-700."""
        shift = sum(b * m for b, m in zip(self.coefficients[1:], self.centre, strict=True))
        return math.exp(min(max(self.coefficients[0] - shift, -700.0), 700.0))

    @property
    def exponents(self) -> dict[str, float]:
        """Exponent of each regressor by its name."""
        return dict(zip(self.regressors, self.coefficients[1:], strict=True))

    @property
    def tau(self) -> float:
        """Standard deviation of ln y of one cell of a new size around the law: both variances together."""
        return math.hypot(self.between, self.within)

    def interval(self, name: str) -> Exponent:
        """The exponent of a regressor with its intervals."""
        return self.intervals[self._place(name)]

    def predict(self, at: Mapping[str, float], level: float = 0.95, error: float = 0.0) -> Estimate:
        """The law at `at` = {"params": N, "tokens": D, ...}; regressors that the law lacks are ignored.

        `error` is the variance with which ln y would be measured there: 0 for the optimum itself.

        Raises:
            InputError: a regressor is missing or not above 0, or the level is not between 0 and 1.
        """
        require(0 < level < 1, f"level={level} is not between 0 and 1: write 0.95 for 95 %")
        x_P = self.row(at)
        value = math.exp(float(x_P @ np.array(self.coefficients)))
        if not self.nodes:
            return Estimate(value, 0.0, math.inf, 0.0, math.inf)
        weight_K, middle_K, own_K, new_K = self._mixture(x_P)
        tail = (1 - level) / 2
        ends = [
            math.exp(min(max(mixture_quantile(share, weight_K, middle_K, np.sqrt(variance_K)), -700.0), 700.0))
            for variance_K in (own_K, new_K + error)
            for share in (tail, 1 - tail)
        ]
        return Estimate(value, *ends)

    def log_moments(self, at: Mapping[str, float]) -> tuple[float, float]:
        """Mean of ln y for one cell of a new size, and half of the central 68.3 % of its distribution (the standard
        deviation if it were normal; with few sizes its true one can be infinite)."""
        x_P = self.row(at)
        if not self.nodes:
            return float(x_P @ np.array(self.coefficients)), math.inf
        weight_K, middle_K, _, new_K = self._mixture(x_P)
        low, high = (mixture_quantile(p, weight_K, middle_K, np.sqrt(new_K)) for p in (0.158655, 0.841345))
        return float(weight_K @ middle_K), (high - low) / 2

    def variance(self, at: Mapping[str, float]) -> float:
        """Variance of ln y of one cell of a new size about the prediction, without bias over repeated experiments.

        It is the harmonic mean of the nodes' variances: of a variance known from f squares, whose inverse is
        chi-squared, that mean is the usual estimate for every f.  The mixture's own variance also holds how unsure
        that number is, which is infinite up to two degrees of freedom: right for an interval, and several times the
        mean of what happens.  inf where the data bound no prediction.
        """
        x_P = self.row(at)
        if not self.nodes:
            return math.inf
        weight_K, _, _, new_K = self._mixture(x_P)
        return float(weight_K.sum() / (weight_K @ (1 / np.maximum(new_K, 1e-300))))

    @property
    def scatter(self) -> float:
        """Variance of one cell of a new size about the law's mean, without the error of that mean: the harmonic mean of
        the nodes', see `variance`; inf where the data bound none."""
        weight_K, own_K = (np.array([getattr(node, name) for node in self.nodes]) for name in ("weight", "variance"))
        return float(weight_K.sum() / (weight_K @ (1 / np.maximum(own_K, 1e-300)))) if self.nodes else math.inf

    def sample(self, at: Mapping[str, float], draws: int, seed: int) -> np.ndarray:
        """Draws [draws] of ln y for one cell of a new size; nan where the data bound no prediction."""
        x_P = self.row(at)
        if not self.nodes:
            return np.full(draws, math.nan)
        weight_K, middle_K, _, new_K = self._mixture(x_P)
        ends_K = np.cumsum(weight_K) / weight_K.sum()
        node_D = np.minimum(np.searchsorted(ends_K, (np.arange(draws) + 0.5) / draws), len(ends_K) - 1)
        rng = np.random.default_rng(seed)
        return rng.permutation(middle_K[node_D] + np.sqrt(new_K[node_D]) * rng.standard_normal(draws))

    def extrapolation(self, at: Mapping[str, float]) -> dict[str, float]:
        """How many times beyond the fitted range each regressor lies: 1 within it, 10 ten times above or below."""
        self.row(at)
        return {
            name: max(1.0, float(at[name]) / high, low / float(at[name]))
            for name, low, high in self.ranges
            if name in at
        }

    def to_dict(self) -> dict[str, Any]:
        """The law as plain data for JSON; floats survive exactly."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PowerLaw":
        """The law that `to_dict` gave, also after JSON.

        Raises:
            InputError: the data are of another schema or lack a field.
        """
        schema = data.get("schema")
        require(schema == SCHEMA, f"schema {schema!r} of a power law is not {SCHEMA}: fit it again")
        names = {field.name for field in dataclasses.fields(cls)}
        lacking = sorted(names - set(data))
        require(not lacking, f"a power law lacks {', '.join(lacking)}: fit it again")
        fields: dict[str, Any] = {name: _tuples(data[name]) for name in names}
        fields["intervals"] = tuple(Exponent(**_fields(part)) for part in data["intervals"])
        fields["nodes"] = tuple(Node(**_fields(part)) for part in data["nodes"])
        if data["curvature"] is not None:
            fields["curvature"] = Curvature(**_fields(data["curvature"]))
        return cls(**fields)

    def _place(self, name: str) -> int:
        known = ", ".join(self.regressors) or "a constant only"
        require(name in self.regressors, f"the law of {self.response} has no regressor {name}: it has {known}")
        return self.regressors.index(name)

    def row(self, at: Mapping[str, float]) -> np.ndarray:
        """[P] 1 and the centred logs of the regressors.

        Raises:
            InputError: a regressor is missing or not above 0.
        """
        for name in self.regressors:
            require(name in at, f"the law of {self.response} needs {name}: give {', '.join(self.regressors)}")
        for name, value in at.items():
            sound = isinstance(value, (int, float, np.number)) and math.isfinite(value) and value > 0
            require(sound, f"{name}={value} is not a number above 0")
        logs = (math.log(float(at[name])) for name in self.regressors)
        return np.array([1.0, *(log - m for log, m in zip(logs, self.centre, strict=True))])

    def _mixture(self, x_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each node [K]: weight, mean of ln y, variance of that mean, and of a new cell."""
        weight_K = np.array([node.weight for node in self.nodes])
        middle_K = np.array([node.mean for node in self.nodes]) @ x_P
        own_K = np.einsum("p,kpq,q->k", x_P, np.array([node.covariance for node in self.nodes]), x_P)
        own_K = np.maximum(own_K, 0.0)
        return weight_K, middle_K, own_K, own_K + np.array([node.variance for node in self.nodes])


def mixture_quantile(share: float, weight_K: np.ndarray, middle_K: np.ndarray, sd_K: np.ndarray) -> float:
    """The point below which a mixture of normals has the given share of its mass, by halving."""
    sd_K = np.maximum(sd_K, 1e-15)
    reach = 40 * sd_K
    low, high = float((middle_K - reach).min()), float((middle_K + reach).max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        scaled = ((middle_K - middle) / sd_K * math.sqrt(0.5)).tolist()
        below = sum(w * math.erfc(z) for w, z in zip(weight_K.tolist(), scaled, strict=True)) / 2
        low, high = (middle, high) if below < share else (low, middle)
    return (low + high) / 2


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(part) for part in value)
    return value


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in data.items()}
