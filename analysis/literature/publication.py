"""A published law of the learning rate or the batch: its formulas, what they need, and the conditions they hold under.

A law answers in the project's units: rates are peak rates, batches tokens per update, whatever unit the authors have.
Most formulas are products of powers, `scale * coefficient * prod_i (x_i / unit_i)^exponent_i`, kept with the authors'
own digits and units, so that a printed constant can be compared with its source.  Natural logarithms throughout.

The laws themselves stand in `analysis.literature.publications`.  Only the standard library is imported, so a law
answers at once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lab.check import InputError, nearest, require

# verified: checked against the authors' numbers or public data; printed: read in the cited paper or code; second-hand:
# quoted by somebody else; inferred: a unit or a constant is our reading; unresolved: constants not obtained.
Evidence = Literal["verified", "printed", "second-hand", "inferred", "unresolved"]
UNKNOWN = "not confirmed"
STEP_TABLE = "Step Law (arXiv 2503.04715), Table 1"  # quotes others, and misquotes them
FAR = 10.0  # times beyond a fit's range from which a number deserves a warning

# What a law may ask for, with its unit; the option of the command line is the name with dashes.
INPUTS: dict[str, str] = {
    "params": "parameters N, counted as the law counts them",
    "tokens": "tokens D that the run sees",
    "batch": "tokens per update",
    "width": "hidden width",
    "depth": "layers",
    "sequence": "tokens per sequence",
    "loss": "loss in nats per token",
    "flops_per_token": "non-embedding FLOPs per token, M",
    "lr": "peak learning rate",
    "trained": "tokens already trained",
    "base_lr": "best peak rate measured at the base run",
    "base_params": "parameters of the base run",
    "base_tokens": "tokens of the base run",
    "base_batch": "tokens per update of the base run",
}
WORDS = {
    "lr": "learning rate",
    "batch": "batch",
    "tau": "AdamW timescale tau",
    "weight_decay": "weight decay",
    "critical_batch": "critical batch",
    "adam_lr": "learning rate of the leaves under Adam",
    "scheduled_lr": "rate of a schedule",
}


@dataclass(frozen=True)
class Product:
    """`scale * coefficient * prod_i (x_i / unit_i)^exponent_i`, at most `cap`; units are 1 unless given."""

    coefficient: float
    exponents: tuple[tuple[str, float], ...] = ()
    units: tuple[tuple[str, float], ...] = ()
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, inputs: Mapping[str, float]) -> float:
        """The value at inputs that hold every name of `exponents`."""
        units = dict(self.units)
        value = self.scale * self.coefficient
        for name, exponent in self.exponents:
            value *= (inputs[name] / units.get(name, 1.0)) ** exponent
        return value if self.cap is None else min(value, self.cap)

    def raw(self) -> tuple[float, dict[str, float]]:
        """(coefficient, exponents) with the units multiplied out: inputs as `INPUTS` has them; without the cap."""
        units = dict(self.units)
        coefficient = self.scale * self.coefficient
        for name, exponent in self.exponents:
            coefficient /= units.get(name, 1.0) ** exponent
        return coefficient, dict(self.exponents)


@dataclass(frozen=True)
class Formula:
    """One quantity of a law: the formula as text, and its function of a mapping of inputs.

    `usable` is (input, warn above, refuse above) where a formula loses its sense.
    """

    text: str
    value: Callable[[Mapping[str, float]], float]
    evidence: Evidence
    source: str
    other_needs: tuple[str, ...] = ()  # of a function that is no `Product`
    usable: tuple[str, float, float] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the inputs it cannot do without."""
        if isinstance(self.value, Product):
            return tuple(name for name, _ in self.value.exponents)
        return self.other_needs


