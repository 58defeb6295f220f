"""The sharpness probe: what it finds is what exact matrices say, whatever lanes and parts it is measured in."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_bitwise, job_of, resolve, trained
from jax.flatten_util import ravel_pytree

from lab import batch, corpus, sharpness, train
from lab.check import InputError
from lab.config import ModelConfig, RunConfig, SharpnessConfig
from lab.edge import edge
from lab.objective import AGREEMENT, language
from lab.preconditioner import denominator

TINY: dict[str, Any] = {"model": ModelConfig(width=2, depth=1, head_dim=2, vocab=256), "dtype": "float64"}


def probe_of(config: SharpnessConfig, job: train.Job, rows: int = 4) -> sharpness.Probe:
    run = job.configs[0]
    batch = sharpness.measurement_batch(config, run, corpus.load(run.data), rows)
    return sharpness.Probe(config, job.program, job.lane, batch)


def top(found: dict[str, Any], name: str = "preconditioned") -> float:
    return found["quantities"][name]["values"][0]


def test_points_are_geometric_at_first_and_regular_from_every_on() -> None:
    config = SharpnessConfig(every=16)
    assert config.sequences >= 64  # fewer measure a batch and not the training loss
    assert config.cadence(0, 50) == (0, 1, 2, 4, 8, 16, 32, 48)
    assert config.cadence(9, 32) == (16, 32)
    assert SharpnessConfig(every=1).cadence(0, 3) == (0, 1, 2, 3)
    assert SharpnessConfig(every=24).cadence(0, 50) == (0, 1, 2, 4, 8, 16, 24, 48)


def test_what_is_measured_has_an_identity_and_when_has_none() -> None:
    plain = sharpness.probe_id(SharpnessConfig())
    assert sharpness.probe_id(SharpnessConfig(every=8)) == plain
    assert sharpness.probe_id(SharpnessConfig(sequences=8)) != plain
    assert sharpness.probe_id(SharpnessConfig(seed=1)) != plain


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantities": "hesian"}, "did you mean hessian"),
        ({"quantities": "trace+trace"}, "names one of them twice"),
        ({"top": 12}, "use more than probe.top"),
        ({"sequences": 0}, "probe.sequences=0 is not above 0"),
        ({"warm_steps": 13}, "probe.warm_steps=13 is not above probe.top=1 and up to probe.steps=12"),
        ({"top": 3, "warm_steps": 3}, "probe.warm_steps=3 is not above probe.top=3"),
        ({"probes": 1}, "at least 2 random vectors"),
        ({"every": 0}, "probe.every=0 is not above 0"),
        ({"seed": -1}, "probe.seed=-1 is negative"),
    ],
)
def test_bad_probes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SharpnessConfig(**fields)


def test_the_measurement_batch_is_none_of_the_training_batches(base: RunConfig) -> None:
    run = resolve(base)
    text = corpus.load(run.data)
    one, again = (sharpness.measurement_batch(SharpnessConfig(sequences=8), run, text, rows) for rows in (8, 2))
    assert one.text == again.text
    assert one.text["tokens"] == 8 * run.data.length
    assert one.parts.tokens.shape == (1, 8, 17)
    assert again.parts.tokens.shape == (4, 2, 17)
    for seed in range(4):  # those of training have small seeds
        (begun,) = batch.starts(seed, begin=0, steps=1, sequences=8, length=16, tokens=text.train.size)
        assert not np.array_equal(one.parts.tokens[0], text.train.windows(begun, 17))
    other = sharpness.measurement_batch(SharpnessConfig(sequences=8, seed=1), run, text, 8)
    assert other.text["batch"] != one.text["batch"]
    with pytest.raises(InputError, match=r"probe\.sequences=1000000 windows of 16 tokens do not fit the corpus"):
        sharpness.measurement_batch(SharpnessConfig(sequences=1_000_000), run, text, 8)


@pytest.mark.slow
@pytest.mark.stack
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "adam",
            "hessian+preconditioned+gauss_newton+residual+tangent_kernel+directional+blocks+trace+density",
        ),
        # What of these looks at the update's metric; the rest is compiled once, above.
        ("sgd", "hessian+preconditioned+directional+trace"),
    ],
    ids=["adam", "sgd"],
)
def test_quantities_are_those_of_the_exact_matrices(base: RunConfig, kind: str, names: str) -> None:
    """Every quantity against the dense Hessian in the metric of the update, in float64 after some updates."""
    tiny = dataclasses.replace(base, **TINY)
    run = resolve(tiny, optimizer__kind=kind, parametrization__base_width=4, parametrization__base_head_dim=2)
    run = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, clip=None))
    job, snapshot = trained([run])
    config = SharpnessConfig(quantities=names, steps=40, sequences=2, top=3, probes=4)
    probe = probe_of(config, job)
    (found,) = probe.measure(snapshot.state)
    with job.program.context():
        lane, state = jax.tree.map(lambda leaf: leaf[0], (job.lane, snapshot.state))
        objective, parts = language(job.program, lane), probe.batch.parts
        theta_N, unravel = ravel_pytree(state.params)

        def loss(theta_N: jax.Array) -> jax.Array:
            part = jax.tree.map(lambda leaf: leaf[0], parts)
            return jnp.mean(objective.losses(objective.outputs(unravel(theta_N), part), part))

        @jax.jit
        def exact(theta_N: jax.Array) -> tuple[jax.Array, ...]:
            value, gradient_N = jax.value_and_grad(loss)(theta_N)
            divided = denominator(kind, lane.hyper, state.opt, state.params, unravel(gradient_N))
            scale = {path: jnp.sqrt(lane.hyper.lr[path] / value) for path, value in divided.items()}
            return value, gradient_N, jax.hessian(loss)(theta_N), ravel_pytree(scale)[0]

        expected, gradient_N, h_NN, s_N = map(np.asarray, exact(theta_N))
    s_NN = s_N[:, None] * h_NN * s_N
    eigenvalues = np.linalg.eigvalsh(s_NN)
    quantities = found["quantities"]
    assert set(quantities) == set(names.split("+"))
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(quantities["hessian"]["values"], np.linalg.eigvalsh(h_NN)[::-1][:3], rtol=1e-6)
    np.testing.assert_allclose(quantities["preconditioned"]["values"], eigenvalues[::-1][:3], rtol=1e-6)
    np.testing.assert_allclose(quantities["preconditioned"]["smallest"], eigenvalues[0], rtol=1e-3)
    d_N = s_N * gradient_N
    np.testing.assert_allclose(quantities["directional"]["value"], d_N @ s_NN @ d_N / (d_N @ d_N), rtol=1e-6)
    assert quantities["trace"]["value"] == pytest.approx(np.trace(s_NN), abs=6 * quantities["trace"]["error"])
    point = sharpness.point(probe, run, found, step=3, hyper={"beta1": 0.9, "momentum": 0.9})
    limit = edge(kind, beta1=0.9, momentum=0.9)
    assert point["edge"]["ratio"] == pytest.approx(point["lr"] * eigenvalues[-1] / limit, rel=1e-6)
    if kind == "sgd":
        return
    assert quantities["gauss_newton"]["smallest"] > -1e-9
    assert quantities["tangent_kernel"]["values"][0] > quantities["gauss_newton"]["values"][0]
    assert np.sum(quantities["density"]["weights"], axis=1) == pytest.approx(np.ones(4))
    assert np.max(quantities["density"]["nodes"]) <= eigenvalues[-1] * (1 + 1e-9)
    blocks = quantities["blocks"]
    assert blocks["names"] == ["blocks/0", "embedding", "final_norm", "readout"]
    assert max(blocks["values"]) <= eigenvalues[-1] * (1 + 1e-9)


def test_lanes_alone_parts_and_repeats_find_the_same(base: RunConfig) -> None:
    """A lane among others, one of which has diverged, is measured as if alone; so is a batch in parts."""
    config = SharpnessConfig(steps=16, warm_steps=12, sequences=8)
    runs = [resolve(base, seed=seed, optimizer__lr=lr) for seed, lr in ((0, 2.0**-6), (1, 2.0**-5), (2, 1e30))]
    job, snapshot = trained(runs, lanes=4, strategy="vmap")
    probe = probe_of(config, job)
    first, again = probe.measure(snapshot.state), probe.measure(snapshot.state)
    assert [bool(found["quantities"]) for found in first] == [True, True, False, False]
    assert first[2] == {"loss": None, "gradient_norm": None, "quantities": {}}
    ones = [found[0]["quantities"]["preconditioned"] for found in (first, again)]
    assert [(one["warm"], one["steps"]) for one in ones] == [(False, 16), (True, 12)]
    assert (
        again[0]["quantities"]["preconditioned"]["residuals"][0]
        < first[0]["quantities"]["preconditioned"]["residuals"][0]
    )
    alone, state = trained(runs[1:2], lanes=1)
    for rows in (8, 3):
        (found,) = probe_of(config, alone, rows).measure(state.state)
        assert top(found) == pytest.approx(top(first[1]), rel=1e-4)
        assert found["loss"] == pytest.approx(first[1]["loss"], rel=1e-5)


@pytest.mark.exact
def test_bfloat16_runs_are_measured_in_float32(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    job, snapshot = trained([resolve(base, dtype="bfloat16")])
    probe = probe_of(SharpnessConfig(sequences=4), job)
    assert probe.execution["dtype"] == "float32"
    plain = job_of([resolve(base)])
    (found,), (same,) = (each.measure(snapshot.state) for each in (probe, probe_of(probe.config, plain)))
    assert_bitwise(top(found), top(same))
    monkeypatch.setitem(AGREEMENT, "bfloat16", -1.0)
    with pytest.raises(InputError, match="the loss measured in float32 .* trained in bfloat16"):
        probe.measure(snapshot.state)


def test_optimizers_without_a_metric_have_their_plain_hessian(base: RunConfig) -> None:
    run = resolve(base, optimizer__kind="lion")
    with pytest.raises(InputError, match=r"preconditioned need.*use --set probe\.quantities=hessian"):
        sharpness.check(SharpnessConfig(), run)
    config = SharpnessConfig(quantities="hessian", sequences=4)
    sharpness.check(config, run)
    job = job_of([run])
    probe = probe_of(config, job)
    (found,) = probe.measure(train.start(job).state)
    point = sharpness.point(probe, run, found, step=0, hyper={"beta1": 0.9, "momentum": 0.9})
    assert point["edge"] is None
    assert np.isfinite(top(point, "hessian"))
