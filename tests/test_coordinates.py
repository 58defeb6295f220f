"""A coordinate check in small: what muP keeps and sp lets grow with the width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolve, trained

from lab.config import RunConfig

WIDTHS = (16, 32, 64, 128, 256)


def slope(base: RunConfig, name: str) -> float:
    """d log2 rms(logits) / d log2 width after six updates at one rate, from a zero readout."""
    sizes = []
    for width in WIDTHS:
        run = resolve(
            base,
            model__width=width,
            parametrization__name=name,
            schedule__steps=6,
            schedule__decay_steps=0,
            optimizer__lr=2.0**-7,
            data__sequences=8,
        )
        job, snapshot = trained([run])
        lane, params = (jax.tree.map(lambda x: x[0], tree) for tree in (job.lane, snapshot.state.params))
        logits = job.program.logits(params, lane, jnp.asarray(job.validation[:8, :-1]))
        sizes.append(float(jnp.sqrt(jnp.mean((logits - logits.mean(axis=-1, keepdims=True)) ** 2))))
    return float(np.polyfit(np.log2(WIDTHS), np.log2(sizes), 1)[0])


@pytest.mark.slow
def test_logits_keep_their_size_under_mup_and_grow_under_sp(base: RunConfig) -> None:
    mup, sp = slope(base, "mup"), slope(base, "sp")
    assert abs(mup) < 0.2
    assert sp > 0.3
    assert sp - mup > 0.3
