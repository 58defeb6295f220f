"""Thresholds of the edge of stability against the spectral radius of the updates themselves."""

import numpy as np
import pytest

from lab.check import InputError
from lab.edge import FORMS, edge, threshold


def radius(form: str, momentum: float, lr: float, sharpness: float, decay: float) -> float:
    """Spectral radius of one update of (x, m) on `sharpness x^2 / 2`, built by making the update on unit vectors."""
    averaged, nesterov = FORMS[form]

    def update(x: float, m: float) -> tuple[float, float]:
        g = (1 - momentum if averaged else 1) * sharpness * x
        m = momentum * m + g
        return (1 - decay) * x - lr * (g + momentum * m if nesterov else m), m

    return max(abs(np.linalg.eigvals(np.array([update(1, 0), update(0, 1)]).T)))


def measured(form: str, momentum: float, lr: float, decay: float) -> float:
    """`lr * sharpness` where the update leaves the unit circle, by bisection from a stable sharpness."""
    low, high = 1e-3 / lr, 1e3 / lr
    assert radius(form, momentum, lr, low, decay) < 1 < radius(form, momentum, lr, high, decay)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(form, momentum, lr, middle, decay) <= 1 else (low, middle)
    return lr * low


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("lr", [1e-3, 0.1])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_thresholds_are_where_updates_leave_the_unit_circle(form, momentum, lr, weight_decay) -> None:
    decay = lr * weight_decay
    # 1e-6: near the circle rounding of eigenvalues moves the crossing, the more the slower it is.
    assert measured(form, momentum, lr, decay) == pytest.approx(threshold(form, momentum, decay), rel=1e-6)


def test_thresholds_have_their_known_values() -> None:
    assert threshold("heavy-ball") == 2
    assert threshold("heavy-ball", 0.9) == pytest.approx(3.8)
    assert [threshold("average", b) for b in (0, 0.5, 0.9, 0.95)] == pytest.approx([2, 6, 38, 78])
    assert threshold("nesterov", 0.9) == pytest.approx(1.3571, abs=5e-5)
    assert threshold("nesterov-average", 0.9) == pytest.approx(13.5714, abs=5e-5)
    assert threshold("average", 0.9, 0.1 * 0.1) == pytest.approx(37.81)


def test_optimizers_have_the_threshold_of_their_form() -> None:
    assert edge("sgd", beta1=0.9, momentum=0.0) == 2
    assert edge("sgd", beta1=0.5, momentum=0.9) == pytest.approx(3.8)
    assert edge("adam", beta1=0.9, momentum=0.5) == pytest.approx(38)
    assert edge("adamw", beta1=0.9, momentum=0.5, decay=0.01) == pytest.approx(37.81)


@pytest.mark.parametrize("optimizer", ["lion", "muon", "adafactor"])
def test_optimizers_without_an_edge_are_refused_in_one_line(optimizer) -> None:
    with pytest.raises(InputError, match=f"optimizer {optimizer} has no edge of stability") as caught:
        edge(optimizer, beta1=0.9, momentum=0.9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "momentum", "decay", "message"),
    [
        ("nesterof", 0.9, 0.0, "did you mean nesterov"),
        ("average", 1.0, 0.0, "momentum 1.0 is not in"),
        ("average", 0.9, 2.0, "decay of 2.0"),
    ],
)
def test_bad_input_is_refused(form, momentum, decay, message) -> None:
    with pytest.raises(InputError, match=message):
        threshold(form, momentum, decay)
