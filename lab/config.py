"""Configurations: what defines a run (`RunConfig`) and what only executes it (`ExecConfig`).

All of them are frozen dataclasses that check themselves when they are built.  A `RunConfig` may leave
some fields to be derived (`None`): `resolve` fills them in, so that two ways of saying the same thing
(a warm-up of 0.1 of the run, or of 30 steps) become one configuration and therefore one `run_id`.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from lab.check import check_fields, positive, require

# Of each group exactly one field says the same thing; setting one through an override clears the others.
ALTERNATIVES: tuple[tuple[str, ...], ...] = (
    ("schedule.steps", "schedule.tokens"),
    ("schedule.warmup_steps", "schedule.warmup_tokens", "schedule.warmup_fraction"),
    ("schedule.decay_steps", "schedule.decay_tokens", "schedule.decay_fraction"),
    ("model.heads", "model.head_dim"),
)

MAX_VOCAB = 1 << 20
_NOT_HASHED = {"hashed": False}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer.

    `heads` and `head_dim` determine each other (`heads * head_dim == width`); `kv_heads` defaults to `heads`,
    `mlp_width` to `4 * width`, `vocab` to the size of the tokenizer.
    """

    width: int = 64
    depth: int = 2
    heads: int | None = None
    head_dim: int | None = None
    kv_heads: int | None = None
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_width: int | None = None
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    placement: Literal["pre", "post"] = "pre"
    position: Literal["learned", "rope"] = "rope"
    rope_theta: float = 10_000.0
    bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    vocab: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "model")
        positive(self, "model", "width", "depth", "heads", "head_dim", "kv_heads", "mlp_width", "vocab")
        positive(self, "model", "norm_eps", "rope_theta")
        require(
            self.vocab is None or self.vocab <= MAX_VOCAB,
            f"model.vocab={self.vocab} is above {MAX_VOCAB}: check that it is a number of tokens",
        )
        heads, head_dim = self._heads()
        require(
            self.position != "rope" or head_dim % 2 == 0,
            f"model.head_dim={head_dim} is odd, and model.position=rope rotates pairs: use an even head_dim or "
            "model.position=learned",
        )
        if self.kv_heads is not None:
            require(
                heads % self.kv_heads == 0,
                f"model.kv_heads={self.kv_heads} does not divide model.heads={heads}: use one of {_divisors(heads)}",
            )

    def _heads(self) -> tuple[int, int]:
        """(heads, head_dim), each derived from the other where one is None."""
        if self.heads is None:
            head_dim = 16 if self.head_dim is None else self.head_dim
            below = max(1, self.width // head_dim) * head_dim
            require(
                self.width % head_dim == 0,
                f"model.head_dim={head_dim} does not divide model.width={self.width}: use width {below} or "
                f"{below + head_dim}, or set model.heads",
            )
            return self.width // head_dim, head_dim
        require(
            self.width % self.heads == 0,
            f"model.heads={self.heads} does not divide model.width={self.width}: use one of {_divisors(self.width)}",
        )
        head_dim = self.width // self.heads
        require(
            self.head_dim in (None, head_dim),
            f"model.heads={self.heads} x model.head_dim={self.head_dim} is not model.width={self.width}: give one "
            "of the two",
        )
        return self.heads, head_dim

    def resolve(self, *, vocab: int | None) -> "ModelConfig":
        """Fill in heads, kv_heads, mlp_width and vocab; `vocab` is what the tokenizer needs, None if unknown."""
        heads, head_dim = self._heads()
        require(
            self.vocab is not None or vocab is not None,
            "model.vocab is not set, and token files do not state it: set model.vocab (GPT-2's tokens: 50257)",
        )
        require(
            self.vocab is None or vocab is None or self.vocab >= vocab,
            f"model.vocab={self.vocab} is below the {vocab} tokens of the tokenizer: set it to {vocab} or more",
        )
        return dataclasses.replace(
            self,
            heads=heads,
            head_dim=head_dim,
            kv_heads=self.kv_heads or heads,
            mlp_width=self.mlp_width or 4 * self.width,
            vocab=self.vocab or vocab,
        )


@dataclass(frozen=True)
class ParametrizationConfig:
    """How initialisation, multipliers, rates and eps follow the width (`lab.parametrization`).

    `base_*` state the shape at which every parametrization is the same model.  The base widths of the MLP and of
    the keys and values default to values in proportion to the width, the base head dimension to that of the model.
    """

    name: Literal["sp", "mup"] = "mup"
    base_width: int = 32
    base_mlp_width: int | None = None
    base_kv_width: int | None = None
    base_head_dim: int | None = None
    init_scale: float = 1.0
    embedding_std: float = 1.0
    zero_readout: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "parametrization")
        positive(self, "parametrization", "base_width", "base_mlp_width", "base_kv_width", "base_head_dim")
        positive(self, "parametrization", "init_scale", "embedding_std")

    def resolve(self, model: ModelConfig) -> "ParametrizationConfig":
        """Fill in the base shape; `model` is resolved."""
        assert model.mlp_width is not None and model.head_dim is not None and model.kv_heads is not None
        kv_width = model.kv_heads * model.head_dim
        return dataclasses.replace(
            self,
            base_mlp_width=self.base_mlp_width or self._in_proportion("mlp_width", model.mlp_width, model.width),
            base_kv_width=self.base_kv_width or self._in_proportion("kv_width", kv_width, model.width),
            base_head_dim=self.base_head_dim or model.head_dim,
        )

    def _in_proportion(self, name: str, value: int, width: int) -> int:
        scaled = value * self.base_width
        require(
            scaled % width == 0,
            f"{name} {value} at model.width={width} is not a whole number at "
            f"parametrization.base_width={self.base_width}: set parametrization.base_{name}",
        )
        return scaled // width


