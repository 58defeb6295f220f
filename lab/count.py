"""Parameter counts and training FLOPs in closed form; no JAX."""

from collections.abc import Mapping
from dataclasses import dataclass

from lab.check import entry, require
from lab.config import ModelConfig, RunConfig
from lab.role import Leaf, Role


@dataclass(frozen=True)
class Parameters:
    """`embedding`: token and position embeddings and an untied readout; `non_embedding`: the rest, the N of laws."""

    non_embedding: int
    embedding: int

    @property
    def total(self) -> int:
        return self.non_embedding + self.embedding


def parameters(model: ModelConfig, length: int) -> Parameters:
    """Counts of a resolved model.

    With d width, a = heads * head_dim, g = kv_heads * head_dim, f mlp_width, c = 3 (swiglu) or 2 (gelu):
    blocks hold `L (2 d a + 2 d g + c d f)` in matrices, plus gains and biases; embeddings `V d`, positions `T d`,
    the readout `d V`.  The residual network with k layers per block and a context of C tokens: blocks `L k d^2` (with
    biases `L k (d^2 + d)`), embeddings `C V d`, the readout `d V`.
    """
    if _residual(model):
        assert model.vocab is not None
        biases = model.depth * model.block_layers * model.width if model.bias else 0
        return Parameters(matrix_parameters(model) + biases, (model.context + 1) * model.vocab * model.width)
    d, depth, inner, kv, f = _widths(model)
    assert model.vocab is not None and model.head_dim is not None
    wide = mlp_matrices(model) - 1
    norm = d + (d if model.bias and model.norm == "layernorm" else 0)
    gains = 2 * norm + (2 * model.head_dim if model.qk_norm else 0)
    biases = (inner + 2 * kv + d + wide * f + d) if model.bias else 0
    final = norm if model.placement == "pre" else 0
    embedding = model.vocab * d * (1 if model.tied else 2)
    positions = length * d if model.position == "learned" else 0
    return Parameters(
        non_embedding=matrix_parameters(model) + depth * (gains + biases) + final,
        embedding=embedding + positions,
    )


def matrix_parameters(model: ModelConfig) -> int:
    """Entries of the blocks' matrices: `L (2 d a + 2 d g + c d f)`; residual network: `L k d^2`."""
    if _residual(model):
        return model.depth * model.block_layers * model.width**2
    d, depth, inner, kv, f = _widths(model)
    return depth * (2 * d * inner + 2 * d * kv + mlp_matrices(model) * d * f)


def product_parameters(model: ModelConfig) -> int:
    """Entries of the matrices that every token is multiplied by: those of the blocks and the readout's `d V`."""
    assert model.vocab is not None
    return matrix_parameters(model) + model.width * model.vocab


def mlp_matrices(model: ModelConfig) -> int:
    """Matrices `d f` of a transformer's MLP."""
    return entry({"swiglu": 3, "gelu": 2}, model.mlp, "model.mlp")


def check(model: ModelConfig, length: int, leaves: Mapping[str, Leaf]) -> None:
    """Require that the closed forms, from which N and FLOPs of records come, say what the parameters of a model are.

    Raises:
        InputError: naming what differs, and both numbers.
    """
    sizes = dict.fromkeys(Role, 0)
    for leaf in leaves.values():
        sizes[leaf.role] += leaf.size
    found, total = parameters(model, length), sum(sizes.values())
    embedding = sizes[Role.EMBEDDING] + sizes[Role.READOUT]
    # A tied embedding is the readout too: its rows, without those of learned positions.
    readout = sizes[Role.READOUT] or model.width * (model.vocab or 0)
    for what, closed, counted in (
        ("parameters of blocks and norms (N)", found.non_embedding, total - embedding),
        ("parameters of embeddings and readout", found.embedding, embedding),
        (
            "entries of matrices that tokens are multiplied by (FLOPs)",
            product_parameters(model),
            sizes[Role.HIDDEN] + readout,
        ),
    ):
        require(
            closed == counted,
            f"model.kind={model.kind}: lab/count.py says {closed:,} {what}, and its leaves have {counted:,}: mend the "
            "closed form",
        )


def training_flops_per_token(model: ModelConfig, length: int) -> float:
    """`6 (N_matrices + d V) + 12 L T a`: forward and backward, attention counted over all T positions (not half).

    The residual network has no attention, and its embedding (additions, no products) counts as nothing too.
    """
    products = 6.0 * product_parameters(model)
    if _residual(model):
        return products
    _, depth, inner, _, _ = _widths(model)
    return products + 12.0 * depth * length * inner


def step_flops(config: RunConfig) -> float:
    """FLOPs of one update."""
    return training_flops_per_token(config.model, config.data.length) * config.data.tokens_per_step


def evaluation_flops(config: RunConfig) -> float:
    """FLOPs of the evaluation at the end: a third of training per token."""
    tokens = config.evaluation.sequences * config.data.length
    return training_flops_per_token(config.model, config.data.length) * tokens / 3


def training_flops(config: RunConfig) -> float:
    """FLOPs of a whole run, its evaluation included."""
    assert config.schedule.steps is not None
    return config.schedule.steps * step_flops(config) + evaluation_flops(config)


def training_tokens(config: RunConfig) -> int:
    """D: tokens seen by a resolved run."""
    assert config.schedule.steps is not None
    return config.schedule.steps * config.data.tokens_per_step


def _residual(model: ModelConfig) -> bool:
    return entry({"mlp": True, "transformer": False}, model.kind, "model.kind")


def _widths(model: ModelConfig) -> tuple[int, int, int, int, int]:
    """(width, depth, heads * head_dim, kv_heads * head_dim, mlp_width)."""
    assert model.heads is not None and model.kv_heads is not None
    assert model.head_dim is not None and model.mlp_width is not None
    return (
        model.width,
        model.depth,
        model.heads * model.head_dim,
        model.kv_heads * model.head_dim,
        model.mlp_width,
    )
