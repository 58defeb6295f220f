"""Parametrizations as a table: for each role a row of exponents of the width ratio m.

m is the fan-in of a matrix over its fan-in in the base model; for embeddings, gains and biases the ratio of their
growing dimension.  A leaf gets

    init    initial standard deviation * m^init
    forward factor m^forward on the weight in the forward pass
    eps     Adam's eps * m^eps: the exponent of its gradient's root mean square
    rate    learning rate * m^rate, one exponent per optimizer and alignment (full, none, classical)

so at the base shape every parametrization is the identity.  Sources: `sp_per_layer`, `ntk`, `mup_tp4` and `mean_field`
are the four parametrizations of Everett et al. (arXiv 2407.05872), `mup` and `mup_table3` the forms of Tables 8 and 3
of Tensor Programs V (2203.03466), `mup_tp4` that of Tensor Programs IV (2011.14522).  `sp` is fan-in initialisation and
`sp_gpt2` a constant standard deviation, both with one rate for all.  The SGD, Adam and Adafactor rates solve the
stability conditions of `tests/test_exponents.py`, which re-derives them.

Forms.  A factor A on a weight with initial std B, Adam rate C (SGD: C) and eps E is the same model as A t, B / t, C / t
(SGD: C / t^2), E t (2203.03466, Lemma J.1).  So `mup`, `mup_table3`, `mup_tp4` and `mean_field` are four forms of one
parametrization, and `sp_per_layer` and `ntk` two forms of another.

Gains and biases (vectors) act like the embedding's effective weight in every parametrization: they feed the same stream
and their length grows with it.

Lion's update is a sign, of root mean square 1 like Adam's, so it takes Adam's rates; it has no eps.

Muon's update of a hidden matrix has all singular values near 1, times a shape factor (`lab.optimizer.muon_scale`).  A
layer's outputs move by O(1) when the effective update `m^forward * lr * scale * U` has spectral norm of order
`sqrt(fan_out / fan_in)` (Yang et al., 2310.17813).  `keller` and `spectral` provide that factor themselves, so their
rate is `m^-forward`; `moonlight` provides `sqrt(max(fan_in, fan_out))`, of order m^1/2, so its rate is
`m^(-forward - 1/2)`.  Everything but hidden matrices has Adam's rates.

`u_mup` (Blake et al., 2407.17465, Table 2) is absolute: its base dimensions are 1 and its base stds 1, so m is the
dimension itself.  Hidden and readout rows are `mean_field`'s under full alignment: with unit-variance weights the
factors fan_in^-1/2 and fan_in^-1 keep outputs of order 1 (readout: up to its first updates), and Adam's rates
fan_in^-1/2 and 1 move them by O(1).  Its embedding rate m^-1/2 is the one rule that is not muP's; its authors found it
in experiments and state that they have no theory for it.  Only weights follow u-muP here, not its unit-scaled
operations; eps therefore follows the gradients of the plain operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.check import InputError, entry, require
from lab.config import OptimizerConfig, ParametrizationConfig
from lab.role import Role


@dataclass(frozen=True)
class Rate:
    """Exponents of a learning rate for the three alignments; `classical` is `full` unless it is given."""

    full: float
    none: float | None = None
    classical: float | None = None

    def of(self, alignment: str) -> float:
        found = {"full": self.full, "none": self.none, "classical": self.classical}[alignment]
        return self.full if found is None else found


@dataclass(frozen=True)
class Row:
    """Exponents of one role.

    `sgd_out` is the part of SGD's exponent that follows the fan-out ratio instead of the fan-in ratio, which matters
    where the two differ (MuSGD's hidden rate: fan-out over fan-in ratio).
    """

    init: float = 0.0
    forward: float = 0.0
    eps: float = 0.0
    adam: Rate = field(default_factory=lambda: Rate(0))
    sgd: Rate = field(default_factory=lambda: Rate(0))
    adafactor: Rate = field(default_factory=lambda: Rate(0))
    sgd_out: float = 0.0


@dataclass(frozen=True)
class Parametrization:
    """Rows by role, and what does not belong to a leaf.

    Attention logits are multiplied by `head_dim^-1/2 * (head_dim / base_head_dim)^attention`: 0 gives 1/sqrt(d), -1/2
    gives sqrt(d0)/d.  `alignments` are the ones that it distinguishes, `absolute` ones have a base shape of 1.
    """

    embedding: Row
    hidden: Row
    readout: Row
    vector: Row
    attention: float = 0.0
    alignments: tuple[str, ...] = ("full", "none", "classical")
    one_rate: bool = False
    absolute: bool = False

    def row(self, role: Role) -> Row:
        matrices = {Role.EMBEDDING: self.embedding, Role.HIDDEN: self.hidden, Role.READOUT: self.readout}
        return entry(matrices | {Role.GAIN: self.vector, Role.BIAS: self.vector}, role, "the role")


# fmt: off
_HALF = 1 / 2
_MUP_HIDDEN = Row(
    init=-_HALF, eps=-1,
    adam=Rate(-1, -_HALF), sgd=Rate(0, _HALF), adafactor=Rate(-_HALF, 0), sgd_out=1,
)
_MUP_VECTOR = Row(eps=-1, adam=Rate(0), sgd=Rate(1), adafactor=Rate(0))
_SP_VECTOR = Row(
    eps=-_HALF, adam=Rate(0, 0, -_HALF), sgd=Rate(_HALF, _HALF, 0), adafactor=Rate(0, 0, -_HALF),
)
_MEAN_FIELD_HIDDEN = Row(
    forward=-_HALF, eps=-3 / 2,
    adam=Rate(-_HALF, 0), sgd=Rate(1, 3 / 2), adafactor=Rate(-_HALF, 0), sgd_out=1,
)
_MEAN_FIELD_READOUT = Row(
    forward=-1, eps=-1, adam=Rate(0, _HALF), sgd=Rate(1), adafactor=Rate(0, _HALF),
)

TABLE: dict[str, Parametrization] = {
    "sp_gpt2": Parametrization(
        embedding=Row(), hidden=Row(), readout=Row(), vector=Row(), alignments=("full",), one_rate=True,
    ),
    "sp": Parametrization(
        embedding=Row(), hidden=Row(init=-_HALF), readout=Row(init=-_HALF), vector=Row(),
        alignments=("full",), one_rate=True,
    ),
    "sp_per_layer": Parametrization(
        embedding=_SP_VECTOR,
        hidden=Row(
            init=-_HALF, eps=-_HALF,
            adam=Rate(-1, -_HALF, -3 / 2), sgd=Rate(-_HALF, 0, -1), adafactor=Rate(-_HALF, 0, -1),
        ),
        readout=Row(
            init=-_HALF,
            adam=Rate(-1, -_HALF, -1), sgd=Rate(-1, -_HALF, -1), adafactor=Rate(-_HALF, 0, -_HALF),
        ),
        vector=_SP_VECTOR,
    ),
    "ntk": Parametrization(
        embedding=_SP_VECTOR,
        hidden=Row(
            forward=-_HALF, eps=-1,
            adam=Rate(-_HALF, 0, -1), sgd=Rate(_HALF, 1, 0), adafactor=Rate(-_HALF, 0, -1),
        ),
        readout=Row(
            forward=-_HALF, eps=-_HALF,
            adam=Rate(-_HALF, 0, -_HALF), sgd=Rate(0, _HALF, 0), adafactor=Rate(-_HALF, 0, -_HALF),
        ),
        vector=_SP_VECTOR,
    ),
    "mup": Parametrization(
        embedding=_MUP_VECTOR,
        hidden=_MUP_HIDDEN,
        readout=Row(forward=-1, eps=-1, adam=Rate(0, _HALF), sgd=Rate(1), adafactor=Rate(0, _HALF)),
        vector=_MUP_VECTOR,
        attention=-_HALF,
    ),
    "mup_table3": Parametrization(
        embedding=_MUP_VECTOR,
        hidden=_MUP_HIDDEN,
        readout=Row(init=-1, adam=Rate(-1, -_HALF), sgd=Rate(-1), adafactor=Rate(0, _HALF)),
        vector=_MUP_VECTOR,
        attention=-_HALF,
    ),
    "mup_tp4": Parametrization(
        embedding=Row(
            init=-_HALF, forward=_HALF, eps=-_HALF, adam=Rate(-_HALF), sgd=Rate(0), adafactor=Rate(0),
        ),
        hidden=_MUP_HIDDEN,
        readout=Row(
            init=-_HALF, forward=-_HALF, eps=-_HALF,
            adam=Rate(-_HALF, 0), sgd=Rate(0), adafactor=Rate(0, _HALF),
        ),
        vector=_MUP_VECTOR,
        attention=-_HALF,
    ),
    "mean_field": Parametrization(
        embedding=_MUP_VECTOR,
        hidden=_MEAN_FIELD_HIDDEN,
        readout=_MEAN_FIELD_READOUT,
        vector=_MUP_VECTOR,
        attention=-_HALF,
    ),
    "u_mup": Parametrization(
        embedding=Row(eps=-1, adam=Rate(-_HALF)),
        hidden=_MEAN_FIELD_HIDDEN,
        readout=_MEAN_FIELD_READOUT,
        vector=_MUP_VECTOR,
        attention=-_HALF,
        alignments=("full",),
        absolute=True,
    ),
}
# fmt: on

# Optimizers whose step has a fixed size per entry and therefore Adam's rates.
ADAM_LIKE = ("adam", "adamw", "lion", "muon")


@dataclass(frozen=True)
class Exponents:
    """A role's row for one optimizer and alignment: the rate is `m^(lr - lr_out) * m_out^lr_out`."""

    init: float
    forward: float
    lr: float
    lr_out: float
    eps: float


def exponents(role: Role, parametrization: ParametrizationConfig, optimizer: OptimizerConfig) -> Exponents:
    """Look a role up, rules that are ablated included.

    Raises:
        InputError: the parametrization does not distinguish the alignment, or has no rates for the optimizer.
    """
    name, alignment, kind = parametrization.name, parametrization.alignment, optimizer.kind
    spec = TABLE[name]
    require(
        alignment in spec.alignments,
        f"parametrization.alignment={alignment} does not apply to parametrization.name={name}: use alignment=full",
    )
    require(
        not spec.absolute or kind in ADAM_LIKE,
        f"optimizer.kind={kind} has no rates under parametrization.name={name}, which is defined for Adam: use adamw, "
        "lion or muon, or another parametrization",
    )
    row = spec.row(role)
    rates = dict.fromkeys(ADAM_LIKE, row.adam) | {"sgd": row.sgd, "adafactor": row.adafactor}
    rate = entry(rates, kind, "the exponent of the rate of optimizer.kind").of(alignment)
    if kind == "muon" and role == Role.HIDDEN and not spec.one_rate:
        rate = -row.forward - (_HALF if optimizer.muon_scale == "moonlight" else 0.0)
    has_eps = kind in ("adam", "adamw") or (kind == "muon" and role != Role.HIDDEN)
    return Exponents(
        init=row.init,
        forward=row.forward,
        lr=rate,
        lr_out=row.sgd_out if kind == "sgd" else 0.0,
        eps=row.eps if has_eps and parametrization.scale_eps else 0.0,
    )


def tied_logits(parametrization: ParametrizationConfig, optimizer: OptimizerConfig) -> float:
    """Exponent of m on the logits of a tied readout, beyond the embedding's own forward factor.

    One tensor has one row, so the embedding's and the readout's must agree in init, rate and eps; their forward
    factors may differ, and the logits carry the difference.

    Raises:
        InputError: they disagree; the conflict is named.
    """
    embedding, readout = (exponents(role, parametrization, optimizer) for role in (Role.EMBEDDING, Role.READOUT))
    for what in ("init", "lr", "eps"):
        ours, theirs = getattr(embedding, what), getattr(readout, what)
        if ours != theirs:
            raise InputError(
                f"model.tied=true contradicts parametrization.name={parametrization.name} (alignment "
                f"{parametrization.alignment}, {optimizer.kind}): {what} goes as m^{ours:g} for the embedding and as "
                f"m^{theirs:g} for the readout; untie them, or use mup with full alignment"
            )
    return readout.forward - embedding.forward


def names() -> Mapping[str, str]:
    """Every parametrization with one line about it."""
    return {
        "sp_gpt2": "constant initial std, one rate (GPT-2's; arXiv 2505.01618 calls it SP)",
        "sp": "fan-in initialisation, one rate",
        "sp_per_layer": "fan-in initialisation, a rate per role (2407.05872)",
        "ntk": "neural tangent form of sp_per_layer (2407.05872)",
        "mup": "maximal update, Table 8 of Tensor Programs V (2203.03466)",
        "mup_table3": "maximal update, Table 3: the readout's factor is in its init and rate (2203.03466)",
        "mup_tp4": "maximal update, the form of Tensor Programs IV (2011.14522)",
        "mean_field": "mean field (2407.05872): another form of mup",
        "u_mup": "unit-scaled maximal update, absolute: no base shape (2407.17465)",
    }
