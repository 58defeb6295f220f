"""The edge of stability: how sharp a quadratic an optimizer can descend.

On `lambda x^2 / 2` one update of an optimizer is linear.  With momentum b and decoupled decay delta (what an update
removes from a weight, as a share of it: `lr * weight_decay`) it leaves the stable region when `lr * lambda` reaches

    c = (1 + b) (2 - delta) / (A V),    A = 1 - b for averaged gradients, else 1;  V = 1 + 2 b for Nesterov, else 1,

at an eigenvalue -1 of the update, an oscillation of period 2.  The update is `x <- (1 - delta) x - lr u`, with

    heavy ball      m <- b m + g            u = m             `optax.trace`; b = 0 is gradient descent
    average         m <- b m + (1 - b) g    u = m             Adam's numerator
    Nesterov        m <- b m + g            u = g + b m
    Nesterov's average   m <- b m + (1 - b) g,  u = (1 - b) g + b m   as in NAdam

(heavy ball and Adam: Cohen et al., arXiv 2103.00065 and 2207.14484; the others by the same algebra).  For Adam lambda
is an eigenvalue of `P^-1 H` with P frozen (`lab.preconditioner`).
"""

from lab.check import InputError, nearest, require

# Sharpness at the edge, times the learning rate: (averaged gradients, Nesterov) of each form.
FORMS: dict[str, tuple[bool, bool]] = {
    "heavy-ball": (False, False),
    "average": (True, False),
    "nesterov": (False, True),
    "nesterov-average": (True, True),
}

FORM_OF_OPTIMIZER = {"sgd": "heavy-ball", "adam": "average", "adamw": "average"}
_REFUSED = {
    "lion": "its update is a sign, which no quadratic makes linear",
    "muon": "its update is orthogonalised, which no quadratic makes linear",
    "adafactor": "its updates are clipped and scaled with the weights, for which no threshold is known here",
}


def threshold(form: str, momentum: float = 0.0, decay: float = 0.0) -> float:
    """The largest stable `lr * lambda` of an update form, dimensionless; `decay` is removed from a weight per update.

    Raises:
        InputError: an unknown form, a momentum outside [0, 1), or a decay outside [0, 2).
    """
    require(form in FORMS, f"update form {form!r} is not one of {', '.join(FORMS)}{nearest(form, FORMS)}")
    require(0 <= momentum < 1, f"momentum {momentum} is not in [0, 1)")
    require(0 <= decay < 2, f"a decay of {decay} per update is not in [0, 2): without any gradient it is unstable")
    averaged, nesterov = FORMS[form]
    return (1 + momentum) * (2 - decay) / ((1 - momentum if averaged else 1) * (1 + 2 * momentum if nesterov else 1))


def form_of(optimizer: str) -> str:
    """The update form of an optimizer of this laboratory (`OptimizerConfig.kind`).

    Raises:
        InputError: an optimizer whose update is not linear on a quadratic, or an unknown one.
    """
    if optimizer in _REFUSED:
        raise InputError(
            f"optimizer {optimizer} has no edge of stability: {_REFUSED[optimizer]}; "
            f"ask for the sharpness itself, or train with {' or '.join(FORM_OF_OPTIMIZER)}"
        )
    known = f"{', '.join(FORM_OF_OPTIMIZER)}{nearest(optimizer, FORM_OF_OPTIMIZER)}"
    require(optimizer in FORM_OF_OPTIMIZER, f"optimizer {optimizer!r} is not one of {known}")
    return FORM_OF_OPTIMIZER[optimizer]


def edge(optimizer: str, *, beta1: float, momentum: float, decay: float = 0.0) -> float:
    """The threshold of an optimizer of this laboratory: SGD reads `momentum`, Adam and AdamW `beta1`.

    The ratio `lambda_max(S) / edge` of the preconditioned Hessian S, rates included, is 1 at the edge.

    Raises:
        InputError: Lion, Muon and Adafactor, which have none.
    """
    form = form_of(optimizer)
    return threshold(form, momentum if form == "heavy-ball" else beta1, decay)
