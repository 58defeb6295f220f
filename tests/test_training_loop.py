"""The training loop against a loop in numpy (`reference_run`): rates, decays, batches and updates of every lane."""

import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_run as reference
from conftest import job_of, resolve

from lab import train
from lab.config import RunConfig
from lab.program import Batches, State

pytestmark = pytest.mark.stack

STEPS, WARMUP, DECAY, FLOOR = 13, 3, 5, 0.1
SMALL: dict[str, object] = {
    "dtype": "float64",
    "model__width": 8,
    "model__head_dim": 4,
    "model__mlp_width": 12,
    "data__length": 5,
    "data__sequences": 3,
    "schedule__steps": STEPS,
    "schedule__warmup_steps": WARMUP,
    "schedule__decay_steps": DECAY,
    "schedule__floor": FLOOR,
    "evaluation__sequences": 2,
}
MATRICES = (
    "embedding/token",
    "readout/kernel",
    *(f"blocks/attention/{name}/kernel" for name in ("query", "key", "value", "output")),
    *(f"blocks/mlp/{name}/kernel" for name in ("up", "down")),
)
HIDDEN = [path for path in MATRICES if path.startswith("blocks")]
GAINS = ("blocks/attention_norm/gain", "blocks/mlp_norm/gain", "final_norm/gain")
# Standard parametrization: one rate, attention by the square root of the head's size.
PLAIN = reference.Rules(attention=4**-0.5, forward={}, lr={}, eps={}, decay=dict.fromkeys(MATRICES, 1.0))
# Table 8 of Tensor Programs V at twice the base width, Adam: hidden rates 1/2, readout times 1/2 (its MLP is as wide
# as at the base, so the matrix that leaves it has factors of 1); eps follows the gradient, 1/2 but where the fan-in is
# the base's.  The head's size is twice the base's, sqrt(2) / 4.
DOWN = "blocks/mlp/down/kernel"
MUP_RATE = {path: 0.5 for path in HIDDEN if path != DOWN}
MUP_EPS = {path: 0.5 for path in (*MATRICES, *GAINS) if path != DOWN}


def mup(decay: Mapping[str, float]) -> reference.Rules:
    return reference.Rules(2**0.5 / 4, {"readout/kernel": 0.5}, MUP_RATE, MUP_EPS, decay)


def initial(job: train.Job, lane: int) -> reference.Weights:
    return {path: value[lane] for path, value in initial_lanes(job).items()}


def initial_lanes(job: train.Job) -> dict[str, np.ndarray]:
    return jax.tree.map(np.array, job.program.init(job.lane).params)


def loop(job: train.Job) -> train.Snapshot:
    snapshot = train.start(job)
    for newest in train.train(job, snapshot):
        snapshot = newest
    return snapshot.settled()


def agree(found: train.Snapshot, lane: int, wanted: reference.Trained) -> bool:
    """Whether a lane's losses, gradient norms and weights are the reference's, to rounding."""
    pairs = [(found.loss[:, lane], wanted.loss), (found.grad_norm[:, lane], wanted.grad_norm)]
    pairs += [(np.asarray(found.state.params[path][lane]), value) for path, value in wanted.weights.items()]
    return all(np.allclose(one, other, rtol=1e-9, atol=1e-11) for one, other in pairs)


def late(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:1], values[:-1]])


@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_sgd_over_a_schedule_is_the_numpy_loop(base: RunConfig, text: Path, strategy: str) -> None:
    """No momentum and no clipping, so that every rate and every decay shows by itself; other lanes have them."""
    changes = SMALL | {"optimizer__kind": "sgd", "parametrization__name": "sp", "parametrization__zero_readout": False}
    bare: dict[str, object] = {"optimizer__momentum": 0.0, "optimizer__clip": None, "optimizer__weight_decay": 0.3}
    lanes: list[tuple[dict[str, object], float, float]] = [  # (changes, peak, coefficient of the decay on the rate)
        ({**bare, "optimizer__lr": 0.5, "optimizer__decay": "coupled"}, 0.5, 0.3),
        ({**bare, "optimizer__lr": 0.25, "optimizer__decay": "independent", "seed_data": 7}, 0.25, 0.3 / 0.25),
        ({"optimizer__lr": 0.1, "optimizer__momentum": 0.9, "optimizer__clip": 0.5, "seed_data": 3}, 0.1, 0.0),
        ({**bare, "optimizer__lr": 0.5, "seed_init": 5, "optimizer__decay": "constant-eta-lambda"}, 0.5, 0.3),
    ]
    runs = [resolve(base, **changes, **changed) for changed, _, _ in lanes]
    job = job_of(runs, lanes=4, strategy=strategy, segment=8)
    found, (stream, _) = loop(job), reference.streams(text)
    for lane, (run, (_, peak, coefficient)) in enumerate(zip(runs, lanes, strict=True)):
        windows = reference.training_windows(stream, run)
        rates = reference.wsd(peak, STEPS, WARMUP, DECAY, FLOOR)
        weights = initial(job, lane)

        def result(
            rates: np.ndarray, decays: np.ndarray, windows=windows, run=run, weights=weights
        ) -> reference.Trained:
            return reference.train(run, weights, windows, (rates, decays), PLAIN)

        assert agree(found, lane, result(rates, coefficient * rates))
        assert not agree(found, lane, result(late(rates), coefficient * rates))
        assert not agree(found, lane, result(rates, coefficient * rates, windows[::-1]))
        if coefficient:
            assert not agree(found, lane, result(rates, coefficient * late(rates)))


