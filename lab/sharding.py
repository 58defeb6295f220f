"""Where arrays live on a mesh: a rule per role for the state, the batch over rows, lanes over their own axis.

Letters: K lanes, S steps of a segment, U data seeds, B sequences, M = B*T rows of activations, D width.

Matrices follow Megatron-LM (arXiv 1909.08053) along `tensor`: columns of what opens a branch and rows of what ends it,
so that one sum per branch joins them; and ZeRO stage 3 (arXiv 1910.02054) along `fsdp`: the other dimension is cut, and
gathered where it is used.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lab.check import entry, require
from lab.config import RunConfig
from lab.config.mesh import MeshConfig
from lab.role import Leaf, Place, Role

# The rows of a batch are cut along both.
ROWS = ("data", "fsdp")


class Rule(NamedTuple):
    """The mesh axes that cut a parameter's fan-in and fan-out."""

    fan_in: str | None
    fan_out: str | None


RULES: dict[Role, Rule] = {
    Role.EMBEDDING: Rule("tensor", "fsdp"),
    Role.HIDDEN: Rule("fsdp", "tensor"),
    Role.READOUT: Rule("fsdp", "tensor"),
    Role.GAIN: Rule(None, None),
    Role.BIAS: Rule(None, None),
}
# Of hidden matrices that end a branch, whose fan-in is what the branch's first matrix has cut.
BRANCH_END = Rule("tensor", "fsdp")


def leaf_spec(leaf: Leaf, mesh: Mesh) -> P:
    """How one lane's copy of a parameter is cut; a dimension that an axis does not divide stays whole."""
    rule = BRANCH_END if leaf.role == Role.HIDDEN and leaf.place == Place.BRANCH_END else RULES[leaf.role]
    cuts: list[str | None] = [None] * len(leaf.shape)
    for name, axes in ((rule.fan_in, leaf.in_axes), (rule.fan_out, leaf.out_axes)):
        if name is not None and axes and leaf.shape[axes[0]] % mesh.shape[name] == 0:
            cuts[axes[0]] = name
    return P(*cuts)


def state(state: Any, leaves: Mapping[str, Leaf], mesh: Mesh | None) -> Any:
    """Shardings of a state (arrays or shapes [K, ...]): what has a parameter's path and shape lies as it does.

    All else (steps, factored moments) is whole in every device of its lane.
    """

    def one(mesh: Mesh, path: tuple[Any, ...], value: Any) -> NamedSharding:
        named = [leaves[key.key] for key in path if getattr(key, "key", None) in leaves]
        same = named and value.shape[1:] == named[-1].shape
        return NamedSharding(mesh, P("lane", *(leaf_spec(named[-1], mesh) if same else ())))

    return None if mesh is None else jax.tree_util.tree_map_with_path(functools.partial(one, mesh), state)


def lanes(mesh: Mesh | None) -> NamedSharding | None:
    """Arrays [K, ...]; None, here and below, without a mesh."""
    return mesh and NamedSharding(mesh, P("lane"))


def columns(mesh: Mesh | None) -> NamedSharding | None:
    """Arrays [S, K]."""
    return mesh and NamedSharding(mesh, P(None, "lane"))


def rows(mesh: Mesh | None, axis: int) -> NamedSharding | None:
    """Arrays whose axis `axis` is the sequences of a batch."""
    return mesh and NamedSharding(mesh, P(*[None] * axis, ROWS))


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """Arrays that every device has."""
    return mesh and NamedSharding(mesh, P())


def spread(x_MD: jax.Array) -> jax.Array:
    """An array whose first axis is cut as rows are, inside a compiled function; unchanged where no mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x_MD
    return jax.lax.with_sharding_constraint(x_MD, P(ROWS, *[None] * (x_MD.ndim - 1)))


def looked_up(table_VD: jax.Array) -> jax.Array:
    """An embedding gathered along its width, inside a compiled function; unchanged where no mesh is set.

    Every device then finds its own rows of the batch; left alone, the compiler may find all rows on all devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return table_VD
    return jax.lax.with_sharding_constraint(table_VD, P(*[P.UNCONSTRAINED] * (table_VD.ndim - 1), None))


def contraction_cut() -> bool:
    """Whether sums over a dimension of the weights are made of parts on several devices, inside a compiled function."""
    return _devices("tensor") > 1


def row_parts() -> int:
    """Parts that the rows of a batch are cut into, inside a compiled function."""
    return math.prod(_devices(axis) for axis in ROWS)


def _devices(axis: str) -> int:
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def as_params(tree: dict[str, jax.Array], leaves: Mapping[str, Leaf], mesh: Mesh | None) -> dict[str, jax.Array]:
    """One lane's gradients lying as its parameters do, inside a compiled function."""
    if mesh is None:
        return tree
    return {
        path: jax.lax.with_sharding_constraint(value, leaf_spec(leaves[path], mesh)) for path, value in tree.items()
    }


def check(config: RunConfig, mesh: MeshConfig, accumulate: int) -> None:
    """Require that a mesh cuts a run into equal parts.

    Raises:
        InputError: naming what it does not divide.
    """
    part = config.data.sequences // accumulate
    cut = f" in {accumulate} parts (exec.accumulate)" if accumulate > 1 else ""
    require(
        part % mesh.rows == 0,
        f"exec.mesh.data={mesh.data} x exec.mesh.fsdp={mesh.fsdp} does not divide data.sequences="
        f"{config.data.sequences}{cut}: use a larger batch or fewer devices along them",
    )
    require(
        config.model.width % mesh.fsdp == 0,
        f"exec.mesh.fsdp={mesh.fsdp} does not divide model.width={config.model.width}: use one of its divisors",
    )
    divided = {"transformer": ("heads", config.model.heads), "mlp": ("width", config.model.width)}
    name, size = entry(divided, config.model.kind, "model.kind")
    assert size is not None
    require(
        size % mesh.tensor == 0,
        f"exec.mesh.tensor={mesh.tensor} does not divide model.{name}={size}: use one of its divisors",
    )
