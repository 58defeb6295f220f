"""Memory of training, in closed form: what the busiest moment of an update holds on one device; no JAX.

Letters: P parameters, K lanes of a device, R lanes that it runs at once, M rows (tokens) of a part of the batch on it,
d width, a heads * head_dim, f mlp_width, H heads, T tokens of a sequence, V vocabulary, L depth, w bytes of a number in
the compute dtype, s of one in the master weights.

    K s (1 + moments) P + R (copies + activations) + corpus

- State: lanes that take turns (`map`, `both`) are read from one stack and written to another, which counts as working.
- Copies: parameters and a gradient in the compute dtype, `2 w P`, and where rows are divided the sum of gradients,
  `w P`; where a batch is cut, a gradient `s P` more.  Under fsdp one block, the embedding and the readout are gathered,
  `w` each.
- Logits are float32, `4 V`, and beside them stands their gradient in the compute dtype; scores likewise, `4 H T` and a
  copy.  Below, w' is what such a copy takes: w if that is smaller than float32 and `tensor` is 1, else 0.
- Without remat every block keeps its activations while the logits are there, whose gradient takes their place.  Per row
  a scanned block keeps `w (7 d + 5 f + 3 a) + (6 + w') H T`, an unrolled one, which the compiler fuses across the
  backward pass, `w (2 d + f + 3 a + H T)`.
- With remat a block keeps its input, `w d`, with `dots` the results of its products too; the peak is the larger of the
  logits, `(4 + w') V`, and of one block at work, `w (5 d + f) + (4 + w') H T`.

Parameters are divided over fsdp x tensor, rows over data x fsdp, heads, MLP and vocabulary over tensor.  The counts of
copies are fitted to the TPU compiler's figures in docs/memory.md, and stand for other compilers as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lab import count
from lab.check import entry, require
from lab.config import MeshConfig, ModelConfig, RunConfig
from lab.config.mesh import ONE
from lab.role import MATRICES, Leaf

# Numbers per parameter that optimizers keep beside it; Muon keeps one for hidden matrices; Adafactor's are factored.
MOMENTS = {"adam": 2, "adamw": 2, "lion": 1, "sgd": 1, "muon": 2, "adafactor": 0}


_SCALARS = 64  # that a chain keeps beside what follows the parameters, as Muon's coefficients


@dataclass(frozen=True)
class Layout:
    """How a program lies on its devices; `lanes` are those of one device, and so is `group`."""

    lanes: int
    strategy: Literal["vmap", "map", "both"]
    group: int = 1
    accumulate: int = 1
    remat: str = "none"
    mesh: MeshConfig = ONE
    unroll: bool = False

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
    found = count.parameters(model, length)
    own = found.total / (mesh.fsdp * mesh.tensor)
    gathered = 0.0
    if mesh.fsdp > 1:
        gathered = (found.embedding + count.matrix_parameters(model) / model.depth) / mesh.tensor
    rows = sequences * length / (layout.accumulate * mesh.rows)
    assert model.vocab is not None
    block, at_work = _block(model, length, width, layout)
    logits = (master + (_copy(width, mesh) if layout.remat != "none" else 0)) * model.vocab / mesh.tensor
    held = rows * (model.depth * block + (logits if layout.remat == "none" else max(logits, at_work)))
    if model.kind == "mlp":
        held += rows * 2 * width * model.context * model.width
    copies = 3 if mesh.rows > 1 else 2
    working = width * (copies * own + gathered) + (master * own if layout.accumulate > 1 else 0)
    state = int(layout.lanes * master * _kept(model, length, optimizer) / (mesh.fsdp * mesh.tensor))
    second = 0 if layout.at_once == layout.lanes else state
    return Memory(
        state=state,
        working=int(layout.at_once * working) + second,
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
    unroll: bool = False,
) -> int:
    """Estimated peak of one device that trains `lanes` lanes of a resolved run, bytes, without the corpus."""
    layout = Layout(lanes, strategy, group, accumulate, remat, mesh, unroll)
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
    return lanes * master * _kept(config.model, config.data.length, config.optimizer.kind)


def check(model: ModelConfig, length: int, optimizer: str, leaves: Mapping[str, Leaf], numbers: int) -> None:
    """Require that the closed form of a lane's state is what its optimizer keeps, `numbers` floating-point numbers.

    Factored moments (Adafactor), which it leaves out, are at most a row and a column per matrix, and a bias's own.

    Raises:
        InputError: naming both numbers.
    """
    closed, spare = _kept(model, length, optimizer), _SCALARS
    if MOMENTS[optimizer] == 0:
        for leaf in leaves.values():
            rows, columns = (leaf.fan_in, leaf.fan_out) if leaf.role in MATRICES else (1, leaf.size)
            layers = max(1, leaf.size // (rows * columns))
            spare += layers * (rows + columns + 3)
    require(
        closed <= numbers <= closed + spare,
        f"lab/memory.py says that {optimizer} keeps {closed:,} numbers of a lane of model.kind={model.kind}, and it "
        f"keeps {numbers:,}: mend the closed form",
    )


def _kept(model: ModelConfig, length: int, optimizer: str) -> int:
    """Numbers of a lane's state: parameters and moments."""
    found = (1 + entry(MOMENTS, optimizer, "memory of the optimizer")) * count.parameters(model, length).total
    return found - (count.matrix_parameters(model) if optimizer == "muon" else 0)


def _copy(width: int, mesh: MeshConfig) -> int:
    """Bytes of a copy in the compute dtype beside a float32 number."""
    return width if width < 4 and mesh.tensor == 1 else 0


def _block(model: ModelConfig, length: int, width: int, layout: Layout) -> tuple[float, float]:
    """Bytes per row that one block keeps, and that it holds while its backward pass is at work under remat."""
    d = model.width
    if model.kind == "mlp":
        whole = width * d * (1 + 4 * model.block_layers)
        return {"none": whole, "dots": width * d * (1 + model.block_layers), "full": width * d}[layout.remat], whole
    assert model.heads is not None and model.kv_heads is not None
    assert model.head_dim is not None and model.mlp_width is not None
    tensor = layout.mesh.tensor
    inner, kv = model.heads * model.head_dim / tensor, model.kv_heads * model.head_dim / tensor
    mlp, scores = model.mlp_width / tensor, model.heads * length / tensor
    wide = {2: 1, 3: 3}[count.mlp_matrices(model)]  # gate and up, and their product, which the compiler keeps too
    copy = _copy(width, layout.mesh)
    scanned = width * (7 * d + 5 * mlp + 3 * inner) + (copy + max(width, 4) + 2) * scores
    unrolled = width * (2 * d + mlp + 3 * inner + scores)
    dots = width * (3 * d + inner + 2 * kv + wide * mlp)
    kept = {"none": unrolled if layout.unroll else scanned, "dots": dots, "full": width * d}[layout.remat]
    return kept, width * (5 * d + mlp) + (copy + max(width, 4)) * scores
