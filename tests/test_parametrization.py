"""The table of rules: the worked vector of muP's Table 8, base identity, and full coverage by roles."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import job_of, resolve, trained

from lab import train
from lab.config import RunConfig
from lab.model import ROLES, leaves
from lab.parametrization import TABLE, scales
from lab.role import Role, RoleRow, assign, row_of

VARIANTS = [
    {},
    {"model__norm": "layernorm", "model__bias": True, "model__position": "learned"},
    {"model__mlp": "swiglu", "model__qk_norm": True, "model__kv_heads": 1, "parametrization__base_kv_width": 8},
    {"model__tied": True},
    {"model__placement": "post", "model__bias": True, "model__mlp": "swiglu"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_leaf_has_exactly_one_role(base: RunConfig, changes: dict[str, object]) -> None:
    table = leaves(resolve(base, **changes))
    assert all(sum(1 for row in ROLES if row == row_of(ROLES, path)) == 1 for path in table)
    assert {leaf.role for leaf in table.values()} >= {Role.EMBEDDING, Role.HIDDEN, Role.GAIN}


def test_a_leaf_without_a_role_fails_by_name() -> None:
    dims = {"one": 1, "width": 4}
    with pytest.raises(ValueError, match="parameter lonely needs exactly one role, but matches 0 rows: none"):
        assign(ROLES, {"lonely": (4,)}, dims=dims, base_dims=dims)


def test_a_leaf_with_two_roles_fails_by_name() -> None:
    rows = (RoleRow("a*", Role.GAIN, "one", "width"), RoleRow("*b", Role.BIAS, "one", "width"))
    dims = {"one": 1, "width": 4}
    with pytest.raises(ValueError, match=r"parameter ab needs exactly one role, but matches 2 rows: a\*, \*b"):
        assign(rows, {"ab": (4,)}, dims=dims, base_dims=dims)


def test_a_wrong_fan_fails_by_name() -> None:
    dims = {"one": 1, "width": 4}
    with pytest.raises(ValueError, match=r"parameter a has shape \(5,\), but its role row says fans \(4,\)"):
        assign((RoleRow("a", Role.GAIN, "one", "width"),), {"a": (5,)}, dims=dims, base_dims=dims)


# m = 4: (init std over base, forward, lr, eps) of each role for Adam, and the SGD rate.
MUP = {
    "embedding/token": (1, 1, 1, 1 / 4, 4),
    "blocks/mlp/up/kernel": (1 / 2, 1, 1 / 4, 1 / 4, 1),
    "blocks/mlp/down/kernel": (1 / 2, 1, 1 / 4, 1 / 4, 1),
    "blocks/attention/query/kernel": (1 / 2, 1, 1 / 4, 1 / 4, 1),
    "readout/kernel": (1, 1 / 4, 1, 1 / 4, 4),
    "final_norm/gain": (None, 1, 1, 1 / 4, 4),
    "blocks/mlp/up/bias": (None, 1, 1, 1 / 4, 4),
}
SP = {
    "embedding/token": (1, 1, 1, 1, 1),
    "blocks/mlp/up/kernel": (1 / 2, 1, 1, 1, 1),
    "readout/kernel": (1 / 2, 1, 1, 1, 1),
    "final_norm/gain": (None, 1, 1, 1, 1),
}


@pytest.mark.parametrize(("name", "expected"), [("mup", MUP), ("sp", SP)])
def test_worked_vector_at_four_times_the_width(base: RunConfig, name: str, expected: dict[str, tuple]) -> None:
    settings = {"parametrization__name": name, "parametrization__zero_readout": False, "model__bias": True}

    def found(width: int, kind: str):
        run = resolve(base, **settings, model__width=width, optimizer__kind=kind)
        return scales(run, leaves(run))

    small, wide, sgd = found(16, "adamw"), found(64, "adamw"), found(64, "sgd")
    for path, (std, forward, lr, eps, lr_sgd) in expected.items():
        if std is not None:
            assert wide.init_std[path] / small.init_std[path] == std
        assert (wide.forward[path], wide.lr[path], wide.eps[path], sgd.lr[path]) == (forward, lr, eps, lr_sgd)


def test_everything_is_one_at_the_base_shape(base: RunConfig) -> None:
    for name in TABLE:
        for kind in ("adamw", "sgd"):
            run = resolve(base, parametrization__name=name, optimizer__kind=kind)
            found = scales(run, leaves(run))
            for values in (found.forward, found.lr, found.eps):
                assert set(values.values()) == {1.0}
            assert found.attention == 8**-0.5
            assert found.logits == 1.0


def test_attention_scale_with_a_growing_head_dimension(base: RunConfig) -> None:
    def attention(name: str) -> float:
        run = resolve(
            base, parametrization__name=name, model__head_dim=32, model__width=64, parametrization__base_head_dim=8
        )
        return scales(run, leaves(run)).attention

    assert attention("sp") == pytest.approx(32**-0.5)
    assert attention("mup") == pytest.approx(8**0.5 / 32)


def test_fans_follow_each_matrix_and_not_the_width(base: RunConfig) -> None:
    """With a fixed MLP width, only what the model width feeds is rescaled."""
    run = resolve(base, model__width=64, model__mlp_width=64, parametrization__base_mlp_width=64)
    found = scales(run, leaves(run))
    assert found.lr["blocks/mlp/up/kernel"] == 1 / 4
    assert found.lr["blocks/mlp/down/kernel"] == 1


def test_gains_and_biases_are_never_decayed(base: RunConfig) -> None:
    run = resolve(base, model__bias=True, model__width=64, optimizer__weight_decay=0.1)
    decay = scales(run, leaves(run)).decay
    assert decay["final_norm/gain"] == decay["blocks/mlp/up/bias"] == 0
    assert decay["blocks/mlp/up/kernel"] == 1 / 4
    independent = resolve(run, optimizer__decay="independent")
    assert scales(independent, leaves(independent)).decay["blocks/mlp/up/kernel"] == 1


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_mup_at_base_width_is_sp_bitwise_and_not_elsewhere(base: RunConfig, kind: str) -> None:
    def losses(width: int) -> np.ndarray:
        runs = [
            resolve(base, parametrization__name=name, model__width=width, optimizer__kind=kind)
            for name in ("sp", "mup")
        ]
        return trained(runs)[1].loss

    same, other = losses(16), losses(32)
    np.testing.assert_array_equal(same[:, 0], same[:, 1])
    assert np.abs(other[:, 0] - other[:, 1]).max() > 1e-4


def test_initial_values_have_the_std_of_the_table(base: RunConfig) -> None:
    run = resolve(base, model__width=64, parametrization__init_scale=2.0)
    job = job_of([run])
    params = train.start(job).state.params
    table = scales(run, leaves(run))
    for path, leaf in leaves(run).items():
        values = np.asarray(params[path][0])
        if leaf.role == Role.GAIN:
            assert (values == 1).all()
        elif table.init_std[path] == 0:
            assert (values == 0).all()
        else:
            assert values.std() == pytest.approx(table.init_std[path], rel=0.1)
    assert jnp.all(params["readout/kernel"] == 0)
