"""The numbers of a record, from the text to the report, against the run written again (`reference_run`).

A small sweep is trained through the launcher: two rates that train and one that diverges, by two seeds.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference_run as reference
from rich.console import Console
from test_training_loop import PLAIN, SMALL, initial

from analysis import drift, report, results
from lab import store
from lab.config import ExecConfig, RunConfig
from lab.override import apply
from sweeps import launch, plan, saved
from sweeps.sweep import Run, Sweep, axis, product, resolved
from sweeps.this_machine import here

pytestmark = pytest.mark.stack

STEPS, WARMUP, DECAY = 65, 5, 20  # the last twentieth is three updates
LENGTH, ROWS, SEQUENCES = 5, 3, 7
# The wild rate overflows whatever the order of the arithmetic: its first update is sane, its third has no loss.
RATES, WILD = (2.0**-7, 2.0**-5), 1e60


def sweep_of(base: RunConfig) -> Sweep:
    settings = SMALL | {
        "schedule__steps": STEPS,
        "schedule__warmup_steps": WARMUP,
        "schedule__decay_steps": DECAY,
        "schedule__floor": 0.0,
        "evaluation__sequences": SEQUENCES,
        "parametrization__name": "sp",
        "optimizer__weight_decay": 0.1,
        "optimizer__decay": "coupled",
    }
    return Sweep(
        name="numbers",
        question="?",
        cost="none",
        expected="none",
        base=apply(base, {name.replace("__", "."): value for name, value in settings.items()}),
        points=product(axis("optimizer.lr", *RATES, WILD), axis("seed", 0, 1)),
        execution=ExecConfig(lanes=2),
    )


class Truth:
    """What the reference says of one run."""

    def __init__(self, run: Run, weights: reference.Weights, streams: tuple[bytes, bytes]) -> None:
        self.run, self.model = run, run.config.model
        self.rates = reference.wsd(run.config.optimizer.lr, STEPS, WARMUP, DECAY, 0.0)
        windows = reference.training_windows(streams[0], run.config)
        self.trained = reference.train(run.config, weights, windows, (self.rates, 0.1 * self.rates), PLAIN)
        validation = reference.validation_windows(streams[1], LENGTH, SEQUENCES)
        self.finite = bool(np.isfinite(self.trained.loss).all() and np.isfinite(self.trained.grad_norm).all())
        if self.finite:
            self.losses = reference.mean_losses(self.trained.weights, validation, self.model, PLAIN)


@pytest.fixture(scope="module")
def root(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("numbers")
    terminal = Console(file=io.StringIO(), width=200)
    assert launch.launch(sweep_of(base), root, again="", smoke=False, console=terminal) == 0
    return root


@pytest.fixture(scope="module")
def truths(base: RunConfig, text: Path, root: Path) -> list[Truth]:
    """The reference's runs; initial weights are the program's, which are those of its seed whatever its lane."""
    del root  # first the sweep: its failure is plainer
    sweep, streams, found = sweep_of(base), reference.streams(text), []
    for group in plan.plan(resolved(sweep), sweep.execution, machine=here("cpu")):
        for unit in group.units:
            job = saved.prepared(unit)
            found += [Truth(run, initial(job, lane), streams) for lane, run in enumerate(unit.runs)]
    return found


def curve_of(root: Path, truth: Truth) -> pd.DataFrame:
    return pd.read_csv(store.run_folder(root, truth.run.run_id) / "curve.csv")


def record_of(root: Path, truth: Truth) -> dict[str, Any]:
    return json.loads((store.run_folder(root, truth.run.run_id) / "record.json").read_text())


def test_two_thirds_of_the_runs_are_trained_and_one_diverges(truths: list[Truth]) -> None:
    assert sorted((truth.run.config.optimizer.lr, truth.finite) for truth in truths) == [
        *[(rate, True) for rate in RATES for _ in (0, 1)],
        *[(WILD, False)] * 2,
    ]


def test_curves_hold_every_update_s_rate_loss_and_gradient_norm(root: Path, truths: list[Truth]) -> None:
    """Of a diverged run up to the update that was not finite, itself included."""
    for truth in truths:
        curve, trained = curve_of(root, truth), truth.trained
        assert curve["step"].tolist() == list(range(len(trained.loss)))
        assert len(curve) == STEPS or not truth.finite
        np.testing.assert_allclose(curve["lr"], truth.rates[: len(curve)], rtol=1e-7)
        np.testing.assert_allclose(curve["loss"], trained.loss, rtol=1e-5)
        sane = len(curve) if truth.finite else 1  # gradients at rates of 1e59 are rounding
        np.testing.assert_allclose(curve["grad_norm"][:sane], trained.grad_norm[:sane], rtol=1e-5)
        assert np.isfinite(curve["loss"][:-1]).all()
        assert np.isfinite(curve["loss"].iloc[-1]) == truth.finite


def test_records_hold_the_numbers_of_the_run(root: Path, truths: list[Truth]) -> None:
    for truth in truths:
        record, losses = record_of(root, truth), truth.trained.loss
        assert record["tokens"] == STEPS * ROWS * LENGTH
        assert record["batch"] == {"sequences": ROWS, "tokens": ROWS * LENGTH}
        assert record["validation"]["tokens"] == SEQUENCES * LENGTH
        # Two blocks of attention (4 x 8 x 8), an MLP (2 x 8 x 12) and two norms, and the last norm.
        assert record["parameters"] == {
            "non_embedding": 2 * (4 * 8 * 8 + 2 * 8 * 12 + 2 * 8) + 8,
            "embedding": 2 * 256 * 8,
            "total": 2 * (4 * 8 * 8 + 2 * 8 * 12 + 2 * 8) + 8 + 2 * 256 * 8,
        }
        assert record["parameters"]["total"] == sum(value.size for value in truth.trained.weights.values())
        if not truth.finite:
            continue
        assert (record["status"], record["diverged_step"]) == ("done", None)
        assert record["validation"]["loss"] == pytest.approx(truth.losses.mean(), rel=1e-8)
        error = math.sqrt(sum((truth.losses - truth.losses.mean()) ** 2) / (SEQUENCES - 1) / SEQUENCES)
        assert record["validation"]["standard_error"] == pytest.approx(error, rel=1e-6)
        assert record["train_loss"] == pytest.approx((losses[-1] + losses[-2] + losses[-3]) / 3, rel=1e-8)
        assert record["last_finite_loss"] == pytest.approx(losses[-1], rel=1e-8)
        # The controls: one update more or less, and the whole curve, are other numbers.
        for window in (2, 4, STEPS):
            assert record["train_loss"] != pytest.approx(np.mean(losses[-window:]), rel=1e-4)


def test_records_of_diverged_runs_say_when_and_no_loss(root: Path, truths: list[Truth]) -> None:
    for truth in truths:
        if truth.finite:
            continue
        record, losses = record_of(root, truth), truth.trained.loss
        assert (record["status"], record["train_loss"]) == ("diverged", None)
        assert (record["validation"]["loss"], record["validation"]["standard_error"]) == (None, None)
        assert record["diverged_step"] == len(losses) - 1 > 0
        assert record["last_finite_loss"] == pytest.approx(losses[-2], rel=1e-8)


def test_the_table_of_runs_has_the_records_numbers_by_name(root: Path, truths: list[Truth]) -> None:
    rows = {row["run_id"]: row for row in results.load(root).frame.to_dict("records")}
    assert len(rows) == len(truths) == 6
    for truth in truths:
        row, record = rows[truth.run.run_id], record_of(root, truth)
        assert row["optimizer.lr"] == truth.run.config.optimizer.lr
        assert row["seed_init"] == row["seed_data"] == truth.run.config.seed_init
        assert row["status"] == ("done" if truth.finite else "diverged")
        assert row["params"] == 2 * (4 * 8 * 8 + 2 * 8 * 12 + 2 * 8) + 8
        assert row["tokens"] == STEPS * ROWS * LENGTH
        assert row["seconds"] == record["times"]["seconds"]
        if truth.finite:
            assert row["loss"] == pytest.approx(truth.losses.mean(), rel=1e-8)
            assert row["loss_error"] == record["validation"]["standard_error"]
            assert row["train_loss"] == record["train_loss"]
            assert math.isnan(row["diverged_step"])
        else:
            assert math.isnan(row["loss"])
            assert math.isnan(row["train_loss"])
            assert row["diverged_step"] == len(truth.trained.loss) - 1


def test_reports_average_the_seeds_validation_losses(root: Path, truths: list[Truth]) -> None:
    (cell,), _ = drift.read_cells(results.load(root))
    points = cell.points.set_index("lr")
    assert points["diverged"].to_dict() == {**dict.fromkeys(RATES, False), WILD: True}
    means = {
        rate: np.mean([truth.losses.mean() for truth in truths if truth.run.config.optimizer.lr == rate])
        for rate in RATES
    }
    for rate, mean in means.items():
        assert points.loc[rate, "loss"] == pytest.approx(mean, rel=1e-8)
        assert points.loc[rate, "seeds"] == 2
    (told,) = report.read(root).summary()["cells"]
    best = min(means, key=lambda rate: means[rate])
    assert (told["lr_best"], told["lr_stable"], told["diverged"], told["seeds"]) == (best, RATES[-1], 1, 2)
    assert told["loss"] == pytest.approx(means[best], rel=1e-8)
