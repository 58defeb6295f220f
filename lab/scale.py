"""Scales: what a parametrization makes of each leaf of a model, as float64 numbers computed on the host."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lab import ablation
from lab.check import entry, require
from lab.config import OptimizerConfig, ParametrizationConfig, RunConfig
from lab.config.parametrization import check_horizon
from lab.parametrization import ADAM_LIKE, TABLE, exponents, tied_logits
from lab.role import MATRICES, Leaf, Place, Role

# The leaf of the laboratory's transformer that a tied readout shares.
EMBEDDING = "embedding/token"
# Residual exponent alpha of each depth rule: a branch is multiplied by (L / L0)^-alpha.
ALPHA = {"none": 0.0, "sqrt": 0.5, "complete": 1.0}


@dataclass(frozen=True)
class Setting:
    """What decides a leaf's factors besides the leaf: the rules, the optimizer, and the ratios that are not widths.

    `depth` is L / L0, `batch` the batch over its base (tokens per update), `data` the token budget over its base.
    """

    parametrization: ParametrizationConfig
    optimizer: OptimizerConfig
    depth: float = 1.0
    batch: float = 1.0
    data: float = 1.0


@dataclass(frozen=True)
class Factors:
    """A leaf relative to the base shape.

    `decay` multiplies what an update removes, `lab.schedule.decays`: 0 for gains and biases.  `weight_decay` is the
    same as a factor on the coefficient of a coupled decay, `decay / lr`.
    """

    init: float
    forward: float
    lr: float
    eps: float
    decay: float

    @property
    def weight_decay(self) -> float:
        return self.decay / self.lr


@dataclass(frozen=True)
class Scales:
    """What one run's parametrization makes of its leaves (by path) and of the two scalar multipliers."""

    factors: Mapping[str, Factors]
    init_std: Mapping[str, float]
    attention: float
    logits: float


def factors(leaf: Leaf, setting: Setting) -> Factors:
    """One leaf's factors: its row's powers of the width ratio m, times depth, batch and horizon.

    Depth (leaves inside blocks, ratio m_L, residual exponent alpha > 0; CompleteP, arXiv 2505.01618, Table 1):

        branch forward m_L^-alpha     on the leaves that end a branch
        eps            m_L^-alpha
        lr             m_L^(alpha-1)  (SGD: m_L^(2 alpha - 1)); without a depth rule 1

    Decay of matrices, as the fraction that an update removes:

        coupled              lr
        constant-eta-lambda  lr / m^lr: only the width's part is undone
        independent          1

    times m^decay_exponent.  Horizon (Complete(d)P, arXiv 2512.22382, Table 1; m_B batch, m_D data): lr and the decay
    coefficient sqrt(m_B / m_D), eps sqrt(m_D / m_B).
    """
    parametrization, optimizer = setting.parametrization, setting.optimizer
    rules, row, m = ablation.parse(parametrization.ablate), exponents(leaf.role, parametrization, optimizer), leaf.ratio

    def on(quantity: str) -> bool:
        return ablation.kept(rules, leaf.role, quantity)

    width_lr = m ** (row.lr - row.lr_out) * leaf.ratio_out**row.lr_out if on("lr") else 1.0
    depth = _depth(leaf, setting, rules)
    check_horizon(parametrization, optimizer.kind)
    noise = math.sqrt(setting.batch / setting.data) if parametrization.horizon == "completed" else 1.0
    adam_ratio = optimizer.adam_ratio if optimizer.kind == "muon" and leaf.role != Role.HIDDEN else 1.0
    outside = depth.lr * noise * adam_ratio
    lr = width_lr * outside
    decay = 0.0
    if leaf.role in MATRICES:
        ways = {"coupled": lr, "constant-eta-lambda": outside, "independent": noise}
        removed = entry(ways, optimizer.decay, "optimizer.decay")
        decay = (removed if on("decay") else lr) * noise * m**parametrization.decay_exponent
    return Factors(
        init=m**row.init if on("init") else 1.0,
        forward=(m**row.forward if on("forward") else 1.0) * depth.forward,
        lr=lr,
        eps=(m**row.eps if on("eps") else 1.0) * depth.eps / noise,
        decay=decay,
    )


def scales(config: RunConfig, leaves: Mapping[str, Leaf]) -> Scales:
    """Resolve the table for one run.

    Raises:
        InputError: a tied readout that the rules do not allow, or an alignment or optimizer that the parametrization
            does not have.
    """
    parametrization, optimizer, model = config.parametrization, config.optimizer, config.model
    setting = setting_of(config)
    found = {path: factors(leaf, setting) for path, leaf in leaves.items()}
    logits = 1.0
    if model.tied:
        logits = leaves[EMBEDDING].ratio ** tied_logits(parametrization, optimizer)
    return Scales(
        factors=found,
        init_std={
            path: found[path].init
            * base_std(parametrization, leaf, depth=model.depth, tied=model.tied and path == EMBEDDING)
            for path, leaf in leaves.items()
        },
        attention=attention_scale(parametrization, model.head_dim, parametrization.base_head_dim)
        if model.head_dim
        else 1.0,
        logits=logits,
    )


