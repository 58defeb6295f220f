"""Validation against a mean in numpy over windows that are taken from the files by bytes."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import reference_run as reference
from conftest import job_of, resolve
from test_training_loop import PLAIN, SMALL, initial

from lab import train
from lab.config import ExecConfig, RunConfig
from sweeps import plan, saved
from sweeps.sweep import Run
from sweeps.this_machine import here

pytestmark = pytest.mark.stack

LENGTH, SEQUENCES, ROWS = 5, 9, 4  # nine windows in rows of four: three of padding
RARE = ord("~")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty texts of random letters and of different lengths; `~` occurs where validation is drawn, and nowhere else.

    A text keeps its length when a letter becomes `~`, so that the drawing stays as it is.
    """
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(3)
    for number in range(30):
        letters = rng.choice(list(b"abcdefgh\n"), size=rng.integers(40, 90))
        (folder / f"{number:02d}.txt").write_bytes(bytes(letters.tolist()))
    _, validation = reference.streams(folder, 0.2)
    for path in folder.iterdir():
        if path.read_bytes() in validation:
            path.write_bytes(path.read_bytes().replace(b"a", b"~"))
    return folder


def job(base: RunConfig, folder: Path, **settings: object) -> train.Job:
    changes = SMALL | {
        "data__corpus": f"text:{folder}",
        "data__validation_fraction": 0.2,
        "data__sequences": ROWS,
        "evaluation__sequences": SEQUENCES,
        "parametrization__name": "sp",
        "parametrization__zero_readout": False,
    }
    return job_of([resolve(base, **changes, seed=seed) for seed in (0, 1)], lanes=2, **settings)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2, "strategy": "vmap"}], ids=str)
def test_validation_is_the_mean_over_windows_of_the_files(
    base: RunConfig, folder: Path, settings: dict[str, object]
) -> None:
    made = job(base, folder, **settings)
    train_text, text = reference.streams(folder, 0.2)
    assert RARE in text
    assert RARE not in train_text
    count = (len(text) - 1) // LENGTH
    assert count % SEQUENCES, "evenly spaced windows are told from others only where they do not divide the text"
    windows = reference.validation_windows(text, LENGTH, SEQUENCES)
    # One update's loss, as if it had been trained: what a run without one is, is not asked here.
    one = np.ones((1, len(made.configs)))
    found = train.finish(made, train.Snapshot(1, made.program.init(made.lane), one, one))
    for lane, result in enumerate(found):
        weights, model = initial(made, lane), made.configs[0].model
        losses = reference.mean_losses(weights, windows, model, PLAIN)
        assert result.status == "done"
        assert result.validation_loss == pytest.approx(losses.mean(), abs=1e-12)
        spread = np.sqrt(np.sum((losses - losses.mean()) ** 2) / (SEQUENCES - 1))
        assert result.validation_error == pytest.approx(spread / np.sqrt(SEQUENCES), rel=1e-9)
        assert result.validation_tokens == SEQUENCES * LENGTH
        wrong = {
            "training text": reference.validation_windows(train_text, LENGTH, SEQUENCES),
            "padding": np.concatenate([windows, np.zeros_like(windows[:1])]),
            "not spread": reference.validation_windows(text[: SEQUENCES * LENGTH + 1], LENGTH, SEQUENCES),
            "one token off": reference.validation_windows(text[1:], LENGTH, SEQUENCES),
            "a window less": windows[:-1],
        }
        for others in wrong.values():
            assert abs(reference.mean_losses(weights, others, model, PLAIN).mean() - losses.mean()) > 1e-6


def test_a_run_that_only_validation_finds_infinite_is_diverged_at_its_end(base: RunConfig, folder: Path) -> None:
    """Training never meets the symbol, so its losses are finite; its embedding makes the validation infinite."""
    made = job(base, folder)
    snapshot = train.start(made)
    with made.program.context():
        token = snapshot.state.params["embedding/token"].at[1, RARE].set(jnp.inf)
        params = {**snapshot.state.params, "embedding/token": token}
    snapshot = dataclasses.replace(snapshot, state=snapshot.state._replace(params=params))
    for newest in train.train(made, snapshot):
        snapshot = newest
    sound, broken = train.finish(made, snapshot)
    assert sound.status == "done"
    assert (broken.status, broken.diverged_step) == ("diverged", made.steps)
    assert (broken.validation_loss, broken.validation_error, broken.train_loss) == (None, None, None)
    assert broken.last_finite_loss == snapshot.settled().loss[-1, 1]


def test_every_run_of_a_sweep_has_its_own_number_of_windows(base: RunConfig, folder: Path) -> None:
    """Two runs that differ in their validation alone: one program, and each unit with the windows of its run."""
    (run, _) = job(base, folder).configs
    short = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, sequences=4))
    runs = [Run(str(number), config, {}) for number, config in enumerate((run, short))]
    (group,) = plan.plan(runs, ExecConfig(), machine=here("cpu"))
    (_, text) = reference.streams(folder, 0.2)
    for unit in group.units:
        (only,) = {one.config.evaluation.sequences for one in unit.runs}
        windows = saved.prepared(unit).validation
        np.testing.assert_array_equal(windows, reference.validation_windows(text, LENGTH, only))
    assert sorted(unit.runs[0].run_id for unit in group.units) == ["0", "1"]
