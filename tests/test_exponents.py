"""The exponent table, derived: stability and alignment conditions as linear programs, forms as reparameterisations.

Notation of Everett et al. (arXiv 2407.05872): with width n, a weight has multiplier n^-a, initial standard deviation
n^-b and learning rate n^-c; layers 0, 1, 2 are embedding, hidden and readout.  `r_i` says that layer i's outputs move
by n^-r_i.  Alignment says how coherently an update meets its input (alpha: the update and the initial input, u: the
update and the input's change) and the initial weight meets that change (omega), from 1/2 (not at all) to 1.

    r0 = c0'                                                   c_i' = a_i + c_i                      Adam
    r1 = min(c1' - alpha, c1' + r0 - u, 1/2 + r0 - omega_h)    c_i' = a_i + c_i + b_i                Adafactor
    r2 = min(a2 + b2 + r1 - omega_r, c2' - alpha, c2' + r1 - u)
                                                               c_i' = 2 a_i + g + c_i, i = 0, 1      SGD
                                                               c_2' = 2 a_2 + c_2
                                                               g = min(a2 + b2, 2 a2 + c2)

Adafactor's step is in units of the weight.  SGD's is a gradient, whose size n^-(a_i + g) passes through the readout,
initial or grown.  The table holds the largest stable rates: the c of least sum among those with all r_i >= 0.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.optimize import linprog

from lab import override
from lab.config import OptimizerConfig, ParametrizationConfig
from lab.parametrization import TABLE, Exponents, Parametrization, Rate, Row, exponents
from lab.role import Role

pytestmark = pytest.mark.host

LAYERS = (Role.EMBEDDING, Role.HIDDEN, Role.READOUT)
DERIVED = ("sp_per_layer", "ntk", "mup_tp4", "mean_field")
OPTIMIZERS = ("adam", "sgd", "adafactor")
ALIGNMENTS = ("full", "none", "classical")
# (alpha = u, omega_r); omega_h is 1/2 in all three.
ALIGNMENT = {"full": (1.0, 0.5), "none": (0.5, 0.5), "classical": (1.0, 1.0)}
OMEGA_HIDDEN = 0.5
# Unknowns of the linear program: c0, c1, c2, and lower bounds s and g of the minima r1 and g.
C0, C1, C2, S, G = range(5)


def rate(row: Row, kind: str, alignment: str) -> float:
    return {"adam": row.adam, "sgd": row.sgd, "adafactor": row.adafactor}[kind].of(alignment)


def forms(spec: Parametrization) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of the three layers."""
    rows = [spec.row(role) for role in LAYERS]
    return np.array([-row.forward for row in rows]), np.array([-row.init for row in rows])


def tabled(spec: Parametrization, kind: str, alignment: str) -> tuple[float, ...]:
    """c of the three layers."""
    return tuple(-rate(spec.row(role), kind, alignment) for role in LAYERS)