def setting_of(config: RunConfig) -> Setting:
    """The setting of a resolved run."""
    parametrization = config.parametrization
    batch = data = 1.0
    if parametrization.horizon == "completed":
        assert parametrization.base_batch and parametrization.base_tokens and config.schedule.steps
        batch = config.data.tokens_per_step / parametrization.base_batch
        data = config.schedule.steps * config.data.tokens_per_step / parametrization.base_tokens
    depth = config.model.depth / parametrization.base_depth if parametrization.base_depth else 1.0
    return Setting(parametrization, config.optimizer, depth, batch, data)


def betas(setting: Setting) -> tuple[float, float]:
    """(beta1, beta2) with `1 - beta` times m_B / m_D under the horizon rules (arXiv 2512.22382, Table 1).

    Raises:
        InputError: a beta would fall below 0.
    """
    optimizer = setting.optimizer
    if setting.parametrization.horizon == "none":
        return optimizer.beta1, optimizer.beta2
    ratio = setting.batch / setting.data
    scaled = tuple(1 - (1 - beta) * ratio for beta in (optimizer.beta1, optimizer.beta2))
    for name, beta in zip(("beta1", "beta2"), scaled, strict=True):
        require(
            beta >= 0,
            f"parametrization.horizon=completed turns optimizer.{name} into {beta:g}: the batch is {ratio:g} times too "
            "large for its token budget; use a smaller batch or more tokens",
        )
    return scaled[0], scaled[1]


def attention_scale(parametrization: ParametrizationConfig, head_dim: int, base_head_dim: int | None) -> float:
    """Factor on attention logits: `1/sqrt(d)`, or `sqrt(d0)/d` which equals it at the base head dimension."""
    spec = TABLE[parametrization.name]
    base = 1 if spec.absolute else base_head_dim or head_dim
    exponent = {"auto": spec.attention, "sqrt": 0.0, "inverse": -0.5}[parametrization.attention]
    if "attention" in ablation.parse(parametrization.ablate):
        exponent = 0.0
    return head_dim**-0.5 * (head_dim / base) ** exponent


def base_std(
    parametrization: ParametrizationConfig, leaf: Leaf, *, depth: int | None = None, tied: bool = False
) -> float:
    """Initial std at the base shape: fan-in scaling for matrices, `embedding_std` for embeddings, 0 for biases.

    A tied embedding is also the readout, so it starts at the readout's base scale.  `depth` is needed for
    `residual_init=gpt2` alone.
    """
    settings = parametrization
    if leaf.role == Role.EMBEDDING and not tied:
        return settings.init_scale * settings.embedding_std
    if leaf.role not in MATRICES or (leaf.role == Role.READOUT and settings.zero_readout):
        return 0.0
    fan_in = leaf.base_fan_out if leaf.role == Role.EMBEDDING else leaf.base_fan_in
    std = settings.init_scale * (settings.matrix_std or fan_in**-0.5)
    if settings.residual_init == "gpt2" and leaf.place == Place.BRANCH_END:
        require(depth is not None, "parametrization.residual_init=gpt2 needs the number of blocks")
        assert depth is not None
        return std * (2 * depth) ** -0.5
    return std


def depth_exponent(kind: str, alpha: float) -> float:
    """The exponent of m_L on an optimizer's rate inside blocks, for a residual exponent alpha > 0."""
    table = dict.fromkeys((*ADAM_LIKE, "adafactor"), alpha - 1) | {"sgd": 2 * alpha - 1}
    return entry(table, kind, "the depth rule of optimizer.kind")


@dataclass(frozen=True)
class _Depth:
    forward: float = 1.0
    lr: float = 1.0
    eps: float = 1.0


def _depth(leaf: Leaf, setting: Setting, rules: frozenset[str]) -> _Depth:
    alpha, ratio = ALPHA[setting.parametrization.depth], setting.depth
    if leaf.place == Place.OUTSIDE or alpha == 0:
        return _Depth()
    has_eps = setting.optimizer.kind in ("adam", "adamw", "muon") and setting.parametrization.scale_eps
    return _Depth(
        forward=ratio**-alpha if leaf.place == Place.BRANCH_END and "depth.branch" not in rules else 1.0,
        lr=ratio ** depth_exponent(setting.optimizer.kind, alpha) if "depth.lr" not in rules else 1.0,
        eps=ratio**-alpha if has_eps and "depth.eps" not in rules else 1.0,
    )
