"""Recipe: a parametrization applied to someone's own model, whatever library it is written in.

    recipe = lab.parametrize(params, roles, dims={"width": 1024, ...}, base_dims={"width": 256, ...})
    params = recipe.init(key, params)
    loss = lambda params, batch: model(recipe.scaled(params), batch)
    optimizer = recipe.optimizer(learning_rate)

A recipe is plain data: floats by the path of each leaf.  Nothing is attached to arrays or modules, so it holds before
and after `nnx.split` and `nnx.merge`, under `jit` and `scan`, for sharded arrays, and after a checkpoint is read back.
`docs/parametrizations.md` has a complete example.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from lab.check import InputError, entry, require
from lab.config import OptimizerConfig, ParametrizationConfig
from lab.initializer import initial_params
from lab.optimizer import hyper, optimizer, structure
from lab.parametrization import TABLE, tied_logits
from lab.role import Leaf, RoleRow, assign
from lab.scale import Factors, Setting, attention_scale, base_std, factors
from lab.schedule import OF_RATE

Tree = TypeVar("Tree")


class RecipeState(NamedTuple):
    """Number of updates so far, and the optimizer's state by path."""

    step: jax.Array
    inner: Any


@dataclass(frozen=True)
class Recipe:
    """Every leaf of a model with its role and factors, and the setting that they come from."""

    leaves: Mapping[str, Leaf]
    factors: Mapping[str, Factors]
    setting: Setting
    depth: int | None = None

    def init(self, key: jax.Array, params: Tree) -> Tree:
        """Initial values in the structure, shapes and dtypes of `params` (arrays or shapes): gains 1, biases 0.

        Matrices are normal with std `base_std * init factor`: base fan-in^-1/2, `embedding_std` for embeddings, 0 for
        readouts with `zero_readout`.  To use initialisers of your own, give them their base std times
        `recipe.factors[path].init`.
        """
        flat = self._flat(params)
        std = {path: jnp.asarray(self.init_std[path]) for path in self.leaves}
        made = {
            path: initial_params(key, {path: leaf}, std, flat[path].dtype)[path] for path, leaf in self.leaves.items()
        }
        return _like(params, made)

    def scaled(self, params: Tree) -> Tree:
        """Each weight times its forward factor; give the result to the model wherever it computes with weights."""
        flat = self._flat(params)
        return _like(params, {path: value * self.factors[path].forward for path, value in flat.items()})

    def optimizer(self, lr: float | Callable[[Any], Any] | None = None) -> optax.GradientTransformation:
        """An optax transformation with per-leaf rates, eps and decay; `lr` may be a schedule of the update's number.

        Its state is keyed by path.  An independent decay follows `lr / optimizer.lr`.
        """
        opt = self.setting.optimizer
        schedule = lr if callable(lr) else lambda _: opt.lr if lr is None else lr
        constants = hyper(self.setting, self.leaves, self.factors)

        def chain(step: jax.Array) -> optax.GradientTransformation:
            rate: Any = schedule(step)
            decay = opt.weight_decay * (rate if entry(OF_RATE, opt.decay, "optimizer.decay") else rate / opt.lr)
            return optimizer(structure(opt), constants, self.leaves, rate, decay)

        def init(params: Any) -> RecipeState:
            step = jnp.zeros((), jnp.int32)
            return RecipeState(step, chain(step).init(self._flat(params)))

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RecipeState]:
            require(params is not None, "the optimizer of a recipe needs the parameters: update(grads, state, params)")
            moved: Any
            moved, inner = chain(state.step).update(self._flat(updates), state.inner, self._flat(params))
            return _like(updates, moved), RecipeState(state.step + 1, inner)

        return optax.GradientTransformation(init, update)

    def attention_scale(self, head_dim: int, base_head_dim: int | None = None) -> float:
        """Factor on attention logits for heads of this size: `1/sqrt(d)` or `sqrt(d0)/d`."""
        return attention_scale(self.setting.parametrization, head_dim, base_head_dim)

    def tied_logits(self, embedding: str) -> float:
        """Factor on the logits where `scaled` weights of the embedding at this path are also the readout.

        Raises:
            InputError: the rules do not allow one tensor for both.
        """
        exponent = tied_logits(self.setting.parametrization, self.setting.optimizer)
        return self.leaves[embedding].ratio ** exponent

    @property
    def init_std(self) -> dict[str, float]:
        """Initial standard deviation of every leaf, 0 for biases (and 0 for gains, which start at 1)."""
        parametrization = self.setting.parametrization
        return {
            path: base_std(parametrization, leaf, depth=self.depth) * self.factors[path].init
            for path, leaf in self.leaves.items()
        }

    def table(self) -> list[dict[str, Any]]:
        """One row per leaf, relative to the base shape, as plain data; store it beside a run."""
        return rows(self.leaves, self.factors)

    def _flat(self, tree: Any) -> dict[str, Any]:
        flat = by_path(tree)
        strange, missing = sorted(flat.keys() - self.leaves.keys()), sorted(self.leaves.keys() - flat.keys())
        if strange or missing:
            what = f"has no leaf {missing[0]}" if missing else f"has a leaf {strange[0]} that the recipe does not know"
            raise InputError(f"the tree {what}: build the recipe from the parameters that it is used with")
        return flat