def conditions(spec: Parametrization, kind: str, alignment: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows w and offsets k of the conditions `w @ (c0, c1, c2, s, g) + k >= 0`.

    Every r_i and g is a minimum of affine terms that never falls where a minimum inside it rises.  So `r_i >= 0` for
    all i exactly where some s <= each term of r1 and g <= each term of g satisfy them in place of the minima.
    """
    (a, b), (alpha, omega) = forms(spec), ALIGNMENT[alignment]
    moved, offset = np.zeros((3, 5)), np.zeros(3)  # c_i' as row and offset
    moved[range(3), range(3)] = 1
    offset[:] = 2 * a if kind == "sgd" else a + b if kind == "adafactor" else a
    if kind == "sgd":
        moved[:2, G] = 1
    unit = np.eye(5)
    terms = [
        (moved[0], offset[0]),
        (moved[1] - unit[S], offset[1] - alpha),
        (moved[1] + moved[0] - unit[S], offset[1] + offset[0] - alpha),
        (moved[0] - unit[S], 0.5 + offset[0] - OMEGA_HIDDEN),
        (unit[S], 0.0),
        (unit[S], a[2] + b[2] - omega),
        (moved[2], offset[2] - alpha),
        (moved[2] + unit[S], offset[2] - alpha),
        (-unit[G], a[2] + b[2]),
        (unit[C2] - unit[G], 2 * a[2]),
    ]
    return np.stack([row for row, _ in terms]), np.array([constant for _, constant in terms])


def derive(spec: Parametrization, kind: str, alignment: str) -> tuple[float, ...]:
    """The c of least sum that are stable; asserts that there is exactly one such c."""
    rows, constants = conditions(spec, kind, alignment)
    total = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    limits = {"A_ub": -rows, "b_ub": constants, "bounds": [(None, None)] * 5}
    best = linprog(total, **limits)
    assert best.status == 0
    for layer in (C0, C1, C2):  # on the optimal face no c_i can move, either way
        for sign in (1.0, -1.0):
            extreme = linprog(sign * np.eye(5)[layer], A_eq=total[None], b_eq=[best.fun], **limits)
            assert extreme.x[layer] == pytest.approx(best.x[layer], abs=1e-9)
    quarters = np.round(4 * best.x[:3]) / 4
    np.testing.assert_allclose(best.x[:3], quarters, rtol=0, atol=1e-9)
    return tuple(quarters.tolist())


def stable(c: np.ndarray, spec: Parametrization, kind: str, alignment: str) -> np.ndarray:
    """Whether all r_i >= 0, by the minima themselves; c is [..., 3], in multiples of 1/4 and so exact."""
    (a, b), (alpha, omega) = forms(spec), ALIGNMENT[alignment]
    g = np.minimum(a[2] + b[2], 2 * a[2] + c[..., 2]) if kind == "sgd" else np.zeros(c.shape[:-1])
    c0, c1, c2 = (
        {"adam": a[i], "adafactor": a[i] + b[i], "sgd": 2 * a[i]}[kind] + c[..., i] + (g if i < 2 else 0.0)
        for i in range(3)
    )
    r0 = c0
    r1 = np.minimum(np.minimum(c1 - alpha, c1 + r0 - alpha), 0.5 + r0 - OMEGA_HIDDEN)
    r2 = np.minimum(np.minimum(a[2] + b[2] + r1 - omega, c2 - alpha), c2 + r1 - alpha)
    return np.minimum(np.minimum(r0, r1), r2) >= 0


def wrong(spec: Parametrization) -> list[tuple[str, str]]:
    """The (optimizer, alignment) whose rates are not the derived ones."""
    return [
        (kind, alignment)
        for kind, alignment in itertools.product(OPTIMIZERS, ALIGNMENTS)
        if derive(spec, kind, alignment) != tabled(spec, kind, alignment)
    ]


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", DERIVED)
def test_rates_are_the_only_optimum_of_the_stability_conditions(name: str, kind: str, alignment: str) -> None:
    spec = TABLE[name]
    expected = tabled(spec, kind, alignment)
    assert derive(spec, kind, alignment) == expected
    ticks = np.arange(-2, 2.25, 0.25)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    allowed = grid[stable(grid, spec, kind, alignment)]
    least = allowed[allowed.sum(axis=1) == allowed.sum(axis=1).min()]
    assert least.tolist() == [list(expected)]


@pytest.mark.parametrize("name", DERIVED)
def test_any_larger_rate_is_unstable(name: str) -> None:
    spec = TABLE[name]
    for kind, alignment in itertools.product(OPTIMIZERS, ALIGNMENTS):
        c = np.array(tabled(spec, kind, alignment))
        assert stable(c, spec, kind, alignment)
        assert not stable(c - np.eye(3) / 4, spec, kind, alignment).any()


def perturbed(spec: Parametrization) -> Iterator[tuple[Parametrization, str, str]]:
    """The table with one rate of one layer off by a quarter, and where."""
    for role, kind, alignment in itertools.product(LAYERS, OPTIMIZERS, ALIGNMENTS):
        row = spec.row(role)
        rates = {each: rate(row, kind, each) for each in ALIGNMENTS}
        rates[alignment] += 1 / 4
        yield (
            dataclasses.replace(spec, **{role.value: dataclasses.replace(row, **{kind: Rate(**rates)})}),
            kind,
            alignment,
        )


@pytest.mark.parametrize("name", DERIVED)
def test_a_perturbed_rate_is_found(name: str) -> None:
    assert wrong(TABLE[name]) == []
    for spec, kind, alignment in perturbed(TABLE[name]):
        assert derive(spec, kind, alignment) != tabled(spec, kind, alignment)


# Gradient root mean square of embedding, hidden matrix and readout as powers of the width (arXiv 2407.05872).
GRADIENTS = {
    "sp_per_layer": (-1 / 2, -1 / 2, 0),
    "ntk": (-1 / 2, -1, -1 / 2),
    "mup_tp4": (-1 / 2, -1, -1 / 2),
    "mean_field": (-1, -3 / 2, -1),
}


@pytest.mark.parametrize("name", DERIVED)
def test_eps_follows_the_gradient(name: str) -> None:
    """The gradient of the stream is n^-(a2 + b2), that of a weight n^-a times it; the readout's is n^-a2."""
    spec = TABLE[name]
    a, b = forms(spec)
    stream = a[2] + b[2]
    eps = tuple(spec.row(role).eps for role in LAYERS)
    assert eps == GRADIENTS[name] == (-(a[0] + stream), -(a[1] + stream), -a[2])
    assert spec.row(Role.GAIN).eps == spec.row(Role.BIAS).eps == -stream


# By which power of t a rate shrinks where a weight's multiplier grows by t: C / t, C / t^2, or not at all (Adafactor's
# step is in units of the weight).  Of these, Adam alone has an eps, which grows by t like the gradient.
RATE_POWER = {"adam": 1, "adamw": 1, "lion": 1, "muon": 1, "sgd": 2, "adafactor": 0}
KINDS = [*((kind, "keller") for kind in RATE_POWER), ("muon", "moonlight"), ("muon", "spectral")]


def of_role(name: str, role: Role, alignment: str, kind: str, muon_scale: str = "keller") -> Exponents:
    parametrization = override.apply(ParametrizationConfig(), {"name": name, "alignment": alignment})
    return exponents(role, parametrization, override.apply(OptimizerConfig(), {"kind": kind, "muon_scale": muon_scale}))


def rewritten(old: Exponents, role: Role, kind: str, forward: float) -> Exponents:
    """The same rule with another multiplier: A t, B / t, C / t or C / t^2, E t (2203.03466, Lemma J.1)."""
    t = forward - old.forward
    has_eps = kind in ("adam", "adamw") or (kind == "muon" and role != Role.HIDDEN)
    return dataclasses.replace(
        old,
        forward=forward,
        init=old.init - t,
        lr=old.lr - RATE_POWER[kind] * t,
        eps=old.eps + (t if has_eps else 0.0),
    )


def differing(one: str, other: str) -> set[Role]:
    """Roles in which `other` is not `one` with other multipliers, under any optimizer and alignment."""
    found = set()
    for role, alignment, (kind, scale) in itertools.product(Role, ALIGNMENTS, KINDS):
        old, new = (of_role(name, role, alignment, kind, scale) for name in (one, other))
        if rewritten(old, role, kind, new.forward) != new:
            found.add(role)
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [("mup_tp4", "mup"), ("mup_tp4", "mup_table3"), ("mup", "mean_field"), ("sp_per_layer", "ntk")],
)
def test_forms_follow_from_each_other(one: str, other: str) -> None:
    assert differing(one, other) == differing(other, one) == set()