@dataclass(frozen=True)
class OptimizerConfig:
    """Base learning rate and the optimizer's constants; `clip` is a global gradient norm, None for no clipping.

    `decay` says what an update removes from a decayed weight w: `coupled` removes `lr(t) * weight_decay * w` with
    the leaf's own rate (AdamW in most libraries), `independent` removes `factor(t) * weight_decay * w` whatever the
    learning rate, factor being the schedule between 0 and 1.  Gains and biases are never decayed.
    """

    kind: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 2.0**-6
    weight_decay: float = 0.0
    decay: Literal["coupled", "independent"] = "coupled"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        positive(self, "optimizer", "lr", "clip", "eps")
        require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay={self.weight_decay} is negative: use 0 for no decay",
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}={value} is not in [0, 1)")
        require(
            self.kind != "adam" or self.weight_decay == 0,
            f"optimizer.weight_decay={self.weight_decay} with optimizer.kind=adam: plain Adam has no weight decay, "
            "use optimizer.kind=adamw or optimizer.weight_decay=0",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and the shape of its learning rate (`lab.schedule`).

    The length is given as exactly one of `steps` or `tokens`; warm-up and decay as at most one of steps, tokens
    or a fraction of the run.  `wsd` needs a decay; `linear` and `cosine` decay from the end of the warm-up to the
    end of the run; `floor` is the ratio of the final to the peak rate.
    """

    kind: Literal["constant", "linear", "cosine", "wsd"] = "wsd"
    steps: int | None = None
    tokens: int | None = None
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    warmup_fraction: float | None = None
    decay_steps: int | None = None
    decay_tokens: int | None = None
    decay_fraction: float | None = None
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "schedule")
        positive(self, "schedule", "steps", "tokens")
        _one_of(self, ("steps", "tokens"), needed=True)
        for phase in ("warmup", "decay"):
            _one_of(self, tuple(f"{phase}_{unit}" for unit in ("steps", "tokens", "fraction")), needed=False)
            for unit in ("steps", "tokens", "fraction"):
                value = getattr(self, f"{phase}_{unit}")
                require(value is None or value >= 0, f"schedule.{phase}_{unit}={value} is negative")
            fraction = getattr(self, f"{phase}_fraction")
            require(
                fraction is None or fraction <= 1,
                f"schedule.{phase}_fraction={fraction} is above 1: it is a fraction of the run, not a percentage",
            )
        require(0 <= self.floor <= 1, f"schedule.floor={self.floor} is not in [0, 1]: it is a ratio to the peak")
        decays = [d for d in (self.decay_steps, self.decay_tokens, self.decay_fraction) if d is not None]
        require(
            bool(decays) or self.kind != "wsd",
            "schedule.kind=wsd needs one of schedule.decay_steps, decay_tokens or decay_fraction (0 for none)",
        )
        require(
            self.kind == "wsd" or not any(decays),
            f"schedule.kind={self.kind} takes no decay length: use schedule.kind=wsd or set it to none",
        )

    def resolve(self, tokens_per_step: int) -> "ScheduleConfig":
        """The same schedule with every duration in steps."""
        steps = self.steps if self.steps is not None else (self.tokens or 0) // tokens_per_step
        require(
            steps >= 1,
            f"schedule.tokens={self.tokens} is less than one update of {tokens_per_step} tokens: give more tokens "
            "or a smaller batch",
        )
        phases = {
            phase: _phase_steps(self, phase, steps=steps, tokens_per_step=tokens_per_step)
            for phase in ("warmup", "decay")
        }
        require(
            phases["warmup"] + phases["decay"] <= steps,
            f"schedule.warmup_steps={phases['warmup']} + schedule.decay_steps={phases['decay']} is longer than the "
            f"run of {steps} steps: shorten them or raise schedule.steps",
        )
        return ScheduleConfig(
            kind=self.kind,
            steps=steps,
            warmup_steps=phases["warmup"],
            decay_steps=phases["decay"],
            decay_shape=self.decay_shape,
            floor=self.floor,
        )


@dataclass(frozen=True)
class DataConfig:
    """Corpus, tokenizer and batch shape (`sequences` x `length` tokens per update).

    `corpus` and `tokenizer` say where the text comes from and are not part of the identity: the `fingerprint` of
    the token streams is.
    """

    corpus: str = field(default="python-stdlib", metadata=_NOT_HASHED)
    tokenizer: str = field(default="bytes", metadata=_NOT_HASHED)
    fingerprint: str | None = None
    validation_fraction: float = 0.05
    sequences: int = 16
    length: int = 64

    def __post_init__(self) -> None:
        check_fields(self, "data")
        positive(self, "data", "sequences", "length")
        require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction={self.validation_fraction} is not between 0 and 1",
        )

    @property
    def tokens_per_step(self) -> int:
        return self.sequences * self.length


@dataclass(frozen=True)
class EvaluationConfig:
    """Final validation: mean loss over `sequences` fixed sequences of the validation split."""

    sequences: int = 512

    def __post_init__(self) -> None:
        check_fields(self, "evaluation")
        require(
            self.sequences >= 2,
            f"evaluation.sequences={self.sequences}: a standard error needs at least 2",
        )


@dataclass(frozen=True)
class RunConfig:
    """One training run: everything that changes its numbers and nothing else."""

    model: ModelConfig = field(default_factory=ModelConfig)
    parametrization: ParametrizationConfig = field(default_factory=ParametrizationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(steps=300, decay_fraction=0.2))
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    seed_init: int = 0
    seed_data: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "")
        for name in ("seed_init", "seed_data"):
            value = getattr(self, name)
            require(0 <= value < 2**31, f"{name}={value} is not in [0, 2^31)")

    def resolve(self, *, vocab: int | None, fingerprint: str) -> "RunConfig":
        """Fill in everything that is derived; idempotent.

        Raises:
            InputError: the shapes, durations or the corpus fingerprint contradict each other.
        """
        require(
            self.data.fingerprint in (None, fingerprint),
            f"data.fingerprint={self.data.fingerprint} but data.corpus={self.data.corpus} now has {fingerprint}: the "
            "text has changed; use a new output folder or the old text",
        )
        model = self.model.resolve(vocab=vocab)
        schedule = self.schedule.resolve(self.data.tokens_per_step)
        assert schedule.steps is not None
        require(
            schedule.steps * self.data.sequences < 2**62,
            f"schedule.steps={schedule.steps} x data.sequences={self.data.sequences} is beyond 2^62 sequences",
        )
        return dataclasses.replace(
            self,
            model=model,
            parametrization=self.parametrization.resolve(model),
            schedule=schedule,
            data=dataclasses.replace(self.data, fingerprint=fingerprint),
        )


@dataclass(frozen=True)
class ExecConfig:
    """How runs are executed: recorded beside the results, never part of a run's identity.

    None and `auto` are chosen from the device and the shape (`lab.device`).
    """

    lanes: int | None = None
    strategy: Literal["auto", "vmap", "map", "both"] = "auto"
    segment: int = 64
    attention: Literal["auto", "einsum", "xla", "cudnn"] = "auto"
    unroll: bool | None = None
    remat: bool = False
    checkpoint_seconds: float = 60.0
    keep: Literal["final", "none"] = "final"

    def __post_init__(self) -> None:
        check_fields(self, "exec")
        positive(self, "exec", "segment", "lanes", "checkpoint_seconds")
        require(
            self.lanes is None or self.lanes & (self.lanes - 1) == 0,
            f"exec.lanes={self.lanes} is not a power of two: lanes come in buckets of 1, 2, 4, 8, ...",
        )


def _one_of(config: ScheduleConfig, names: tuple[str, ...], *, needed: bool) -> None:
    given = [f"schedule.{name}={getattr(config, name)}" for name in names if getattr(config, name) is not None]
    require(len(given) <= 1, f"{' and '.join(given)} are given together: keep exactly one of them")
    require(bool(given) or not needed, f"none of {', '.join('schedule.' + n for n in names)} is given: set one")


def _phase_steps(config: ScheduleConfig, phase: str, *, steps: int, tokens_per_step: int) -> int:
    """Length of the warm-up or decay in steps: fractions are rounded to the nearest, tokens down."""
    exact, tokens, fraction = (getattr(config, f"{phase}_{unit}") for unit in ("steps", "tokens", "fraction"))
    if exact is not None:
        return exact
    if tokens is not None:
        return tokens // tokens_per_step
    return math.floor((fraction or 0.0) * steps + 0.5)


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
