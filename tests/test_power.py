"""The Power schedule in the units of its paper (arXiv 2408.13359): sequences of 4096 tokens, n in tokens.

A schedule resolved with one token per update is a function of tokens, so the paper's numbers are checked without a grid
of updates in between; runs with real batches follow.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from conftest import resolve

from lab.config import RunConfig, ScheduleConfig
from lab.schedule import decays, factors, pieces, power_law, rates, relative_law, values

pytestmark = pytest.mark.host

CAP = 0.02
A, B = 4.0, -0.51

# beta: (tokens at which the rate leaves the cap, rates at 1e9, 1e10, 1e11 and 9e11 tokens)
TABLE = {
    16: (7.4618e6, 0.001645, 0.000508, 0.000157, 0.000051),
    32: (2.9047e7, 0.003290, 0.001017, 0.000314, 0.000102),
    64: (1.1307e8, 0.006580, 0.002033, 0.000628, 0.000205),
    128: (4.4016e8, 0.013160, 0.004067, 0.001257, 0.000410),
    256: (1.7134e9, 0.020000, 0.008134, 0.002514, 0.000820),
    512: (6.6699e9, 0.020000, 0.016268, 0.005027, 0.001639),
    1024: (2.5964e10, 0.020000, 0.020000, 0.010054, 0.003279),
}
TOKENS = (1e9, 1e10, 1e11, 9e11)

# n_W = 1e9, N = 1e11, N_D = 1e10, linear: rates at n tokens.
EQUATION_8 = (5e8, 1e9, 2e9, 1e10, 5e10, 9e10, 9.5e10, 1e11)
VECTORS = {
    128: (6.580213e-3, 1.316043e-2, 9.241547e-3, 4.066961e-3, 1.789762e-3, 1.326192e-3, 6.630958e-4, 0),
    1024: (1e-2, 2e-2, 2e-2, 2e-2, 1.431810e-2, 1.060953e-2, 5.304767e-3, 0),
}


def in_tokens(beta: float, n: tuple[float, ...], total: float = 1e12, **fields: Any) -> np.ndarray:
    """Rates after n tokens of a Power schedule whose update is one token of a batch of `beta` sequences."""
    schedule = ScheduleConfig(kind="power", tokens=int(total), **fields).resolve(1)
    law = float(power_law(schedule.power_coefficient, schedule.power_exponent, beta, 1.0)) / CAP
    return CAP * values(pieces(schedule, law), np.array(n))


def test_the_paper_s_law_has_the_paper_s_units() -> None:
    """Batch 1024 and 10T tokens give 0.0011 in the paper, and the measured optima of its grid are near."""
    assert power_law(4.6, B, 1024, 1e13) == pytest.approx(1.10423e-3, abs=1e-8)
    assert power_law(4.6, B, 128, 2e9) == pytest.approx(1.06278e-2, abs=5e-8)
    assert power_law(4.6, B, 128, 2.56e11) == pytest.approx(8.9488e-4, abs=5e-9)
    # The mistakes that are easily made: the schedule's constant, tokens for sequences, sequences for tokens.
    for wrong in (
        power_law(A, B, 1024, 1e13),
        power_law(4.6, B, 1024 * 4096, 1e13),
        power_law(4.6, B, 1024, 1e13 / 4096),
    ):
        assert abs(wrong - 1.10423e-3) > 1e-4


@pytest.mark.parametrize("beta", TABLE)
def test_the_table_of_rates(beta: int) -> None:
    crossing, *expected = TABLE[beta]
    np.testing.assert_allclose(in_tokens(beta, TOKENS), expected, rtol=0, atol=5e-7)
    np.testing.assert_allclose(np.minimum(CAP, power_law(A, B, beta, np.array(TOKENS))), expected, rtol=0, atol=5e-7)
    before, after = in_tokens(beta, (crossing * (1 - 1e-4), crossing * (1 + 1e-4)))
    assert before == CAP
    assert after < CAP
    assert power_law(A, B, beta, crossing) == pytest.approx(CAP, rel=1e-5)
    assert np.abs(in_tokens(beta, TOKENS, power_coefficient=4.6) - expected).max() > 1e-5


@pytest.mark.parametrize("beta", VECTORS)
def test_the_vectors_of_equation_8(beta: int) -> None:
    """Warm-up counts tokens with the update's own, which are one here: a billionth at 1e9."""
    fields = {"warmup_tokens": 10**9, "decay_tokens": 10**10}
    found = in_tokens(beta, EQUATION_8, 1e11, **fields)
    np.testing.assert_allclose(found, VECTORS[beta], rtol=5e-7, atol=5e-10)
    following = np.minimum(CAP, power_law(A, B, beta, 9.5e10)) / 2  # a tail that keeps following the law
    assert abs(following - found[6]) > 1e-5


