"""What the published laws answer for one run, side by side, with the reasons of those that cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.literature.publication import Beyond, Publication, publications
from lab.check import InputError


@dataclass(frozen=True)
class Answer:
    """A law's rate and batch (tokens per update); None with a reason (`lr_why`, `batch_why`) where it has none."""

    law: Publication
    lr: float | None
    batch: float | None
    lr_why: str
    batch_why: str
    warnings: tuple[str, ...]
    beyond: tuple[Beyond, ...]

    def summary(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "law": self.law.name,
            "lr": self.lr,
            "batch_tokens": self.batch,
            "lr_missing": self.lr_why or None,
            "batch_missing": self.batch_why or None,
            "warnings": list(self.warnings),
            "extrapolation": {one.name: one.factor for one in self.beyond},
            "conditions": vars(self.law.conditions),
            "evidence": {name: formula.evidence for name, formula in self.law.formulas.items()},
        }


def answer(law: Publication, inputs: Mapping[str, float | None]) -> Answer:
    """One law's answer; a rate that depends on the batch takes the given one, else the law's own.

    Raises:
        InputError: an input is unknown or not above 0.
    """
    beyond = law.extrapolation(**inputs)  # also checks the inputs
    batch, batch_why = _value(law, "batch", inputs)
    full = dict(inputs)
    if full.get("batch") is None:
        full["batch"] = batch
    lr, lr_why = _value(law, "lr", full)
    lines = [
        line
        for quantity, value in (("lr", lr), ("batch", batch))
        if value is not None
        for line in law.warnings(quantity, **inputs)
    ]
    return Answer(law, lr, batch, lr_why, batch_why, tuple(dict.fromkeys(lines)), beyond)


def answers(inputs: Mapping[str, float | None], laws: Sequence[Publication] | None = None) -> tuple[Answer, ...]:
    """Every law's answer, in the order of the table."""
    return tuple(answer(law, inputs) for law in (publications() if laws is None else laws))


def _value(law: Publication, quantity: str, inputs: Mapping[str, float | None]) -> tuple[float | None, str]:
    try:
        return law.value(quantity, **inputs), ""
    except InputError as error:
        return None, str(error)