@pytest.mark.parametrize("quantity", ["init", "eps", "adam", "sgd", "adafactor"])
@pytest.mark.parametrize("role", LAYERS)
def test_a_perturbed_form_is_found(role: Role, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TABLE["mup"]
    row = spec.row(role)
    value = getattr(row, quantity)
    off = Rate(value.full, value.of("none") + 1 / 4) if isinstance(value, Rate) else value + 1 / 4
    changed = dataclasses.replace(spec, **{role.value: dataclasses.replace(row, **{quantity: off})})
    monkeypatch.setitem(TABLE, "mup", changed)
    assert differing("mup_tp4", "mup") == {role}


def test_mup_is_no_form_of_sp_per_layer() -> None:
    assert differing("sp_per_layer", "mup") == set(Role)


@pytest.mark.parametrize("name", [*DERIVED, "mup", "mup_table3"])
def test_vectors_act_like_the_effective_embedding(name: str) -> None:
    for role, alignment, kind in itertools.product((Role.GAIN, Role.BIAS), ALIGNMENTS, RATE_POWER):
        embedding = of_role(name, Role.EMBEDDING, alignment, kind)
        assert of_role(name, role, alignment, kind) == rewritten(embedding, Role.EMBEDDING, kind, 0.0)


@pytest.mark.parametrize("name", ["mup", "mup_table3", "mup_tp4"])
def test_adafactor_has_the_same_rates_in_all_forms_of_mup(name: str) -> None:
    """Its step scales with the weight: 1, m^-1/2, 1 under full alignment and 1, 1, m^1/2 under none."""
    for alignment, expected in {"full": (0, -1 / 2, 0), "none": (0, 0, 1 / 2)}.items():
        assert tuple(of_role(name, role, alignment, "adafactor").lr for role in LAYERS) == expected