@pytest.mark.parametrize("beta", [16, 128, 1024])
@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt", "exponential", "exponential_megatron"])
def test_no_jumps(beta: int, shape: str) -> None:
    """Left and right limits agree at the end of the warm-up and at the decay's start, and the end is the floor."""
    fields: dict[str, Any] = {"warmup_tokens": 10**9, "decay_tokens": 10**10, "decay_shape": shape, "floor": 0.1}
    for n in (1e9, 9e10):
        left, at, right = in_tokens(beta, (n - 1, n, n + 1), 1e11, **fields)
        near = 1e-4 if shape == "sqrt" and n == 9e10 else 1e-8  # the root is steep: sqrt(1 / 1e10) = 1e-5
        assert left == pytest.approx(at, rel=near)
        assert right == pytest.approx(at, rel=near)
    start, end = in_tokens(beta, (9e10, 1e11), 1e11, **fields)
    assert end == pytest.approx(0.1 * start, rel=1e-12)


def run(**changes: Any) -> ScheduleConfig:
    fields: dict[str, Any] = {"kind": "power", "steps": 2000, "warmup_steps": 100, "decay_steps": 200}
    return ScheduleConfig(**(fields | changes)).resolve(1)


def law_of(schedule: ScheduleConfig, batch: int, cap: float = CAP) -> float:
    return relative_law(schedule, lr=cap, tokens_per_step=batch * 4096)


def test_every_update_of_a_run_is_the_definition() -> None:
    """Warm-up counts the update's own tokens, law and decay do not; the decay falls from the rate that is reached."""
    batch, schedule = 16, run(decay_shape="sqrt", floor=0.05)
    per_step = batch * 4096

    def eta(n: float) -> float:
        return min(CAP, batch * A * n**B)

    expected = []
    for i in range(2000):
        if i < 100:
            expected.append((i + 1) / 100 * eta(100 * per_step))
        elif i < 1800:
            expected.append(eta(i * per_step))
        else:
            expected.append((0.05 + 0.95 * (1 - math.sqrt((i - 1800) / 200))) * eta(1800 * per_step))
    found = CAP * factors(schedule, law=law_of(schedule, batch))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[99] == pytest.approx(found[100], rel=1e-12)
    scalar = [CAP * factors(schedule, i, i + 1, law=law_of(schedule, batch))[0] for i in (0, 99, 100, 1799, 1800)]
    np.testing.assert_array_equal(scalar, found[[0, 99, 100, 1799, 1800]])


def test_the_cap_leaves_a_plain_wsd_where_the_law_is_above_it() -> None:
    schedule = run()
    wsd = ScheduleConfig(kind="wsd", steps=2000, warmup_steps=100, decay_steps=200).resolve(1)
    np.testing.assert_array_equal(factors(schedule, law=law_of(schedule, 1024)), factors(wsd))
    assert np.abs(factors(schedule, law=law_of(schedule, 16)) - factors(wsd)).max() > 0.1


