"""Our curvature beside libraries of PyTorch, from the same weights in float64: curvlinops with SciPy, and PyHessian.

Eigenvalues do not depend on the order of parameters, so that both sides keep their own.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import parity_cases as parity
import pytest
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import eigsh

from lab.config import RunConfig
from lab.curvature import gauss_newton, hessian, loss_and_gradient
from lab.lanczos import Operator, lanczos, ritz, start
from lab.model import Forward
from lab.objective import Objective, cross_entropy, language, windows
from lab.override import apply
from lab.program import program, shape_of

KEY = jax.random.key(0, impl="threefry2x32")
pytestmark = [
    # PyHessian keeps the graph of the gradient, which PyTorch warns of.
    pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True:UserWarning"),
    # PyTorch's own forward mode, which curvlinops uses, compiles what it needs when it is first used.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]
GPT = parity.Case("completep", "adamw", lr=0.1, width=16, base_width=16, depth=1, base_depth=1, attention=8**-0.5)
INPUTS, HIDDEN, CLASSES, ROWS = 12, (14, 14), 8, 60


class Problem(NamedTuple):
    """One loss on one batch: ours, and the same as a module and its data."""

    objective: Objective
    params: Any
    parts: Any
    module: Any
    data: Any


class Case(NamedTuple):
    """A problem with our five largest eigenvalues of the Hessian and of the Gauss-Newton matrix."""

    problem: Problem
    hessian_K: np.ndarray
    gauss_newton_K: np.ndarray


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    """PyTorch with float64 as its default, which PyHessian's random vectors take; skips without the extra."""
    for package in ("torch", "mup", "curvlinops", "pyhessian"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lr-scaling-lab[parity]'")
    found = importlib.import_module("torch")
    found.set_default_dtype(found.float64)
    with jax.enable_x64(True):
        yield found
    found.set_default_dtype(found.float32)


def perceptron(torch: ModuleType) -> Problem:
    """Three layers of tanh on random rows, a few steps of descent away from random weights."""
    rng = np.random.default_rng(0)
    sizes = (INPUTS, *HIDDEN, CLASSES)
    params = {
        f"{part}{layer}": jnp.asarray(rng.normal(size=(a, b) if part == "w" else (b,)) / a**0.5)
        for layer, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
        for part in ("w", "b")
    }
    x_MD = rng.normal(size=(ROWS, INPUTS))
    y_M = rng.integers(CLASSES, size=ROWS)

    def outputs(params: Any, part: Any) -> jax.Array:
        h_MD = part[0]
        for layer in range(len(sizes) - 1):
            h_MD = (jnp.tanh(h_MD) if layer else h_MD) @ params[f"w{layer}"] + params[f"b{layer}"]
        return h_MD

    objective = cross_entropy(outputs, lambda part: part[1], lambda part: jnp.ones(part[1].shape))
    parts = (jnp.asarray(x_MD)[None], jnp.asarray(y_M)[None])
    theta_N, unravel = ravel_pytree(params)
    descend = jax.jit(lambda theta_N: theta_N - 0.5 * loss_and_gradient(objective, unravel(theta_N), parts)[1])
    for _ in range(30):
        theta_N = descend(theta_N)
    params = unravel(theta_N)

    nn, layers = torch.nn, []
    for layer, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        linear = nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.array(params[f"w{layer}"]).T))
            linear.bias.copy_(torch.tensor(np.array(params[f"b{layer}"])))
        layers += [nn.Tanh(), linear] if layer else [linear]
    return Problem(objective, params, parts, nn.Sequential(*layers), (torch.tensor(x_MD), torch.tensor(y_M)))


