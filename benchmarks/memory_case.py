"""Programs whose memory is known from the TPU compiler: lanes, sharded models, remat, number formats, generations."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lab.config import MeshConfig, ModelConfig
from lab.config.mesh import ONE
from lab.layer import Forward
from sweeps.ahead import Question
from sweeps.machine import named


@dataclass(frozen=True)
class Case:
    """One program on one machine; `lanes` are those of all devices, batches are `sequences` x `length`."""

    machine: str
    width: int
    depth: int
    sequences: int
    length: int
    lanes: int = 1
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(lane=4))
    vocab: int = 8192
    head_dim: int = 64
    mlp: str = "gelu"
    mlp_width: int | None = None
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: bool = False
    strategy: str = "vmap"
    accumulate: int = 1
    optimizer: str = "adam"
    tokens: int | None = None

    @property
    def model(self) -> ModelConfig:
        sizes: dict[str, Any] = {"mlp": self.mlp, "mlp_width": self.mlp_width, "head_dim": self.head_dim}
        return ModelConfig(width=self.width, depth=self.depth, **sizes).resolve(vocab=self.vocab)

    @property
    def label(self) -> str:
        parts = [
            f"width {self.width} depth {self.depth} {self.mlp}, vocabulary {self.vocab}",
            f"{self.sequences} x {self.length}",
            self.dtype,
            f"remat {self.remat}",
            self.strategy if self.lanes > self.mesh.sizes[0] else "",
            f"batch in {self.accumulate} parts" if self.accumulate > 1 else "",
            "unrolled" if self.unroll else "",
            self.optimizer if self.optimizer != "adam" else "",
        ]
        return ", ".join(filter(None, parts))

    @property
    def question(self) -> Question:
        """The program as the compiler is asked for it; a segment of 4 updates."""
        from lab.program import Shape

        assert self.mesh.lane is not None
        settings: dict[str, Any] = {"dtype": self.dtype, "strategy": self.strategy}
        shape = Shape(
            model=self.model,
            optimizer=self.optimizer,
            sequences=self.sequences,
            length=self.length,
            lanes=self.lanes,
            group=min(16, self.lanes // self.mesh.lane),
            segment=4,
            forward=Forward("xla", self.unroll, self.remat),
            accumulate=self.accumulate,
            mesh=self.mesh,
            **settings,
        )
        return Question(shape, self.tokens)


FSDP, DATA, TENSOR = (MeshConfig(lane=1, **{axis: 4}) for axis in ("fsdp", "data", "tensor"))
BOTH = MeshConfig(lane=2, fsdp=2)
HALF = MeshConfig(lane=1, fsdp=2, tensor=2)
SMALL = Case("v5e-4", 32, 2, 2048, 128, lanes=8, vocab=256, head_dim=8, dtype="float32", unroll=True, tokens=5000)

CASES: dict[str, Case] = {
    "lanes-float32": Case("v5e-4", 256, 4, 32, 256, lanes=16, dtype="float32", unroll=True, tokens=10**7),
    "lanes-bfloat16": Case("v5e-4", 512, 8, 16, 512, lanes=4),
    "lanes-dots": Case("v5e-4", 512, 8, 32, 512, lanes=4, remat="dots"),
    "lanes-full": Case("v5e-4", 1024, 8, 16, 512, lanes=4, remat="full"),
    "small-unrolled": SMALL,
    "small-larger": dataclasses.replace(SMALL, sequences=4096),
    "one-full": Case("v5e-4", 1024, 8, 4, 1024, mesh=ONE, vocab=32000, head_dim=128, mlp="swiglu", remat="full"),
    "one-none": Case("v5e-4", 1024, 8, 4, 1024, mesh=ONE, vocab=32000, head_dim=128, mlp="swiglu"),
    "fsdp-shallow": Case("v5e-4", 1024, 8, 16, 1024, mesh=FSDP, vocab=32000, head_dim=128, remat="full", mlp="swiglu"),
    "fsdp-full": Case("v5e-4", 1024, 16, 16, 1024, mesh=FSDP, vocab=32000, head_dim=128, remat="full", mlp="swiglu"),
    "lanes-many": Case("v5e-4", 128, 4, 32, 256, lanes=64, dtype="float32", head_dim=32, remat="full", tokens=10**7),
    "lanes-swiglu": Case("v6e-4", 768, 12, 8, 1024, lanes=8, vocab=32000, mlp="swiglu", remat="dots"),
    "fsdp-large": Case(
        "v6e-4", 2048, 16, 16, 1024, mesh=FSDP, vocab=32000, head_dim=128, remat="full", mlp="swiglu", mlp_width=5632
    ),
    "lanes-fsdp": Case("v6e-4", 1024, 12, 16, 1024, lanes=4, mesh=BOTH, vocab=32000, head_dim=128, remat="full"),
    "lanes-map": Case("v5p-4", 256, 8, 64, 256, lanes=32, dtype="float32", strategy="map", remat="full"),
    "fsdp-larger": Case("v5p-4", 2048, 24, 32, 1024, mesh=FSDP, vocab=32000, head_dim=128, remat="full"),
    "data-none": Case("v5p-4", 1024, 12, 16, 1024, mesh=DATA, vocab=32000, head_dim=128),
    "lanes-parts": Case("v5e-4", 512, 8, 64, 512, lanes=4, dtype="float32", accumulate=4),
    "tensor-full": Case("v6e-4", 1024, 8, 8, 1024, mesh=TENSOR, vocab=32000, head_dim=128, remat="full"),
    "lanes-state": Case("v5p-4", 512, 8, 8, 256, lanes=32, vocab=16384, remat="dots"),
    # Predicted before they were compiled.
    "data-parts": Case(
        "v5p-4", 768, 10, 64, 512, mesh=DATA, vocab=32000, mlp="swiglu", dtype="float32", remat="full", accumulate=2
    ),
    "tensor-fsdp": Case(
        "v5e-4", 1536, 12, 8, 2048, mesh=HALF, vocab=32000, head_dim=128, mlp="swiglu", mlp_width=4096, remat="full"
    ),
    "lanes-sgd": Case("v4-4", 384, 6, 16, 512, lanes=16, dtype="float32", optimizer="sgd"),
    "lanes-both": Case("v6e-4", 192, 4, 16, 256, lanes=128, remat="dots", strategy="both"),
    "fsdp-muon": Case(
        "v5p-4", 1024, 12, 16, 1024, mesh=FSDP, vocab=32000, head_dim=128, remat="dots", optimizer="muon"
    ),
    "lanes-lion": Case("v5e-4", 640, 10, 8, 1024, lanes=8, remat="full", optimizer="lion"),
}

# The 7B model of LLaMA (arXiv 2302.13971, table 2) on named slices, one sequence per chip at 2048 tokens.
LARGE: dict[str, Case] = {
    f"7B-{name}": Case(
        name,
        4096,
        32,
        named(name).chips,
        2048,
        mesh=named(name).train_mesh,
        vocab=32000,
        head_dim=128,
        mlp="swiglu",
        mlp_width=11008,
        remat="full",
    )
    for name in ("v5e-4", "v5e-16", "v5p-16")
}