def test_dolomite_s_vector() -> None:
    """Batch 1024 and length 4096; its `a` is 4 times the batch: a factor min(1, (a / lr) * (step * tokens)^b)."""
    schedule = run(steps=24_000, warmup_steps=238, decay_steps=None, index="dolomite")
    found = CAP * factors(schedule, law=law_of(schedule, 1024))
    assert found[0] == 0
    np.testing.assert_allclose(found[[1, 238, 239, 2380, 23800]], [8.4e-5, 0.02, 0.02, 0.02, 0.010064], rtol=5e-4)
    theirs = np.minimum(1, 4 * 1024 / CAP * (np.arange(238.0, 24_000) * 1024 * 4096) ** B)
    np.testing.assert_allclose(found[238:], CAP * theirs, rtol=1e-12)
    ours = run(steps=24_000, warmup_steps=238, decay_steps=None)
    assert factors(ours, law=law_of(ours, 1024))[0] > 0


def test_olmo_core_s_form_is_ours_where_the_warm_up_ends_below_the_cap() -> None:
    """Its Power is eta * (c / W)^b with a linear tail and c = i + 1, for eta = beta * a * n_W^b."""
    batch, total, warmup, decay = 16, 2000, 200, 300
    schedule = run(steps=total, warmup_steps=warmup, decay_steps=decay, index="olmo_core")
    eta = float(power_law(A, B, batch, warmup * batch * 4096))
    assert eta < CAP
    theirs = []
    for c in range(1, total + 1):
        if c <= warmup:
            theirs.append(eta * c / warmup)
        elif c <= total - decay:
            theirs.append(eta * (c / warmup) ** B)
        else:
            theirs.append(eta * ((total - decay) / warmup) ** B * (total - c) / decay)
    found = CAP * factors(schedule, law=law_of(schedule, batch))
    np.testing.assert_allclose(found, theirs, rtol=1e-12, atol=1e-18)
    ours = run(steps=total, warmup_steps=warmup, decay_steps=decay)
    assert np.abs(CAP * factors(ours, law=law_of(ours, batch)) - theirs).max() > 1e-6
    capped = CAP * factors(schedule, law=law_of(schedule, 1024))
    assert np.abs(capped / capped.max() - np.array(theirs) / eta).max() > 0.01


def test_no_infinity_without_a_warm_up_and_no_overflow_after_trillions_of_tokens() -> None:
    first = factors(run(warmup_steps=0), law=law_of(run(), 16))
    assert np.isfinite(first).all()
    assert first[0] == pytest.approx(min(1, float(power_law(A, B, 16, 16 * 4096)) / CAP))
    batch = 1024
    long = run(steps=3 * 10**6, decay_steps=0)  # 1.26e13 tokens; int32 holds 2.1e9
    n = np.array([511, 512, 513, 1024, 2_384_186])
    found = np.array([CAP * factors(long, i, i + 1, law=law_of(long, batch))[0] for i in n.tolist()])
    expected = np.minimum(CAP, [batch * A * (int(i) * batch * 4096) ** B for i in n])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert n[-1] * batch * 4096 > 1e13 - 1e10
    single = np.float32(batch * A) * (n.astype(np.float32) * np.float32(batch * 4096)) ** np.float32(B)
    np.testing.assert_allclose(np.minimum(CAP, single), expected, rtol=3e-6)


def test_a_run_takes_its_batch_and_its_cap_from_its_configuration(base: RunConfig) -> None:
    config = resolve(base, schedule__kind="power", schedule__steps=40, schedule__warmup_steps=4, optimizer__lr=0.5)
    per_step = config.data.sequences * config.data.length
    law = per_step / 4096 * A * (20 * per_step) ** B
    assert rates(config)[20] == pytest.approx(law, rel=1e-12)
    again = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=2 * law))
    np.testing.assert_allclose(rates(again)[20], law, rtol=1e-12)  # below its cap the law does not know it
    low = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=law / 2))
    assert rates(low)[20] == law / 2
    removed = resolve(config, optimizer__weight_decay=0.1, optimizer__decay="independent")
    np.testing.assert_allclose(decays(removed), 0.1 * rates(removed) / 0.5, rtol=1e-12)


def test_the_law_must_be_given() -> None:
    with pytest.raises(ValueError, match="relative_law"):
        factors(run())