def transformer(torch: ModuleType, base: RunConfig) -> Problem:
    """The GPT of `torch_reference` with learned positions and biases, at random weights, and its tokens."""
    settings = {
        "dtype": "float64",
        "parametrization.name": "sp",
        "model.width": GPT.width,
        "model.depth": GPT.depth,
        "model.head_dim": parity.HEAD_DIM,
        "model.norm": "layernorm",
        "model.position": "learned",
        "model.bias": True,
        "data.length": parity.LENGTH,
    }
    config = apply(base, settings).resolve(vocab=parity.VOCAB, fingerprint="made up")
    made = program(shape_of(config, lanes=1, strategy="vmap", group=1, segment=1, forward=Forward(attention="einsum")))
    lane = jax.tree.map(lambda leaf: leaf[0], made.lanes([config])[0])
    tokens = parity.windows()[0].astype(np.int64)
    params = {path: jnp.asarray(value) for path, value in parity.weights(GPT).items()}
    rival = importlib.import_module("torch_reference").model(GPT, torch.float64)

    class Norm(torch.nn.Module):
        """A layer norm written out: PyTorch's forward mode through the gradient of its own is wrong, by a thousandth
        here (pytorch/pytorch#196700); its reverse mode and differences of gradients agree with ours.
        """

        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

        def forward(self, x_BTD: Any) -> Any:
            d_BTD = x_BTD - x_BTD.mean(-1, keepdim=True)
            return self.weight * d_BTD * ((d_BTD**2).mean(-1, keepdim=True) + self.eps).rsqrt() + self.bias

    class Rows(torch.nn.Module):
        """Logits [B*T, V], as our outputs are, so that the criterion's mean is over tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.model = rival

        def forward(self, tokens_BT: Any) -> Any:
            return self.model(tokens_BT).flatten(0, 1)

    for block in rival.blocks:
        block.attention_norm, block.mlp_norm = Norm(block.attention_norm), Norm(block.mlp_norm)
    rival.final_norm = Norm(rival.final_norm)
    data = torch.from_numpy(tokens[:, :-1]), torch.from_numpy(tokens[:, 1:].reshape(-1))
    return Problem(language(made, lane), params, windows(jnp.asarray(tokens, jnp.int32)), Rows(), data)


@pytest.fixture(scope="module", params=["perceptron", pytest.param("transformer", marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest, torch: ModuleType, base: RunConfig) -> Case:
    problem = perceptron(torch) if request.param == "perceptron" else transformer(torch, base)
    return Case(problem, tops(problem, hessian), tops(problem, gauss_newton))


def tops(problem: Problem, operator: Any) -> np.ndarray:
    """Our five largest, with residuals that say they have converged."""
    matvec: Operator = operator(problem.objective, problem.params, problem.parts)
    found = ritz(jax.jit(lambda v_N: lanczos(matvec, v_N, 120))(start(KEY, ravel_pytree(problem.params)[0])))
    assert (found.largest(5).residuals < 1e-6 * found.values[0]).all()
    return found.largest(5).values


def theirs(torch: ModuleType, problem: Problem, name: str, data: Any) -> np.ndarray:
    """The five largest by ARPACK, of an operator of curvlinops; its default would be the largest in size."""
    values = list(problem.module.parameters())
    made = getattr(importlib.import_module("curvlinops"), name)
    operator = made(problem.module, torch.nn.CrossEntropyLoss(), values, [data]).to_scipy()
    start_N = np.random.default_rng(0).normal(size=operator.shape[0])
    return np.sort(eigsh(operator, k=5, which="LA", v0=start_N, return_eigenvectors=False))[::-1]


def test_both_sides_have_one_loss_and_one_gradient(torch: ModuleType, case: Case) -> None:
    problem = case.problem
    loss, gradient_N = loss_and_gradient(problem.objective, problem.params, problem.parts)
    rival = torch.nn.CrossEntropyLoss()(problem.module(problem.data[0]), problem.data[1])
    gradients = torch.autograd.grad(rival, list(problem.module.parameters()))
    norm = sum((value**2).sum().item() for value in gradients) ** 0.5
    assert sum(value.numel() for value in gradients) == gradient_N.size
    assert float(loss) == pytest.approx(rival.item(), rel=1e-13)
    assert float(jnp.linalg.norm(gradient_N)) == pytest.approx(norm, rel=1e-12)


def test_hessian_eigenvalues_are_those_of_curvlinops_and_arpack(torch: ModuleType, case: Case) -> None:
    found = theirs(torch, case.problem, "HessianLinearOperator", case.problem.data)
    np.testing.assert_allclose(case.hessian_K, found, rtol=1e-8)


def test_gauss_newton_eigenvalues_are_those_of_curvlinops_and_arpack(torch: ModuleType, case: Case) -> None:
    found = theirs(torch, case.problem, "GGNLinearOperator", case.problem.data)
    np.testing.assert_allclose(case.gauss_newton_K, found, rtol=1e-8)
    assert abs(found[0] / case.hessian_K[0] - 1) > 1e-4  # the two are not one


def test_another_batch_misses(torch: ModuleType, case: Case) -> None:
    """The control: with one target changed their eigenvalues are far beyond the tolerance."""
    inputs, targets = case.problem.data
    changed = targets.clone()
    changed[0] = (changed[0] + 1) % CLASSES
    found = theirs(torch, case.problem, "HessianLinearOperator", (inputs, changed))
    assert abs(found[0] / case.hessian_K[0] - 1) > 1e-5


def test_the_largest_eigenvalue_is_that_of_pyhessian(torch: ModuleType, case: Case) -> None:
    """Its default stops where two estimates differ by a thousandth, which power iteration does before it is there."""
    problem, ours = case.problem, case.hessian_K[0]
    made = importlib.import_module("pyhessian").hessian
    rival = made(problem.module, torch.nn.CrossEntropyLoss(), data=problem.data, cuda=False)
    torch.manual_seed(0)
    assert rival.eigenvalues()[0][0] == pytest.approx(ours, rel=0.02)
    assert rival.eigenvalues(maxIter=1000, tol=1e-6)[0][0] == pytest.approx(ours, rel=1e-4)