def test_adamw_over_a_schedule_is_the_numpy_loop(base: RunConfig, text: Path) -> None:
    """At twice the base width, so that each leaf's own rate, eps and decay show; eps is as large as the gradient."""
    changes = SMALL | {
        "parametrization__base_width": 4,
        "parametrization__base_mlp_width": 12,
        "parametrization__base_head_dim": 2,
        "optimizer__lr": 0.05,
        "optimizer__weight_decay": 0.4,
        "optimizer__eps": 1e-2,
        "parametrization__zero_readout": False,
    }
    rate = {path: MUP_RATE.get(path, 1.0) for path in MATRICES}
    kinds = {
        # What an update removes, as a factor on its rate (coefficient) and on each leaf.
        "coupled": (0.4, mup(rate)),
        "constant-eta-lambda": (0.4, mup(dict.fromkeys(MATRICES, 1.0))),
        "independent": (0.4 / 0.05, mup(dict.fromkeys(MATRICES, 1.0))),
    }
    runs = [resolve(base, **changes, optimizer__decay=kind, seed_data=seed) for seed, kind in enumerate(kinds)]
    job = job_of(runs, lanes=4, segment=8)
    found, (stream, _) = loop(job), reference.streams(text)
    for lane, (run, (coefficient, rules)) in enumerate(zip(runs, kinds.values(), strict=True)):
        windows, rates = reference.training_windows(stream, run), reference.wsd(0.05, STEPS, WARMUP, DECAY, FLOOR)
        weights = initial(job, lane)
        assert agree(found, lane, reference.train(run, weights, windows, (rates, coefficient * rates), rules))
        wrong = (rates, coefficient * late(rates)), (late(rates), coefficient * rates)
        for plan in wrong:
            assert not agree(found, lane, reference.train(run, weights, windows, plan, rules))
        assert not agree(found, lane, reference.train(run, weights, windows, (rates, coefficient * rates), PLAIN))


@pytest.mark.parametrize("strategy", ["map", "vmap", "both"])
def test_a_lane_stays_frozen_although_later_batches_are_finite(base: RunConfig, text: Path, strategy: str) -> None:
    """One symbol's embedding is infinite, and one batch of many has it: what comes after would be finite again."""
    rare, bad = ord("~"), 6  # a symbol that the text has not; the update that sees it, of the second segment
    runs = [resolve(base, **SMALL, optimizer__lr=2.0**-5, seed=seed) for seed in (0, 0, 1, 2)]
    job = job_of(runs, lanes=4, strategy=strategy, segment=8)
    (stream, _) = reference.streams(text)
    assert rare not in stream
    batches = job.feed.batches

    def with_the_symbol(begin: int) -> Batches:
        """The batches as they are, fed from the host, and in update `bad` one symbol that is `rare`."""
        steps = job.program.shape.segment
        windows = np.array(
            [
                [list(stream[start : start + 6]) for start in row]
                for row in np.asarray(batches(begin).starts).reshape(-1, 3)
            ]
        ).reshape(steps, -1, 3, 6)
        if begin <= bad < begin + steps:
            windows[bad - begin, :, 1, 2] = rare
        return job.program.batches(windows.astype(np.uint8))

    def trained(infinite: tuple[int, ...]) -> tuple[train.Snapshot, State]:
        """The end, and the state that the bad update found."""
        snapshot = train.start(job)
        with job.program.context():
            token = snapshot.state.params["embedding/token"]
            for lane in infinite:
                token = token.at[lane, rare].set(jnp.inf)
            params = {**snapshot.state.params, "embedding/token": token}
        snapshot = train.Snapshot(0, snapshot.state._replace(params=params), snapshot.loss, snapshot.grad_norm)
        kept = {}
        for newest in train.train(job, snapshot, stops=(bad,)):
            snapshot = newest
            kept[newest.step] = jax.tree.map(np.array, newest.state)  # copies: the next segment is given the buffers
        return snapshot.settled(), kept[bad]

    job.feed.batches = with_the_symbol  # type: ignore[method-assign]
    found, at_bad = trained((1,))
    assert np.asarray(found.state.diverged).tolist() == [-1, bad, -1, -1]
    assert np.asarray(found.state.alive).tolist() == [True, False, True, True]
    assert np.isfinite(found.loss[:bad, 1]).all()
    assert not np.isfinite(found.loss[bad, 1])
    now, then = ((state.params, state.opt) for state in (found.state, at_bad))
    for one, other in zip(jax.tree.leaves(now), jax.tree.leaves(then), strict=True):
        np.testing.assert_array_equal(np.asarray(one)[1], other[1])
        assert not np.array_equal(np.asarray(one)[0], other[0])  # while its neighbour went on
    # The control: the same lane with a finite row is trained to the end, and its neighbours never noticed.
    sound, _ = trained(())
    assert np.asarray(sound.state.diverged).tolist() == [-1] * 4
    assert np.isfinite(sound.loss).all()
    np.testing.assert_array_equal(sound.loss[:, [0, 2, 3]], found.loss[:, [0, 2, 3]])
    results = train.finish(job, found)
    assert [one.status for one in results] == ["done", "diverged", "done", "done"]
    assert results[1].diverged_step == bad
    assert results[1].last_finite_loss == found.loss[bad - 1, 1]


