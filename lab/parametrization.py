"""Parametrizations as a table: one rule per role, each a row of exponents of the width ratio.

m is the fan-in ratio of a matrix to the base model (for embeddings, gains and biases the ratio of their growing
dimension).  With a rule's exponents a leaf gets

    std     = base std * m^init             initial standard deviation
    forward = m^forward                     factor on the weight in the forward pass
    lr      = m^lr  (Adam), m^lr_sgd * m_out^lr_sgd_out  (SGD)
    eps     = m^eps                         Adam's epsilon, outside the square root

so that at the base shape every parametrization is the identity.  Sources: `sp` is fan-in initialisation with one
rate; `mup` is Table 8 of Tensor Programs V (arXiv 2203.03466), its SGD column as in MuSGD of its authors' code (hidden
rate fan-out over fan-in ratio), its eps column from the gradient scale of each role (Everett et al., 2407.05872).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lab.check import InputError
from lab.config import RunConfig
from lab.role import Leaf, Role


@dataclass(frozen=True)
class Rule:
    """Exponents of the width ratio for one role; see the module's formulas."""

    init: float = 0.0
    forward: float = 0.0
    lr: float = 0.0
    lr_sgd: float = 0.0
    lr_sgd_out: float = 0.0
    eps: float = 0.0


@dataclass(frozen=True)
class Parametrization:
    """Rules for every role, and the exponent of the head-dimension ratio in the attention scale.

    Attention logits are multiplied by `head_dim^-1/2 * (head_dim / base_head_dim)^attention`: 0 gives
    1/sqrt(d), -1/2 gives sqrt(d0)/d.  `tied_logits` is the exponent of m on the logits of a tied readout,
    None where tying contradicts the rules.
    """

    rules: Mapping[Role, Rule]
    attention: float
    tied_logits: float | None


TABLE: dict[str, Parametrization] = {
    "sp": Parametrization(
        rules={
            Role.EMBEDDING: Rule(),
            Role.HIDDEN: Rule(init=-0.5),
            Role.READOUT: Rule(init=-0.5),
            Role.GAIN: Rule(),
            Role.BIAS: Rule(),
        },
        attention=0.0,
        tied_logits=0.0,
    ),
    "mup": Parametrization(
        rules={
            Role.EMBEDDING: Rule(lr_sgd=1.0, eps=-1.0),
            Role.HIDDEN: Rule(init=-0.5, lr=-1.0, lr_sgd=-1.0, lr_sgd_out=1.0, eps=-1.0),
            Role.READOUT: Rule(forward=-1.0, lr_sgd=1.0, eps=-1.0),
            Role.GAIN: Rule(lr_sgd=1.0, eps=-1.0),
            Role.BIAS: Rule(lr_sgd=1.0, eps=-1.0),
        },
        attention=-0.5,
        tied_logits=-1.0,
    ),
}

DECAYED = (Role.EMBEDDING, Role.HIDDEN, Role.READOUT)


@dataclass(frozen=True)
class Scales:
    """What one run's parametrization makes of each leaf (floats by path) and of the two scalar multipliers."""

    init_std: Mapping[str, float]
    forward: Mapping[str, float]
    lr: Mapping[str, float]
    eps: Mapping[str, float]
    decay: Mapping[str, float]
    attention: float
    logits: float


def scales(config: RunConfig, leaves: Mapping[str, Leaf]) -> Scales:
    """Resolve the table for one run: every number a float64, computed on the host.

    `decay` multiplies `lab.schedule.decays`: a decayed leaf's own learning-rate multiplier where the decay is coupled,
    1 where it is independent, 0 for gains and biases.
    """
    spec = TABLE[config.parametrization.name]
    head_dim, base_head_dim = config.model.head_dim, config.parametrization.base_head_dim
    assert head_dim is not None and base_head_dim is not None
    rules = {path: spec.rules[leaf.role] for path, leaf in leaves.items()}
    lr = {path: _lr(rules[path], leaf, sgd=config.optimizer.kind == "sgd") for path, leaf in leaves.items()}
    coupled = config.optimizer.decay == "coupled"
    logits = 1.0
    if config.model.tied:
        if spec.tied_logits is None:
            raise InputError(f"model.tied=true contradicts parametrization.name={config.parametrization.name}")
        logits = (config.model.width / config.parametrization.base_width) ** spec.tied_logits
    return Scales(
        init_std={path: _base_std(config, leaf) * leaf.ratio ** rules[path].init for path, leaf in leaves.items()},
        forward={path: leaf.ratio ** rules[path].forward for path, leaf in leaves.items()},
        lr=lr,
        eps={path: leaf.ratio ** rules[path].eps for path, leaf in leaves.items()},
        decay={path: (lr[path] if coupled else 1.0) if leaf.role in DECAYED else 0.0 for path, leaf in leaves.items()},
        attention=head_dim**-0.5 * (head_dim / base_head_dim) ** spec.attention,
        logits=logits,
    )


def _lr(rule: Rule, leaf: Leaf, *, sgd: bool) -> float:
    if sgd:
        return leaf.ratio**rule.lr_sgd * leaf.ratio_out**rule.lr_sgd_out
    return leaf.ratio**rule.lr


def _base_std(config: RunConfig, leaf: Leaf) -> float:
    """Initial std at the base shape: fan-in scaling for matrices, `embedding_std` for embeddings, 0 for biases.

    A tied embedding is also the readout, so it starts at the readout's base scale.
    """
    settings = config.parametrization
    fan_in_std = settings.init_scale / math.sqrt(leaf.base_fan_in)
    if leaf.role == Role.EMBEDDING:
        tied = config.model.tied and leaf.path.endswith("token")
        return settings.init_scale * (leaf.base_fan_out**-0.5 if tied else settings.embedding_std)
    if leaf.role == Role.READOUT:
        return 0.0 if settings.zero_readout else fan_in_std
    return fan_in_std if leaf.role == Role.HIDDEN else 0.0
