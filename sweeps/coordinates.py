"""Coordinate checks: train small models of several sizes for a few updates, and judge how their activations grow.

`whole` judges a parametrization: how the change of every activation, the updates and the gradients grow with the size,
at a rate near the tuned one.  `ablation` judges one rule that is off: its statistic's slope, in the configuration that
identifies the rule, against that of the whole parametrization in the same configuration.

A verdict is on the slope's 95 % interval, never on the estimate alone: `pass` where it lies within the tolerance of
what is expected, `FAIL` where it lies outside of it altogether, `undecided` where it does neither.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis import figure
from analysis.slope import Slope, slope
from lab import corpus, disk
from lab.check import require
from lab.config import RunConfig
from lab.coordinates import trajectories
from lab.override import apply
from lab.parametrization import TABLE
from sweeps import expectation
from sweeps.identification import NONZERO, Identification, exponent, identification
from sweeps.sweep import check_fits

WIDTHS = (16, 32, 64, 256)
DEPTHS = (2, 4, 8, 16, 32)
# Rates near the optimum of these models at their base shape, per optimizer.
RATES = {"adamw": 2.0**-6, "adam": 2.0**-6, "sgd": 2.0**-2, "adafactor": 2.0**-4, "lion": 2.0**-8, "muon": 2.0**-5}
# A slope passes within this distance of what is expected; finite widths bend the slopes of correct rules.
TOLERANCE = 0.2
HEAD_DIM = 8
# An ablated rule is seen where its slope differs from the whole parametrization's by this much.
CONTRAST = 0.2
Judged = Literal["pass", "FAIL", "undecided"]
STATUS = {"pass": 0, "FAIL": 1, "undecided": 3}  # exit statuses; 2 is bad input
# Judged or drawn by any check: one set, so that checks share their programs.
KINDS = ("value", "change", "update", "gradient")
ACTIVATIONS = ("embedding", "attention_logits", "attention", "mlp", "residual", "logits")


@dataclass(frozen=True)
class Check:
    """What to check; the first size is the base."""

    name: str = "mup"
    axis: Literal["width", "depth"] = "width"
    sizes: tuple[int, ...] = WIDTHS
    steps: int = 6
    seeds: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(len(set(self.sizes)) >= 3, f"{self.axis}s {list(self.sizes)}: a slope needs at least three sizes")
        require(
            list(self.sizes) == sorted(set(self.sizes)) and self.sizes[0] > 0,
            f"{self.axis}s {list(self.sizes)} are not in growing order",
        )
        require(self.steps >= 2, f"--steps {self.steps}: a check needs at least 2 updates")
        require(self.seeds >= 1, f"--seeds {self.seeds}: a check needs at least 1 seed")


@dataclass(frozen=True)
class Row:
    """One judged statistic: its slope over the sizes, what is expected, and the verdict.

    Of an ablated rule, `expected` is the slope with the rule and `predicted` what the table says without it.
    """

    statistic: str
    when: str
    found: Slope
    expected: float
    verdict: Judged
    note: str = ""
    predicted: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The judged rows of a check, and the curves behind them: statistic -> [sizes, seeds, steps + 1]."""

    title: str
    check: Check
    rows: tuple[Row, ...]
    curves: Mapping[str, np.ndarray]

    @property
    def verdict(self) -> Judged:
        """That of the rows: one that fails, else one that is open, decides."""
        rows = {row.verdict for row in self.rows}
        return "FAIL" if "FAIL" in rows else "undecided" if "undecided" in rows else "pass"

    def expected(self) -> dict[str, tuple[float, ...]]:
        """The expected slopes of every curve that has one."""
        found: dict[str, tuple[float, ...]] = {}
        for row in self.rows:
            for name in self.curves:
                if name.split(" (")[0] == row.statistic:
                    found[name] = (row.expected,) if row.predicted is None else (row.expected, row.predicted)
        return found

    def summary(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "axis": self.check.axis,
            "sizes": list(self.check.sizes),
            "verdict": self.verdict,
            "rows": [
                {
                    "statistic": row.statistic,
                    "when": row.when,
                    "slope": row.found.value,
                    "low": row.found.low,
                    "high": row.found.high,
                    "expected": row.expected,
                    "predicted": row.predicted,
                    "verdict": row.verdict,
                    "note": row.note,
                }
                for row in self.rows
            ],
        }


def whole(check: Check) -> Verdict:
    """Judge a parametrization (`wholes`)."""
    return wholes(check, [check.name])[0]


def wholes(check: Check, names: Sequence[str]) -> list[Verdict]:
    """Judge parametrizations: every slope against what their exponents say (`sweeps.expectation`).

    Activations by their change since initialisation, as its geometric mean over the updates from the second on; one
    leaf of each role by its first update and by its gradient before it, from a readout that does not start at zero.

    Raises:
        InputError: settings that do not go together.
    """
    variants = [start | {"parametrization.name": name} for name in names for start in (_start(check, name), NONZERO)]
    curves = measure(check, variants)
    return [
        _whole(dataclasses.replace(check, name=name), *curves[2 * number : 2 * number + 2])
        for number, name in enumerate(names)
    ]


