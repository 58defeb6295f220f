"""Forms of the loss law over model size N and tokens D, as soft sums of power laws that one fitter can fit.

Every form is `ln L = tau LSE_k(t_k / tau)` with terms t_k that are linear in the fitted vector:

| form | law | terms |
|---|---|---|
| `chinchilla` | L = E + A N^-alpha + B D^-beta (Hoffmann et al., 2203.15556, Eq. 2) | a - alpha n, b - beta d, e |
| `tied` | the same with alpha = beta: N and D grow in proportion along a budget | a - alpha n, b - alpha d, e |
| `kaplan` | L = ((N_c/N)^(alpha/beta) + D_c/D)^beta (Kaplan et al., 2001.08361, Eq. 1.5) | a - alpha n, b - beta d |
| `tokens` | L = E + B D^-beta, for runs of one size | b - beta d, e |
| `params` | L = E + A N^-alpha, for runs of one horizon | a - alpha n, e |

(the numbers are arXiv's).  LSE is the logarithm of the sum of exponentials; tau is 1, but beta for `kaplan`, whose
A = N_c^alpha and B = D_c^beta, so that A N^-alpha is the loss at unlimited tokens and B D^-beta at unlimited size; its
E is 0.  n and d are ln N and ln D less their means over the rows: a and b are logs of the terms at the centre of the
data, which takes most of the correlation between constants and exponents out of the problem.  A fixed E leaves e out,
E = 0 the whole term.

Suffixes of arrays: M problems, C rows (cells or runs), K terms, P fitted numbers, Z the five PARAMETERS.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.loss.law import PARAMETERS
from lab.check import nearest, require

FORMS = {
    "chinchilla": ("a", "b", "e", "alpha", "beta"),
    "tied": ("a", "b", "e", "alpha"),
    "kaplan": ("a", "b", "alpha", "beta"),
    "tokens": ("b", "e", "beta"),
    "params": ("a", "e", "alpha"),
}
# Fitted numbers in words.
TERMS = {"a": "the term of N", "b": "the term of D", "e": "E", "alpha": "alpha", "beta": "beta"}
EXPONENTS = (1e-4, 2.0)  # bounds of alpha and beta
# Lower bounds of the terms at the centre of the data, as shares of the smallest loss: what is smaller has vanished.
LEAST_SHARE = {"a": 1e-6, "b": 1e-6, "e": 1e-3}


@dataclass(frozen=True)
class Surface:
    """A form over the rows of some data: terms `t_CK = terms_KCP @ theta_P + offset_K` and what bounds theta.

    `hot` is the place of tau in theta, or None where tau is 1; `centre` holds the means of ln N and ln D.
    """

    form: str
    names: tuple[str, ...]
    terms_KCP: np.ndarray
    offset_K: np.ndarray
    hot: int | None
    centre: tuple[float, float]
    lower_P: np.ndarray
    upper_P: np.ndarray
    fixed_E: float | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.terms_KCP.shape[1]

    def place(self, name: str) -> int | None:
        """Where `name` stands in theta; None where it is not fitted."""
        return self.names.index(name) if name in self.names else None


def check_form(form: str, fixed_E: float | None) -> None:
    """Refuse a form that does not exist, and an asymptote that it does not have."""
    require(form in FORMS, f"form={form} is not one of {', '.join(FORMS)}{nearest(form, FORMS)}")
    if fixed_E is not None:
        require("e" in FORMS[form], f"form={form} has no E to fix at {fixed_E}: leave fixed_E out")
        require(
            math.isfinite(fixed_E) and fixed_E >= 0, f"fixed_E={fixed_E} is not a loss: give 0 or more nats per token"
        )


def surface(
    form: str, params_C: np.ndarray, tokens_C: np.ndarray, loss_C: np.ndarray, fixed_E: float | None
) -> Surface:
    """The form over rows with sizes `params_C`, tokens `tokens_C` and losses `loss_C` (all above 0).

    Raises:
        InputError: for an unknown form, or a fixed E that is not below every loss.
    """
    check_form(form, fixed_E)
    smallest = float(loss_C.min())
    if fixed_E is not None:
        require(
            fixed_E < smallest, f"fixed_E={fixed_E} is not below the smallest loss {smallest:g}: give a smaller one"
        )
    names = tuple(name for name in FORMS[form] if name != "e" or fixed_E is None)
    logs = {"a": np.log(params_C), "b": np.log(tokens_C)}
    centre = (float(logs["a"].mean()), float(logs["b"].mean()))
    slopes = {"a": "alpha", "b": "alpha" if form == "tied" else "beta"}
    rows: list[np.ndarray] = []
    offsets: list[float] = []
    for constant, middle in zip("ab", centre, strict=True):
        if constant in names:
            term_CP = np.zeros((len(loss_C), len(names)))
            term_CP[:, names.index(constant)] = 1
            term_CP[:, names.index(slopes[constant])] = middle - logs[constant]
            rows.append(term_CP)
            offsets.append(0.0)
    if "e" in names or fixed_E:
        term_CP = np.zeros((len(loss_C), len(names)))
        if fixed_E is None:
            term_CP[:, names.index("e")] = 1
        rows.append(term_CP)
        offsets.append(math.log(fixed_E) if fixed_E else 0.0)
    most = {"a": math.log(float(loss_C.max())) + 5, "b": math.log(float(loss_C.max())) + 5, "e": math.log(smallest)}
    bounds = {name: (math.log(smallest * LEAST_SHARE[name]), most[name]) for name in most}
    bounds |= {"alpha": EXPONENTS, "beta": EXPONENTS}
    lower_P, upper_P = np.array([bounds[name] for name in names]).T
    hot = names.index("beta") if form == "kaplan" else None
    return Surface(form, names, np.stack(rows), np.array(offsets), hot, centre, lower_P, upper_P, fixed_E)


def parameters(shape: Surface, theta_MP: np.ndarray) -> np.ndarray:
    """[M, Z] the PARAMETERS (E, A, B, alpha, beta) of fitted vectors; nan for those that the form lacks."""
    found_MZ = np.full((len(theta_MP), len(PARAMETERS)), np.nan)
    got = {name: theta_MP[:, place] for place, name in enumerate(shape.names)}
    if shape.form == "tied":
        got["beta"] = got["alpha"]
    if "e" in got:
        found_MZ[:, 0] = np.exp(got["e"])
    else:
        found_MZ[:, 0] = shape.fixed_E or 0.0
    for constant, exponent, middle, at in (("a", "alpha", shape.centre[0], 1), ("b", "beta", shape.centre[1], 2)):
        if constant in got:
            found_MZ[:, at] = np.exp(got[constant] + got[exponent] * middle)
            found_MZ[:, at + 2] = got[exponent]
    return found_MZ


def fitted_vector(shape: Surface, given: Mapping[str, float | None]) -> np.ndarray:
    """theta [P] of given PARAMETERS: the inverse of `parameters`.

    Raises:
        InputError: where one that the form has is missing or not above 0.
    """
    values: dict[str, Any] = dict(given)
    for name in PARAMETERS:
        needed = name in shape.names or {"E": "e", "A": "a", "B": "b"}.get(name) in shape.names
        value = values.get(name)
        if needed:
            sound = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
            require(sound, f"{name}={value} of form={shape.form} is not a number above 0")
    logs = {
        "a": lambda: math.log(values["A"]) - values["alpha"] * shape.centre[0],
        "b": lambda: math.log(values["B"]) - values["alpha" if shape.form == "tied" else "beta"] * shape.centre[1],
        "e": lambda: math.log(values["E"]),
        "alpha": lambda: values["alpha"],
        "beta": lambda: values["beta"],
    }
    return np.array([logs[name]() for name in shape.names])