@dataclass(frozen=True)
class Conditions:
    """What a law's numbers mean and how its runs were trained, in words."""

    params: str = UNKNOWN
    tokens: str = "tokens seen in the run"
    batch: str = UNKNOWN
    batch_rule: str = UNKNOWN  # how the batch moved while the rate was optimised
    optimizer: str = UNKNOWN
    schedule: str = UNKNOWN
    final_lr: str = UNKNOWN
    warmup: str = UNKNOWN
    weight_decay: str = UNKNOWN  # with its kind: coupled to the rate, or independent
    beta2: str = UNKNOWN
    parametrization: str = UNKNOWN

    @property
    def short(self) -> str:
        """Schedule, parametrization and what the batch did, where known."""
        parts = (self.schedule, self.parametrization, self.batch_rule)
        return "; ".join(part for part in parts if part != UNKNOWN) or UNKNOWN


@dataclass(frozen=True)
class Misprint:
    """What is printed, what is right (or what is known about it), and where it is printed."""

    printed: str
    right: str
    where: str


@dataclass(frozen=True)
class Beyond:
    """An input outside the range of a law's fit, `low` .. `high`; `factor` is how many times outside."""

    name: str
    value: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        return max(self.low / self.value, self.value / self.high)

    def __str__(self) -> str:
        ends = f"{self.low:.3g} .. {self.high:.3g}"
        return f"{self.name} {self.value:.4g} is {self.factor:.3g} times outside the fit, {ends}"


@dataclass(frozen=True)
class Publication:
    """A published law: `formulas` by quantity (`WORDS`), `ranges` of the fit by input (or `flops`, tokens times M).

    `variant_of` names the law of which these are other constants: rounded, unrounded, or those of another table.
    """

    name: str
    title: str
    source: str
    formulas: Mapping[str, Formula]
    conditions: Conditions
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    misprints: tuple[Misprint, ...] = ()
    remarks: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    variant_of: str | None = None

    @property
    def law(self) -> str:
        """The law that the constants belong to: rounded and unrounded ones of one law are not two."""
        return self.variant_of or self.name

    def lr(self, **inputs: float | None) -> float:
        """Peak learning rate.  Inputs by name (`INPUTS`); None counts as not given, names it does not need are ignored.

        Raises:
            InputError: an input is missing, unknown or not above 0, or the law has no rate there.
        """
        return self.value("lr", **inputs)

    def batch(self, **inputs: float | None) -> float:
        """Batch in tokens per update; inputs and errors as `lr`."""
        return self.value("batch", **inputs)

    def value(self, quantity: str, /, **inputs: float | None) -> float:
        """Any of the law's quantities (`formulas`); inputs and errors as `lr`."""
        given, _ = completed(_checked(inputs), self._needs(quantity))
        lacking = [name for name in self._needs(quantity) if name not in given]
        options = " ".join(option(name) for name in lacking)
        require(not lacking, f"law {self.name} needs {' and '.join(lacking)}: add {options}")
        formula = self.formulas[quantity]
        if formula.usable:
            name, _, last = formula.usable
            require(
                given[name] <= last,
                f"law {self.name} has no {WORDS[quantity]} at {name}={given[name]:.4g}: "
                f"the formula is negative above {last:.5g}; use another law",
            )
        return float(formula.value(given))

    def missing(self, quantity: str, /, **inputs: float | None) -> tuple[str, ...]:
        """Names of inputs that the quantity needs and that are not given."""
        given, _ = completed(_checked(inputs), self._needs(quantity))
        return tuple(name for name in self._needs(quantity) if name not in given)

    def extrapolation(self, **inputs: float | None) -> tuple[Beyond, ...]:
        """Inputs outside the range of the fit, the farthest first; nothing where the range is unknown."""
        given, _ = completed(_checked(inputs), ("flops_per_token",) if "flops" in self.ranges else ())
        if "flops_per_token" in given and "tokens" in given:
            given["flops"] = given["flops_per_token"] * given["tokens"]
        found = [Beyond(name, given[name], *ends) for name, ends in self.ranges.items() if name in given]
        return tuple(sorted((one for one in found if one.factor > 1), key=lambda one: -one.factor))

    def warnings(self, quantity: str = "lr", /, **inputs: float | None) -> tuple[str, ...]:
        """Lines to print beside an answer: inputs that stand in for others, limits near, extrapolation beyond `FAR`."""
        given, lines = completed(_checked(inputs), self._needs(quantity))
        if formula := self.formulas.get(quantity):
            name, first, last = formula.usable or ("", 0.0, 0.0)
            if given.get(name, 0.0) > first:
                lines += (
                    f"{name} {given[name]:.4g} is above {first:.3g}: the {WORDS[quantity]} reaches 0 at {last:.5g}",
                )
        return lines + tuple(str(one) for one in self.extrapolation(**inputs) if one.factor > FAR)

    def summary(self) -> dict[str, Any]:
        """The law as plain data for JSON; coefficients of power products with all units multiplied out."""
        formulas: dict[str, Any] = {}
        for quantity, formula in self.formulas.items():
            formulas[quantity] = {
                "formula": formula.text,
                "needs": list(formula.needs),
                "evidence": formula.evidence,
                "source": formula.source,
            }
            if isinstance(formula.value, Product):
                coefficient, exponents = formula.value.raw()
                formulas[quantity] |= {"coefficient": coefficient, "exponents": exponents, "cap": formula.value.cap}
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "title": self.title,
            "source": self.source,
            "formulas": formulas,
            "conditions": vars(self.conditions),
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "misprints": [vars(one) for one in self.misprints],
            "remarks": list(self.remarks),
        }

    def _needs(self, quantity: str) -> tuple[str, ...]:
        has = ", ".join(WORDS[name] for name in self.formulas)
        require(
            quantity in self.formulas,
            f"law {self.name} has no {WORDS.get(quantity, quantity)}: "
            + (f"it gives {has}" if has else "its constants are not published here; use another law"),
        )
        return self.formulas[quantity].needs