def _start(check: Check, name: str) -> dict[str, Any]:
    """Settings for activations: a zero readout, where the rates do not assume a readout of some size.

    SGD's gradient of what comes before the readout, and Adafactor's step of the readout itself, are in proportion to
    the readout, so rates for one that starts at order m^-1/2 are wrong for one that starts at zero.
    """
    assumed = check.settings.get("optimizer.kind") in ("sgd", "adafactor") and name in expectation.LAZY
    return NONZERO if assumed else {}


def _whole(check: Check, activations: Mapping[str, np.ndarray], leaves: Mapping[str, np.ndarray]) -> Verdict:
    config = configs(check, {})[-1]
    shown = {f"change/{name}": activations[f"change/{name}"] for name in ACTIVATIONS}
    rows = [
        _row(check, name, "updates 2 on", _settled(values), expectation.change(name, config, check.axis))
        for name, values in shown.items()
    ]
    for role, path in expectation.LEAF.items():
        update, gradient = f"update/{path}", f"gradient/{path}"
        shown |= {update: leaves[update], gradient: leaves[gradient]}
        rows += [
            _row(check, update, "first", _at(leaves[update], "first"), expectation.update(role, config, check.axis)),
            _row(
                check, gradient, "start", _at(leaves[gradient], "start"), expectation.gradient(role, config, check.axis)
            ),
        ]
    title = f"{check.name}, {check.axis}s {', '.join(map(str, check.sizes))}"
    return Verdict(title, check, tuple(rows), shown)


def _row(check: Check, statistic: str, when: str, values: np.ndarray, expected: float) -> Row:
    found = _slope(check, statistic, values)
    return Row(statistic, when, found, expected, judge(found.low - expected, found.high - expected, TOLERANCE))


def judge(low: float, high: float, tolerance: float) -> Judged:
    """The verdict on an interval of the distance from what is expected."""
    if -tolerance <= low and high <= tolerance:
        return "pass"
    return "FAIL" if low > tolerance or high < -tolerance else "undecided"


def ablation(check: Check, rule: str) -> Verdict:
    """Judge one rule that is off against the whole parametrization, in the configuration that identifies it.

    Raises:
        InputError: an unknown rule, or settings that do not go together.
    """
    row = identification(rule)
    check = _for(row, check)
    return contrasts(check, [rule])[rule]


def contrasts(check: Check, rules: Sequence[str]) -> dict[str, Verdict]:
    """The verdict on each rule of one axis being off; all runs of a size are lanes of few programs."""
    rows = [identification(rule) for rule in rules]
    variants = [
        dict(row.settings) | ({"parametrization.ablate": row.rule} if off else {})
        for row in rows
        for off in (False, True)
    ]
    curves = measure(check, variants)
    found = {}
    for number, row in enumerate(rows):
        kept, off = curves[2 * number], curves[2 * number + 1]
        config = configs(check, variants[2 * number])[-1]
        found[row.rule] = _judged(check, row, config, kept, off)
    return found


def _judged(
    check: Check, row: Identification, config: RunConfig, kept: Mapping[str, np.ndarray], off: Mapping[str, np.ndarray]
) -> Verdict:
    title = f"{check.name} without {row.rule}, {check.axis}s {', '.join(map(str, check.sizes))}"
    curves = {f"{row.statistic} (whole)": kept[row.statistic], f"{row.statistic} ({row.rule} off)": off[row.statistic]}
    with_rule, without = (_slope(check, row.statistic, _at(table[row.statistic], row.when)) for table in (kept, off))
    same = all((kept[name] == off[name]).all() for name in kept)
    predicted = with_rule.value + row.sensitivity * exponent(row.rule, config)
    if same:
        verdict = Row(row.statistic, row.when, without, with_rule.value, "pass", "the rule is a no-op here, bitwise")
    else:
        moved = without.value - with_rule.value
        half = math.hypot(without.value - without.low, with_rule.value - with_rule.low)
        note = f"slope {with_rule.value:+.2f} with the rule, {predicted:+.2f} predicted without"
        seen = judge(moved - half, moved + half, CONTRAST)
        verdict = Row(row.statistic, row.when, without, with_rule.value, seen, note, predicted)
    return Verdict(title, check, (verdict,), curves)


def measure(check: Check, variants: Sequence[Mapping[str, Any]]) -> list[dict[str, np.ndarray]]:
    """Statistics of each variant of a check: name -> [sizes, seeds, steps + 1]."""
    runs = [config for variant in variants for config in configs(check, variant)]
    text = corpus.load(runs[0].data)
    found = trajectories(runs, text, *KINDS)
    shape = (len(check.sizes), check.seeds, check.steps + 1)
    count = len(check.sizes) * check.seeds
    return [
        {
            name: np.stack([table[name] for table in found[start : start + count]]).reshape(shape)
            for name in found[start]
        }
        for start in range(0, len(runs), count)
    ]


