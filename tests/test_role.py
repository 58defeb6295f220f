"""Roles: every leaf exactly one, fans by named dimensions, axes that may lie anywhere."""

import re

import pytest
from conftest import resolve
from test_parametrization import VARIANTS

from lab.config import RunConfig
from lab.model import leaves
from lab.role import Role, RoleRow, assign, row_of
from lab.transformer import ROLES

pytestmark = pytest.mark.host

DIMS = {"one": 1, "width": 4}


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_leaf_has_exactly_one_role(base: RunConfig, changes: dict[str, object]) -> None:
    table = leaves(resolve(base, **changes))
    assert all(sum(1 for row in ROLES if row == row_of(ROLES, path)) == 1 for path in table)
    assert {leaf.role for leaf in table.values()} >= {Role.EMBEDDING, Role.HIDDEN, Role.GAIN}


def test_only_blocks_are_stacked(base: RunConfig) -> None:
    for path, leaf in leaves(resolve(base, model__bias=True, model__position="learned")).items():
        assert leaf.stacked == ((0,) if path.startswith("blocks/") else ())


def test_a_leaf_without_a_role_fails_by_name() -> None:
    with pytest.raises(ValueError, match="parameter lonely needs exactly one role, but matches 0 rows: none"):
        assign(ROLES, {"lonely": (4,)}, dims=DIMS, base_dims=DIMS)


def test_a_leaf_with_two_roles_fails_by_name() -> None:
    rows = (RoleRow("a*", Role.GAIN, "one", "width"), RoleRow(re.compile(".*b"), Role.BIAS, "one", "width"))
    with pytest.raises(ValueError, match=r"parameter ab needs exactly one role, but matches 2 rows: a\*, \.\*b"):
        assign(rows, {"ab": (4,)}, dims=DIMS, base_dims=DIMS)


@pytest.mark.parametrize("shape", [(5,), (4, 5), ()])
def test_a_wrong_fan_fails_by_name(shape: tuple[int, ...]) -> None:
    rows = (RoleRow("a", Role.GAIN, "one", "width"),)
    with pytest.raises(ValueError, match=r"parameter a has shape .*, but its role row says width=4 on axes \(-1,\)"):
        assign(rows, {"a": shape}, dims=DIMS, base_dims=DIMS)


def test_an_unknown_dimension_fails_by_name() -> None:
    rows = (RoleRow("a", Role.GAIN, "one", "widht"),)
    with pytest.raises(ValueError, match="parameter a: fan dimension widht is not one of one, width"):
        assign(rows, {"a": (4,)}, dims=DIMS, base_dims=DIMS)


def test_fans_may_span_axes_and_stacked_axes_may_lie_between() -> None:
    """A kernel (width, layers, heads, head_dim) of a model that scans over its second axis."""
    rows = (RoleRow("q", Role.HIDDEN, "width", "inner", in_axes=(0,), out_axes=(2, 3)),)
    dims = {"width": 8, "inner": 6}
    (leaf,) = assign(rows, {"q": (8, 5, 2, 3)}, dims=dims, base_dims={"width": 4, "inner": 3}).values()
    assert (leaf.fan_in, leaf.fan_out, leaf.stacked) == (8, 6, (1,))
    assert (leaf.ratio, leaf.ratio_out) == (2, 2)
