"""Coordinate checks: correct rules keep sizes, every ablated rule shows where it is identified, depth rules differ."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import resolve

from analysis import figure
from analysis.slope import slope
from lab import corpus
from lab.config import ExecConfig, RunConfig
from lab.coordinates import trajectories
from lab.device import execution
from lab.model import leaves
from lab.parametrization import TABLE
from lab.program import program, shape_of
from lab.role import Role
from sweeps.coordinates import (
    ACTIVATIONS,
    STATUS,
    TOLERANCE,
    Check,
    Row,
    Verdict,
    ablation,
    configs,
    contrasts,
    judge,
    whole,
    wholes,
)
from sweeps.coordinates import text as coordinates_text
from sweeps.identification import exponent, identification, rules

WIDTHS = (8, 16, 64)
ACTIVATION_CHANGES = {f"change/{name}" for name in ACTIVATIONS}
DEPTHS = (2, 8, 32)
BATCH = {"data.sequences": 4, "data.length": 16}


def check(text: Path, name: str = "mup", axis: Any = "width", **settings: object) -> Check:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    shape: dict[str, object] = {} if axis == "width" else {"model.width": 32, "parametrization.base_width": 32}
    return Check(
        name=name,
        axis=axis,
        sizes=WIDTHS if axis == "width" else DEPTHS,
        steps=2,
        seeds=4,
        settings={"data.corpus": f"text:{text}", "optimizer.weight_decay": 0.1} | BATCH | shape | dotted,
    )


def test_a_slope_and_its_interval() -> None:
    sizes, noise = (16, 32, 64, 256), np.random.default_rng(0).normal(scale=0.02, size=(4, 3))
    found = slope(sizes, np.asarray(sizes, float)[:, None] ** -0.5 * 2.0**noise)
    assert found.low < -0.5 < found.high
    assert found.high - found.low < 0.1
    with pytest.raises(ValueError, match="positive values"):
        slope(sizes, np.zeros((4, 3)))


def assert_kept(found: Verdict) -> None:
    """Every estimate is within the tolerance, and no interval lies outside of it."""
    off = [row for row in found.rows if row.verdict == "FAIL" or abs(row.found.value - row.expected) > TOLERANCE]
    assert not off, (found.check.name, off)


@pytest.mark.host
@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.19, 0.1, "pass"),
        (-3.1, 2.59, "undecided"),  # the estimate is off by 0.25: no failure
        (-1.17, 1.23, "undecided"),  # the estimate is off by 0.03: no pass
        (0.1, 0.3, "undecided"),
        (0.21, 0.3, "FAIL"),
        (-0.9, -0.21, "FAIL"),
    ],
)
def test_a_verdict_is_on_the_interval(low: float, high: float, verdict: str) -> None:
    assert judge(low, high, 0.2) == verdict


def planted(*slopes: float, noise: float = 0.0) -> Verdict:
    """A verdict on made curves, with 0 expected of each."""
    plan, rng, curves, rows = Check(), np.random.default_rng(0), {}, []
    for number, power in enumerate(slopes):
        values = np.asarray(plan.sizes, float)[:, None, None] ** power * 2.0 ** rng.normal(0, noise, (4, 3, 7))
        curves[name := f"change/{number}"] = values
        found = slope(plan.sizes, values[..., -1])
        rows.append(Row(name, "last", found, 0.0, judge(found.low, found.high, TOLERANCE)))
    return Verdict("planted", plan, tuple(rows), curves)


@pytest.mark.host
def test_one_row_decides_and_exit_statuses_differ() -> None:
    assert (planted(0.0, 0.1).verdict, planted(0.0, 0.5).verdict) == ("pass", "FAIL")
    wide = planted(0.0, noise=2.0)
    assert wide.verdict == "undecided"
    assert coordinates_text(wide).splitlines()[-1] == "undecided"
    assert "more --seeds" in coordinates_text(wide)
    assert len(set(STATUS.values()) | {2}) == 4  # 2 is bad input
    assert wide.summary()["verdict"] == wide.summary()["rows"][0]["verdict"] == "undecided"


@pytest.mark.host
def test_the_picture_has_the_expected_slopes_and_every_colour_in_its_legend() -> None:
    found = planted(0.0, 0.5)
    curves = {"change/0": found.curves["change/0"].copy(), "change/1": found.curves["change/1"]}
    curves["change/0"][..., 0] = 0  # nothing has changed before the first update: one colour less in the first panel
    drawn = figure.coordinates("width", found.check.sizes, curves, found.expected())
    first, second = drawn.axes
    assert (len(first.lines), len(second.lines)) == (7, 8)
    for plot in (first, second):
        (line,) = [line for line in plot.lines if line.get_linestyle() == "--"]
        heights = np.asarray(line.get_ydata(), float)
        assert heights == pytest.approx([heights[0]] * 4)
    (legend,) = drawn.legends
    named = [word.get_text() for word in legend.get_texts()]
    assert named == [*map(str, range(7)), "expected slope"]
    colours = {
        line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color()) for line in second.lines
    }
    assert len(colours) == len(named)


@pytest.mark.slow
def test_every_parametrization_keeps_what_its_exponents_say_and_sp_fails(text: Path) -> None:
    names = [name for name in TABLE if not TABLE[name].one_rate]
    for found in wholes(check(text, optimizer__weight_decay=0.0), [*names, "sp", "sp_gpt2"]):
        failed = {row.statistic for row in found.rows if row.verdict == "FAIL"}
        if found.check.name in names:
            assert_kept(found)
        else:
            assert failed >= {"change/mlp", "change/residual", "change/logits"}
            assert all(row.found.value > 0.3 for row in found.rows if row.statistic in failed & ACTIVATION_CHANGES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sgd", "adafactor", "lion", "muon"])
def test_the_other_optimizers_keep_what_their_exponents_say(text: Path, kind: str) -> None:
    """For Lion and Muon, whose rates no linear program derives, this is the check of their rows."""
    plan = check(text, optimizer__kind=kind, optimizer__weight_decay=0.0)
    for found in wholes(plan, ["mup", "mean_field", "sp_per_layer"]):
        assert_kept(found)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["sqrt", "complete"])
def test_depth_rules_keep_what_their_exponents_say(text: Path, rule: str) -> None:
    plan = check(text, axis="depth", parametrization__depth=rule, optimizer__weight_decay=0.0)
    found = whole(plan)
    assert_kept(found)


def assert_seen(found: Verdict, rule: str) -> None:
    """The ablated slope differs from the correct one by at least 0.2, about as far as the table says."""
    (row,) = found.rows
    assert row.predicted is not None
    moved, expected = row.found.value - row.expected, row.predicted - row.expected
    assert row.verdict != "pass", rule
    assert abs(moved) >= 0.2, rule
    assert abs(moved - expected) < 0.45, (rule, moved, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "only"),
    [
        ("mup", "adamw", None),
        ("mup", "sgd", None),
        ("mup_table3", "adamw", "readout"),
        ("mup_tp4", "adamw", "embedding"),
        ("mean_field", "adamw", "hidden"),
    ],
)
def test_every_width_rule_shows_where_it_is_identified(text: Path, name: str, kind: str, only: str | None) -> None:
    plan = check(text, name, optimizer__kind=kind)
    chosen = [rule for rule in rules(configs(plan, {})[-1], "width") if only is None or rule.startswith(only)]
    for rule, found in contrasts(plan, chosen).items():
        assert_seen(found, rule)


@pytest.mark.slow
def test_every_depth_rule_shows_over_depths_2_to_32(text: Path) -> None:
    plan = check(text, axis="depth", parametrization__depth="sqrt")
    found = contrasts(plan, ["depth.branch", "depth.lr", "depth.eps"])
    for rule, verdict in found.items():
        assert_seen(verdict, rule)


@pytest.mark.slow
def test_linearisation_tells_the_depth_exponents_apart(text: Path) -> None:
    """With 1/sqrt(L) blocks become linear in their weights as depth grows; with 1/L they do not (arXiv 2505.01618)."""

    def lazy(rule: str) -> float:
        plan = check(text, axis="depth", parametrization__depth=rule, optimizer__weight_decay=0.0)
        runs = configs(plan, {})
        found = trajectories(runs, corpus.load(runs[0].data), "lazy")
        values = np.array([table["lazy/blocks"][-1] for table in found]).reshape(len(DEPTHS), plan.seeds)
        return slope(DEPTHS, values).value

    root, complete = lazy("sqrt"), lazy("complete")
    # Both slopes are steeper by 0.2 to 0.3 at these depths than in the limit; their difference is the exponents' 1/2.
    assert -1.0 < root < -0.5
    assert -0.4 < complete < 0.1
    assert 0.35 < complete - root < 0.65


def test_a_rule_without_an_exponent_is_a_no_op_bitwise(text: Path) -> None:
    plan = dataclasses.replace(check(text), seeds=1)
    for rule in ("readout.lr", "gain.lr"):
        assert exponent(rule, configs(plan, identification(rule).settings)[-1]) == 0
        (row,) = ablation(plan, rule).rows
        assert row.verdict == "pass"
        assert row.note == "the rule is a no-op here, bitwise"


@pytest.mark.slow
def test_gradients_at_initialisation_follow_the_eps_column(base: RunConfig) -> None:
    """V5 of the verification list: slopes over widths 64 to 512, 3 seeds, a fixed vocabulary, a non-zero readout."""
    widths, forms = (64, 128, 256, 512), ("sp_per_layer", "ntk", "mup", "mup_table3", "mup_tp4", "mean_field")
    sizes: dict[tuple[str, str], list[np.ndarray]] = {}
    for width in widths:
        changes = {"model__width": width, "model__head_dim": 32, "model__depth": 1, "optimizer__kind": "sgd"}
        wide = resolve(base, **changes, parametrization__base_width=64, parametrization__zero_readout=False)
        runs = [resolve(wide, parametrization__name=name, seed=seed) for name in forms for seed in range(3)]
        for path, value in gradients(runs).items():
            if path.endswith(("token", "up/kernel", "value/kernel", "readout/kernel", "final_norm/gain")):
                for name, seeds in zip(forms, value.reshape(len(forms), 3), strict=True):
                    sizes.setdefault((name, path), []).append(seeds)
    for (name, path), values in sizes.items():
        adam = resolve(base, parametrization__name=name)
        role = leaves(adam)[path].role
        expected = exponent(f"{role}.eps", adam)
        tolerance = 0.15 if role == Role.GAIN else 0.05
        assert slope(widths, np.array(values)).value == pytest.approx(expected, abs=tolerance), (name, path)


def gradients(runs: list[RunConfig]) -> dict[str, np.ndarray]:
    """Root mean square of every leaf's gradient on one batch, before any update, per run."""
    how = execution(ExecConfig(), runs[0].model, platform="cpu", runs=1)
    one = program(shape_of(runs[0], lanes=len(runs), strategy="map", group=1, segment=1, forward=how.forward))
    lanes, _ = one.lanes(runs)
    windows = corpus.load(runs[0].data).validation.windows(np.arange(16) * 16, runs[0].data.length + 1)

    def sizes(lane: Any, params: Any) -> dict[str, jax.Array]:
        found = jax.grad(lambda params: one.loss(params, lane, jax.numpy.asarray(windows)).mean())(params)
        return {path: jax.numpy.sqrt((value**2).mean()) for path, value in found.items()}

    found = jax.jit(one.over_lanes(sizes))(lanes, one.init(lanes).params)
    return {path: np.asarray(value, float) for path, value in found.items()}
