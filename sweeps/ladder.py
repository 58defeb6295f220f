"""The largest model that a machine trains: standard shapes, one run of each over all its devices."""

from typing import Any

from lab import count, memory
from lab.config import ModelConfig
from lab.layer import Forward
from lab.program import Shape
from sweeps import ahead
from sweeps.machine import Machine

# Like Llama's: (name, width, depth, heads, key/value heads, MLP width), arXiv 2302.13971 table 2 and 2407.21783 table 3
# from 7B on; below, such shapes at customary sizes.
LADDER: tuple[tuple[str, int, int, int, int, int], ...] = (
    ("125M", 768, 12, 12, 12, 2048),
    ("350M", 1024, 24, 16, 16, 2816),
    ("760M", 1536, 24, 16, 16, 4096),
    ("1.3B", 2048, 24, 16, 16, 5632),
    ("3B", 3072, 26, 24, 24, 8192),
    ("7B", 4096, 32, 32, 32, 11008),
    ("13B", 5120, 40, 40, 40, 13824),
    ("33B", 6656, 60, 52, 52, 17920),
    ("70B", 8192, 80, 64, 8, 28672),
    ("405B", 16384, 126, 128, 8, 53248),
)
LARGE_VOCAB, LARGE_LENGTH = 32000, 2048


def largest(machine: Machine, compile: bool) -> dict[str, Any] | None:
    """The largest of `LADDER` that one run of it fits, a sequence per part of the batch; None if none does."""
    for name, model in reversed([(row[0], _large(row)) for row in LADDER]):
        mesh = machine.train_mesh
        assert model.heads is not None
        if model.width % mesh.fsdp or model.heads % mesh.tensor:
            continue
        layout = memory.Layout(1, "vmap", 1, 1, "full", mesh)
        needs = memory.memory(model, layout, sequences=mesh.rows, length=LARGE_LENGTH, dtype="bfloat16").total
        if needs > machine.device_memory_bytes:
            continue
        found = _verdict(model, machine) if compile else None
        if found is None or found.fits:
            return {
                "name": name,
                "parameters": count.parameters(model, LARGE_LENGTH).total,
                "mesh": mesh.label,
                "memory_bytes": needs if found is None else found.memory_bytes,
                "checked": "analytic" if found is None else "compiler",
            }
    return None


def _verdict(model: ModelConfig, machine: Machine) -> ahead.Verdict | None:
    """Of one run in bfloat16 with float32 master weights, full remat, AdamW; None where the compiler fails."""
    mesh, forward = machine.train_mesh, Forward("xla", False, "full")
    shape = Shape(model, "adam", "bfloat16", mesh.rows, LARGE_LENGTH, 1, "vmap", 1, 1, forward, 1, mesh)
    try:
        return ahead.verdict(shape, machine, tokens=None)
    except ahead.CompilerError:
        return None


def _large(row: tuple[str, int, int, int, int, int]) -> ModelConfig:
    _, width, depth, heads, kv_heads, mlp_width = row
    config = ModelConfig(width=width, depth=depth, heads=heads, kv_heads=kv_heads, mlp="swiglu", mlp_width=mlp_width)
    return config.resolve(vocab=LARGE_VOCAB)
