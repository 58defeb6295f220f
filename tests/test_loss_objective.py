"""Derivatives of the loss law's objective against differences, and the batched Newton method against SciPy's."""

import subprocess
import sys

import numpy as np
import pytest
from loss_data import assert_derivatives, noisy
from scipy.optimize import minimize

from analysis.loss.bootstrap import CONVERGED
from analysis.loss.form import FORMS
from analysis.loss.newton import minimise
from analysis.loss.objective import jacobian, point, soft_sum
from analysis.loss.search import prepared
from analysis.loss.start import non_negative, starts

pytestmark = pytest.mark.host


@pytest.mark.parametrize("over", [1.0, 10.0])
@pytest.mark.parametrize("form", FORMS)
def test_derivatives(form: str, over: float) -> None:
    goal = prepared(noisy(0.01), 3e-3, form, None, None, over)[1]
    theta_P = starts(goal)[0]
    weight_1C = np.random.default_rng(0).integers(0, 3, (1, goal.shape.rows)).astype(float)
    step = 1e-6
    assert_derivatives(goal, theta_P, weight_1C, step)
    for place in range(len(theta_P)):
        moved = np.stack([theta_P, theta_P])
        moved[:, place] += [step, -step]
        m_MC = soft_sum(goal.shape, moved)[0]
        difference_C = (m_MC[0] - m_MC[1]) / (2 * step)
        assert jacobian(goal.shape, theta_P[None])[0, place] == pytest.approx(difference_C, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_batched_newton_reaches_scipy_s_optima(form: str) -> None:
    goal = prepared(noisy(0.005), 1e-2, form, None, None, 1.0)[1]
    start_MP = starts(goal)[::10]
    weight_MC = np.random.default_rng(1).multinomial(goal.shape.rows, np.full(goal.shape.rows, 1 / goal.shape.rows), 3)
    theta_MP = np.repeat(start_MP, 3, axis=0)
    weights_MC = np.tile(weight_MC.astype(float), (len(start_MP), 1))
    lowest_M = minimise(goal, theta_MP, weights_MC).value_M.reshape(-1, 3).min(axis=0)
    for number, weight_C in enumerate(weight_MC.astype(float)):

        def scaled(theta_P: np.ndarray, weight_C: np.ndarray = weight_C) -> tuple[float, np.ndarray]:
            found = point(goal, theta_P[None], weight_C[None], goal.y_C[None])
            return 100 * float(found.value_M[0]), 100 * found.gradient_MP[0]

        bounds = list(zip(goal.shape.lower_P, goal.shape.upper_P, strict=True))
        options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 3000, "maxfun": 9000}
        ends = [minimize(scaled, one_P, jac=True, bounds=bounds, options=options).fun / 100 for one_P in start_MP]
        assert lowest_M[number] <= min(ends) * (1 + 1e-9)
        assert lowest_M[number] == pytest.approx(min(ends), rel=1e-5)


def test_order_and_company_of_problems_change_nothing() -> None:
    goal = prepared(noisy(0.005), 1e-3, "chinchilla", None, None, 1.0)[1]
    start_MP, ones_1C = starts(goal), np.ones((1, 36))
    together, backwards = minimise(goal, start_MP, ones_1C), minimise(goal, start_MP[::-1], ones_1C)
    assert together.value_M == pytest.approx(backwards.value_M[::-1], rel=1e-9)
    assert together.value_M[:1] == pytest.approx(minimise(goal, start_MP[:1], ones_1C).value_M, rel=1e-9)


def test_every_start_is_followed_to_its_end() -> None:
    """A search that is cut off ends where rounding led it, which follows the shape of its batch and the processor."""
    goal = prepared(noisy(0.005), 1e-3, "chinchilla", None, None, 1.0)[1]
    start_MP, ones_1C = starts(goal), np.ones((1, 36))
    assert (minimise(goal, start_MP, ones_1C).decrement_M <= CONVERGED).all()
    assert not (minimise(goal, start_MP, ones_1C, steps=100).decrement_M <= CONVERGED).all()  # the control


def test_subsets_give_non_negative_least_squares() -> None:
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    columns_GKC, target_C = rng.standard_normal((50, 3, 8)), rng.standard_normal(8)
    found_GK = non_negative(columns_GKC, target_C)
    for columns_KC, found_K in zip(columns_GKC, found_GK, strict=True):
        assert found_K == pytest.approx(nnls(columns_KC.T, target_C)[0], abs=1e-8)


def test_the_law_needs_numpy_only() -> None:
    code = "import sys, analysis.loss.law; print(sorted({'jax', 'scipy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
