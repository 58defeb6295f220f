"""Where a rule shows: the configuration that identifies it, the statistic to look at, and the slope to expect.

A coordinate check at one configuration sees few rules: eps of 1e-8 is invisible, so is a decay of 0.1 over a few steps,
an attention scale at a fixed head dimension, or a readout's init under a zero readout.  Each row changes what its rule
needs, and says by how much the slope of its statistic moves when the rule is off: `sensitivity` times its exponent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lab.ablation import QUANTITIES, SINGLE
from lab.check import nearest, require
from lab.config import RunConfig
from lab.model import leaves
from lab.parametrization import TABLE, exponents
from lab.role import Role
from lab.scale import ALPHA, depth_exponent
from sweeps.expectation import LEAF

When = Literal["start", "first", "last"]

# A decay would move the leaves too; only its own rule needs one.
PLAIN: dict[str, Any] = {"optimizer.weight_decay": 0.0}
NONZERO: dict[str, Any] = PLAIN | {"parametrization.zero_readout": False}
# Gradients of the small models here are below this eps at every width, so that Adam's step is in proportion to them.
LARGE_EPS: dict[str, Any] = NONZERO | {"optimizer.eps": 1.0}
# Decay alone moves the weights: 5 % per update against a rate too small to matter.
STRONG_DECAY: dict[str, Any] = {"optimizer.lr": 1e-5, "optimizer.weight_decay": 5e3}
GROWING_HEADS: dict[str, Any] = PLAIN | {"model.heads": 2}

# The activation in which a role's init, multiplier or rate shows; a branch holds two hidden matrices.
ACTIVATION = {Role.EMBEDDING: "embedding", Role.HIDDEN: "mlp", Role.READOUT: "logits"}


@dataclass(frozen=True)
class Identification:
    """A rule's configuration and statistic; `when`: before any update, after the first, or after the last one."""

    rule: str
    statistic: str
    when: When
    axis: Literal["width", "depth"] = "width"
    settings: Mapping[str, Any] = field(default_factory=dict)
    sensitivity: float = -1.0


def identification(rule: str) -> Identification:
    """The row of one rule.

    Raises:
        InputError: not the rule of one role, nor `attention` or a depth rule.
    """
    if rule in SINGLE:
        return {
            "attention": Identification(rule, "value/attention_logits", "start", settings=GROWING_HEADS),
            "depth.branch": Identification(rule, "value/residual", "start", "depth", PLAIN),
            "depth.lr": Identification(rule, "change/residual", "last", "depth", PLAIN),
            "depth.eps": Identification(
                rule, f"update/{LEAF[Role.HIDDEN]}", "first", "depth", LARGE_EPS, sensitivity=1
            ),
        }[rule]
    name, _, quantity = rule.partition(".")
    known = [f"{role}.{quantity}" for role in Role for quantity in QUANTITIES] + list(SINGLE)
    require(
        rule in known,
        f"{rule} is not a rule that can be judged alone{nearest(rule, known)}: give ROLE.QUANTITY or one of "
        f"{', '.join(SINGLE)}",
    )
    role = Role(name)
    if quantity in ("init", "forward") and role in ACTIVATION:
        return Identification(
            rule, f"value/{ACTIVATION[role]}", "start", settings=NONZERO, sensitivity=-2 if role == Role.HIDDEN else -1
        )
    if quantity == "eps":
        return Identification(rule, f"update/{LEAF[role]}", "first", settings=LARGE_EPS, sensitivity=1)
    if quantity == "decay":
        return Identification(rule, f"update/{LEAF[role]}", "last", settings=NONZERO | STRONG_DECAY)
    if quantity == "lr" and role in (Role.HIDDEN, Role.READOUT):
        when: When = "last" if role == Role.HIDDEN else "first"
        return Identification(rule, f"change/{ACTIVATION[role]}", when, settings=PLAIN)
    return Identification(rule, f"update/{LEAF[role]}", "first", settings=NONZERO)


def exponent(rule: str, config: RunConfig) -> float:
    """The exponent that a rule stands for in a run's parametrization and optimizer, 0 where it is a no-op."""
    parametrization, optimizer = config.parametrization, config.optimizer
    alpha = ALPHA[parametrization.depth]
    if rule == "attention":
        fallback = TABLE[parametrization.name].attention
        return {"auto": fallback, "sqrt": 0.0, "inverse": -0.5}[parametrization.attention]
    if rule.startswith("depth."):
        if alpha == 0:
            return 0.0
        adam_eps = -alpha if optimizer.kind in ("adam", "adamw", "muon") and parametrization.scale_eps else 0.0
        rate = depth_exponent(optimizer.kind, alpha)
        return {"depth.branch": -alpha, "depth.lr": rate, "depth.eps": adam_eps}[rule]
    name, _, quantity = rule.partition(".")
    row = exponents(Role(name), parametrization, optimizer)
    if quantity == "decay":
        decayed = LEAF[Role(name)] in leaves(config) and optimizer.decay != "coupled" and Role(name) in ACTIVATION
        return -row.lr if decayed else 0.0
    return getattr(row, quantity)


def rules(config: RunConfig, axis: str) -> list[str]:
    """The rules along an axis that are not no-ops for a run, in the order of the table."""
    names = [f"{role}.{quantity}" for role in Role for quantity in QUANTITIES] + list(SINGLE)
    return [rule for rule in names if exponent(rule, config) != 0 and identification(rule).axis == axis]