def test_a_finite_loss_with_an_infinite_gradient_norm_freezes_too(base: RunConfig) -> None:
    """A readout of 1e160 gives losses of that order, and a gradient whose square is beyond any number."""
    runs = [resolve(base, **SMALL, optimizer__lr=2.0**-5, seed=seed) for seed in (0, 0, 1, 2)]
    job = job_of(runs, lanes=4, strategy="map", segment=8)
    snapshot = train.start(job)
    begun = jax.tree.map(np.array, snapshot.state.params)
    with job.program.context():
        kernel = snapshot.state.params["readout/kernel"].at[1].set(1e160 * begun["embedding/token"][1].T)
        params = {**snapshot.state.params, "readout/kernel": kernel}
    snapshot = dataclasses.replace(snapshot, state=snapshot.state._replace(params=params))
    for newest in train.train(job, snapshot):
        snapshot = newest
    found = snapshot.settled()
    assert np.isfinite(found.loss[0, 1])
    assert np.isinf(found.grad_norm[0, 1])
    assert np.asarray(found.state.diverged).tolist() == [-1, 0, -1, -1]
    for path, value in found.state.params.items():
        if path != "readout/kernel":
            np.testing.assert_array_equal(np.asarray(value)[1], begun[path][1], err_msg=path)
            assert not np.array_equal(np.asarray(value)[0], begun[path][0]) or path not in MATRICES
    result = train.finish(job, found)[1]
    # No update was made, so there is no last loss of a state that was trained from.
    assert (result.status, result.diverged_step, result.last_finite_loss) == ("diverged", 0, None)


def test_initial_values_are_draws_of_their_own(base: RunConfig) -> None:
    """No two leaves, layers or seeds share their draws, and each is the one that its path and seed name."""
    zero = {**SMALL, "parametrization__zero_readout": False}
    runs = [resolve(base, **zero, seed_init=seed) for seed in (0, 1, 1, 2)]
    params = initial_lanes(job_of(runs, lanes=4, strategy="map", segment=8))
    draws = {}
    for path in MATRICES:
        for lane in (0, 1, 3):
            value = params[path][lane]
            rows = value if path.startswith("blocks") else value[None]
            draws |= {(path, lane, layer): row.ravel()[:64] for layer, row in enumerate(rows)}
        np.testing.assert_array_equal(params[path][1], params[path][2])  # the same seed, in another lane
    values = np.stack(list(draws.values()))
    together = np.corrcoef(values) - np.eye(len(values))
    assert np.abs(together).max() < 0.6  # 64 numbers each: five deviations
    # muP at half the base width: hidden matrices by their own fan-in, the readout as at the base, embeddings by 1.
    stds = {"embedding/token": 1.0, "blocks/mlp/up/kernel": 8**-0.5, DOWN: 12**-0.5, "readout/kernel": 16**-0.5}
    for path, std in stds.items():
        with jax.enable_x64(True):
            key = jax.random.fold_in(jax.random.key(1, impl="threefry2x32"), zlib.crc32(path.encode()))
            wanted = np.asarray(jax.random.normal(key, params[path].shape[1:], np.float64))
        np.testing.assert_allclose(params[path][1], std * wanted, rtol=1e-9, err_msg=path)
