"""Memory of training, in closed form: what the busiest moment of an update holds on one device; no JAX.

Letters: P parameters, K lanes of a device, R lanes that it runs at once, M rows (tokens) of a part of the batch on it,
d width, a heads * head_dim, f mlp_width, H heads, T tokens of a sequence, V vocabulary, L depth, w bytes of a number in
the compute dtype, s of one in the master weights.

    K s (1 + moments) P + R (state of an update) + R max(backward) + corpus

- An update holds a copy of the parameters and a gradient in the compute dtype, `2 w P`; float32 gradients where a
  batch is cut into parts (`s P` more).
- The backward pass holds what a block keeps, for all L blocks, and the logits `s M V`; their gradient takes their
  place.
- A block keeps `w (C_D d + C_F f + 3 a) + C_T H T` bytes per row without remat; `w (2 d + a + 2 kv + c f)` with `dots`,
  c the number of opening matrices of the MLP; its input `w d` with `full`.  With remat one block's whole set is there
  too.

Parameters are divided over fsdp x tensor, rows over data x fsdp, heads, MLP and vocabulary over tensor.  The constants
are counts of what differentiation keeps, less what the TPU compiler computes anew; docs/memory.md has the comparison.
"""

from dataclasses import dataclass
from typing import Literal

from lab import count
from lab.config import MeshConfig, ModelConfig, RunConfig
from lab.config.mesh import ONE

# Numbers per parameter that optimizers keep beside it; Muon's hidden matrices have one, and Adafactor's are factored.
MOMENTS = {"adam": 2, "adamw": 2, "lion": 1, "sgd": 1, "muon": 1, "adafactor": 0}
# Kept per row without remat: copies of the stream, of the MLP's width, and bytes per attention score.
_STREAMS, _MLPS, _SCORE = 7, 5, 7


@dataclass(frozen=True)
class Layout:
    """How a program lies on its devices; `lanes` are those of one device, and so is `group`."""

    lanes: int
    strategy: Literal["vmap", "map", "both"]
    group: int = 1
    accumulate: int = 1
    remat: str = "none"
    mesh: MeshConfig = ONE

    @property
    def at_once(self) -> int:
        return {"vmap": self.lanes, "map": 1, "both": min(self.group, self.lanes)}[self.strategy]


@dataclass(frozen=True)
class Memory:
    """Bytes of one device at the peak."""

    state: int
    working: int
    activations: int
    corpus: int

    @property
    def total(self) -> int:
        return self.state + self.working + self.activations + self.corpus


def memory(
    model: ModelConfig,
    layout: Layout,
    *,
    sequences: int,
    length: int,
    dtype: str,
    optimizer: str = "adam",
    corpus_bytes: int = 0,
) -> Memory:
    """The estimate for a resolved model; `sequences` are those of a whole batch."""
    master = 8 if dtype == "float64" else 4
    width = {"float64": 8, "float32": 4, "bfloat16": 2}[dtype]
    mesh = layout.mesh
    own = count.parameters(model, length).total / (mesh.fsdp * mesh.tensor)
    rows = sequences * length / (layout.accumulate * mesh.rows)
    assert model.vocab is not None
    whole, kept = _block(model, length, width, mesh.tensor, layout.remat)
    held = rows * (model.depth * kept + (whole if layout.remat != "none" else 0) + master * model.vocab / mesh.tensor)
    if model.kind == "mlp":
        held += rows * 2 * width * model.context * model.width
    working = own * (2 * width + (master if layout.accumulate > 1 else 0))
    return Memory(
        state=int(layout.lanes * master * (1 + MOMENTS[optimizer]) * own),
        working=int(layout.at_once * working),
        activations=int(layout.at_once * held),
        corpus=corpus_bytes,
    )


def memory_bytes(
    config: RunConfig,
    *,
    lanes: int,
    strategy: Literal["vmap", "map", "both"],
    group: int,
    accumulate: int = 1,
    remat: str = "none",
    mesh: MeshConfig = ONE,
) -> int:
    """Estimated peak of one device that trains `lanes` lanes of a resolved run, bytes, without the corpus."""
    layout = Layout(lanes, strategy, group, accumulate, remat, mesh)
    data = config.data
    return memory(
        config.model,
        layout,
        sequences=data.sequences,
        length=data.length,
        dtype=config.dtype,
        optimizer=config.optimizer.kind,
    ).total


def state_bytes(config: RunConfig, lanes: int) -> int:
    """Bytes of a resume point of `lanes` lanes: parameters and moments."""
    master = 8 if config.dtype == "float64" else 4
    kept = 1 + MOMENTS[config.optimizer.kind]
    return lanes * master * kept * count.parameters(config.model, config.data.length).total


def _block(model: ModelConfig, length: int, width: int, tensor: int, remat: str) -> tuple[float, float]:
    """Bytes per row that one block keeps without remat, and under `remat`."""
    d = model.width
    if model.kind == "mlp":
        whole = width * d * (1 + 4 * model.block_layers)
        return whole, {"none": whole, "dots": width * d * (1 + model.block_layers), "full": width * d}[remat]
    assert model.heads is not None and model.kv_heads is not None
    assert model.head_dim is not None and model.mlp_width is not None
    inner, kv = model.heads * model.head_dim / tensor, model.kv_heads * model.head_dim / tensor
    mlp, score = model.mlp_width / tensor, model.heads * length / tensor
    openings = 2 if model.mlp == "swiglu" else 1
    whole = width * (_STREAMS * d + _MLPS * mlp + 3 * inner) + _SCORE * score
    dots = width * (3 * d + inner + 2 * kv + openings * mlp)
    return whole, {"none": whole, "dots": dots, "full": width * d}[remat]