def completed(given: Mapping[str, float], needs: tuple[str, ...]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Inputs with `flops_per_token` filled in where it is needed and follows from others, and lines that say so.

    M = 72 L d^2 + 12 L d s (arXiv 2401.02954) for the standard block of feed-forward width 4 d; without a shape 6 N
    stands in, which leaves attention out (1.5 % of the rate at a billion parameters and sequences of 2048).
    """
    found = dict(given)
    if "flops_per_token" not in needs or "flops_per_token" in found:
        return found, ()
    if all(name in found for name in ("width", "depth", "sequence")):
        width, depth, sequence = found["width"], found["depth"], found["sequence"]
        found["flops_per_token"] = 72 * depth * width**2 + 12 * depth * width * sequence
        return found, ()
    if "params" in found:
        found["flops_per_token"] = 6 * found["params"]
        return found, (
            "FLOPs per token are 6 N: give --flops-per-token, or --width, --depth and --sequence, for the law's own M",
        )
    return found, ()


def option(name: str) -> str:
    """The command line's option for an input."""
    return "--" + name.replace("_", "-")


def published(name: str) -> Publication:
    """The law of that name or alias, dashes as underscores.

    Raises:
        InputError: no such law; the line names the nearest.
    """
    known = {word: law for law in publications() for word in (law.name, *law.aliases)}
    word = str(name).lower().replace("-", "_").replace(" ", "_")
    if word not in known:
        raise InputError(f"{name} is not a published law{nearest(word, known)}; lrlab laws lists them")
    return known[word]


def publications() -> tuple[Publication, ...]:
    """Every published law, in the order of the documentation."""
    from analysis.literature.publications import TABLE

    return TABLE


def _checked(inputs: Mapping[str, float | None]) -> dict[str, float]:
    """The inputs that are given; above 0 and finite, known by name."""
    found: dict[str, float] = {}
    for name, value in inputs.items():
        if name not in INPUTS:  # the nearest word takes a while to find
            raise InputError(f"{name} is not an input of a published law{nearest(name, INPUTS)}")
        if value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        require(math.isfinite(number) and number > 0, f"{name}={value} is not a number above 0")
        found[name] = number
    return found
