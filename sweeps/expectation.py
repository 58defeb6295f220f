"""What a parametrization's exponents say about slopes: of activations' changes, of updates, of gradients.

With m the width ratio and m_L the depth ratio, for leaves of base-relative exponents (init, forward, lr) and gradient
exponent g (`lab.parametrization`):

    gradient  m^g, and m_L^-alpha in blocks
    update    Adam, Lion: m^lr; SGD: m^(lr + g); Adafactor: m^(lr + init); Muon's hidden matrices: entries of an
              orthogonal matrix fall as m^-1/2, moonlight's scale undoes that
    change    of the embedding m^(forward + update); every other activation moves by O(1), except that the classical
              alignment makes `sp_per_layer` and `ntk` lazy (hidden activations m^-1/2), and that what a branch adds
              falls with the depth: as m_L^-1 by its own update, as m_L^-alpha by its input's; the mean is expected
"""

from lab.config import RunConfig
from lab.parametrization import TABLE, exponents
from lab.role import Place, Role
from lab.scale import ALPHA, depth_exponent

# One leaf of each role, and where it stands.  Not the final norm's gain: its gradient has a part that is aligned with
# the readout and falls faster, which still shows at these widths (-1.4 for -1 over 8 to 128).
LEAF = {
    Role.EMBEDDING: "embedding/token",
    Role.HIDDEN: "blocks/mlp/up/kernel",
    Role.READOUT: "readout/kernel",
    Role.GAIN: "blocks/mlp_norm/gain",
    Role.BIAS: "blocks/mlp/up/bias",
}
PLACE = {role: Place.BLOCK if path.startswith("blocks/") else Place.OUTSIDE for role, path in LEAF.items()}
LAZY = ("sp_per_layer", "ntk")


def change(name: str, config: RunConfig, axis: str) -> float:
    """Slope of `change/NAME`, the change of an activation since initialisation."""
    parametrization = config.parametrization
    if axis == "depth":
        alpha = ALPHA[parametrization.depth]
        return -(1 + alpha) / 2 if alpha > 0 and name in ("change/attention", "change/mlp") else 0.0
    if name == "change/embedding":
        row = exponents(Role.EMBEDDING, parametrization, config.optimizer)
        return row.forward + update(Role.EMBEDDING, config, axis)
    lazy = parametrization.alignment == "classical" and parametrization.name in LAZY
    return -0.5 if lazy and name not in ("change/logits", "change/attention_logits") else 0.0


def update(role: Role, config: RunConfig, axis: str) -> float:
    """Slope of the first update of a role's leaf."""
    kind, alpha = config.optimizer.kind, ALPHA[config.parametrization.depth]
    if axis == "depth":
        if PLACE[role] == Place.OUTSIDE or alpha == 0:
            return 0.0
        return depth_exponent(kind, alpha) + (gradient(role, config, axis) if kind == "sgd" else 0.0)
    row = exponents(role, config.parametrization, config.optimizer)
    if kind == "sgd":
        return row.lr + gradient(role, config, axis)
    if kind == "adafactor":
        return row.lr + row.init
    if kind == "muon" and role == Role.HIDDEN and config.optimizer.muon_scale != "moonlight":
        return row.lr - 0.5
    return row.lr


def gradient(role: Role, config: RunConfig, axis: str) -> float:
    """Slope of the gradient of a role's leaf at initialisation; `sp` shares the start of `sp_per_layer`."""
    if axis == "depth":
        return 0.0 if PLACE[role] == Place.OUTSIDE else -ALPHA[config.parametrization.depth]
    name = config.parametrization.name
    return TABLE["sp_per_layer" if name == "sp" else name].row(role).eps