def parametrize(
    params: Any,
    roles: Sequence[RoleRow],
    *,
    dims: Mapping[str, int],
    base_dims: Mapping[str, int] | None = None,
    parametrization: ParametrizationConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    depth: int | None = None,
    batch: int | None = None,
    tokens: int | None = None,
) -> Recipe:
    """The recipe of a model.

    `params` is any pytree of arrays or shapes (NNX state, Linen variables, plain dicts); `roles` gives every leaf
    exactly one role.  `dims` are the fan dimensions that the rows name, `base_dims` those of the model on which rates
    are tuned (absolute parametrizations need none); dimensions that `base_dims` leaves out do not grow, and `one` is
    always known.  The `base_*` widths of `parametrization` belong to the laboratory's own transformer and are not used.
    `depth` is the number of blocks, for depth rules; `batch` (tokens per update) and `tokens` (of the whole run) are
    for horizon rules.

    Raises:
        InputError: a leaf without exactly one role or of another shape than its row says, by name; or rules that
            contradict each other.
    """
    chosen = ParametrizationConfig() if parametrization is None else parametrization
    absolute = TABLE[chosen.name].absolute
    require(
        absolute or base_dims is not None,
        f"parametrization {chosen.name} is relative to a base model: give base_dims, the dimensions at which you tune",
    )
    require(
        chosen.depth == "none" or depth is not None,
        f"parametrization.depth={chosen.depth} needs the number of blocks: give depth",
    )
    require(
        chosen.horizon == "none" or (batch is not None and tokens is not None),
        f"parametrization.horizon={chosen.horizon} needs the run's size: give batch (tokens per update) and tokens",
    )
    strange = sorted((base_dims or {}).keys() - dims.keys())
    require(not strange, f"base_dims names {', '.join(strange)}, which is not in dims")
    known = {"one": 1} | dict(dims)
    base = dict.fromkeys(known, 1) if absolute else known | dict(base_dims or {})
    leaves = assign(roles, {path: value.shape for path, value in by_path(params).items()}, dims=known, base_dims=base)
    setting = Setting(
        chosen,
        OptimizerConfig() if optimizer is None else optimizer,
        depth=_ratio(depth, chosen.base_depth),
        batch=_ratio(batch, chosen.base_batch),
        data=_ratio(tokens, chosen.base_tokens),
    )
    return Recipe(leaves, {path: factors(leaf, setting) for path, leaf in leaves.items()}, setting, depth)


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path, as in `blocks/0/kernel`; NNX variables count as their value."""
    flat: dict[str, Any] = {}
    for keys, value in jax.tree_util.tree_flatten_with_path(tree)[0]:
        held = bool(keys) and keys[-1] == jax.tree_util.GetAttrKey("value")
        flat[jax.tree_util.keystr(keys[:-1] if held else keys, simple=True, separator="/")] = value
    return flat


def rows(leaves: Mapping[str, Leaf], found: Mapping[str, Factors]) -> list[dict[str, Any]]:
    """Factors as plain data: path, role, init_std, forward, lr, eps, weight_decay, each relative to the base shape."""
    return [
        {
            "path": path,
            "role": str(leaf.role),
            "init_std": found[path].init,
            "forward": found[path].forward,
            "lr": found[path].lr,
            "eps": found[path].eps,
            "weight_decay": found[path].weight_decay,
        }
        for path, leaf in leaves.items()
    ]


def _ratio(size: int | None, base: int | None) -> float:
    return size / base if size is not None and base is not None else 1.0


def _like(tree: Any, flat: Mapping[str, Any]) -> Any:
    """`flat` in the structure of `tree`."""
    return jax.tree.unflatten(jax.tree.structure(tree), [flat[path] for path in by_path(tree)])