def configs(check: Check, variant: Mapping[str, Any]) -> list[RunConfig]:
    """The resolved runs of one variant, sizes by seeds.

    Raises:
        InputError: settings that do not go together.
    """
    settings: dict[str, Any] = (
        _defaults(check) | {"parametrization.name": check.name} | dict(check.settings) | dict(variant)
    )
    kind = str(settings["optimizer.kind"])
    require(kind in RATES, f"optimizer.kind={kind} is not one of {', '.join(RATES)}")
    settings.setdefault("optimizer.lr", RATES[kind] * _absolute(settings))
    if "model.heads" in settings:
        base_width = settings["parametrization.base_width"]
        settings.setdefault("parametrization.base_head_dim", base_width // settings["model.heads"])
    else:
        settings.setdefault("model.head_dim", HEAD_DIM)
    found = []
    for size in check.sizes:
        config = apply(RunConfig(), settings | {f"model.{check.axis}": size})
        source = corpus.load(config.data)
        for seed in range(check.seeds):
            run = apply(config, {"seed": seed}).resolve(vocab=source.vocab, fingerprint=source.fingerprint)
            check_fits(run, source)
            found.append(run)
    return found


def _defaults(check: Check) -> dict[str, Any]:
    """A two-block model with biases, at a constant rate and without clipping, which would couple all leaves."""
    found: dict[str, Any] = {
        "model.depth": 2,
        "model.bias": True,
        "optimizer.kind": "adamw",
        "optimizer.clip": None,
        "schedule.kind": "constant",
        "schedule.steps": check.steps,
        "schedule.decay_steps": 0,
        "data.sequences": 8,
        "data.length": 32,
        "evaluation.sequences": 8,
        "parametrization.base_width": check.sizes[0],
    }
    if check.axis == "depth":
        found |= {"model.width": 32, "parametrization.base_width": 32}
        found |= {"parametrization.depth": "complete", "parametrization.base_depth": check.sizes[0]}
    return found


def _absolute(settings: Mapping[str, Any]) -> float:
    """An absolute parametrization's rate is larger by the base width: its hidden weights are, and 1 is its base."""
    spec = TABLE.get(str(settings["parametrization.name"]))
    return float(settings["parametrization.base_width"]) if spec is not None and spec.absolute else 1.0


def _slope(check: Check, statistic: str, values: np.ndarray) -> Slope:
    """The slope of [sizes, seeds].

    Raises:
        InputError: a run became non-finite, or nothing moves.
    """
    require(
        bool(np.isfinite(values).all() and (values > 0).all()),
        f"{statistic} is zero or not finite in a run of {check.name}: runs diverge or nothing moves; choose another "
        "optimizer.lr",
    )
    return slope(check.sizes, values)


def text(found: Verdict) -> str:
    """The verdict as a table."""
    lines = [found.title]
    for row in found.rows:
        measured = f"slope {row.found.value:+.2f} ({row.found.low:+.2f} .. {row.found.high:+.2f})"
        line = f"  {row.statistic:32}{row.when:14}{measured}  expected {row.expected:+.2f}  {row.verdict}  {row.note}"
        lines.append(line.rstrip())
    if found.verdict == "undecided":
        lines.append("an interval reaches over the tolerance: more --seeds and --steps, or more sizes, narrow it")
    return "\n".join([*lines, found.verdict])


def write(found: Verdict, folder: Path) -> None:
    """Write `coordinates.png` and `.svg`, and every curve as `coordinates.csv`."""
    drawn = figure.coordinates(found.check.axis, found.check.sizes, found.curves, found.expected())
    figure.save(drawn, folder, "coordinates")
    with disk.whole(folder / "coordinates.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("statistic", found.check.axis, "seed", "step", "rms"))
        for name, values in found.curves.items():
            for (size, seed, step), value in np.ndenumerate(values):
                writer.writerow((name, found.check.sizes[size], seed, step, f"{value:.6g}"))


def _for(row: Identification, check: Check) -> Check:
    """The check along the rule's own axis."""
    if row.axis == check.axis:
        return check
    return dataclasses.replace(check, axis=row.axis, sizes=DEPTHS if row.axis == "depth" else WIDTHS)


def _at(values: np.ndarray, when: str) -> np.ndarray:
    """[sizes, seeds] of [sizes, seeds, steps + 1]."""
    return {"start": values[..., 0], "first": values[..., 1], "last": values[..., -1]}[when]


def _settled(values: np.ndarray) -> np.ndarray:
    """Geometric mean over the updates from the second on."""
    return np.exp(np.log(values[..., 2:]).mean(axis=-1))
