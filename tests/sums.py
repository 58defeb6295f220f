"""Sums in 16 bits, found in the text of a program."""

import re
from collections.abc import Collection

# StableHLO: a reduction that applies an addition, and the region of a scatter or of a reduction, which adds scalars.
_LOWERED = re.compile(r"applies stablehlo\.add[^\n]*tensor<[\dx]*b?f16>|stablehlo\.add [^\n]*: tensor<b?f16>")
_PRODUCT = re.compile(r"stablehlo\.dot_general [^\n]*-> tensor<([\dx]+)xb?f16>")
_OPERATION = re.compile(
    r"= (?P<type>.*?) (?:all-reduce|all-reduce-start|reduce-scatter|reduce-window|reduce|scatter)\(.*"
    r"to_apply=%?(?P<applied>[\w.-]+)"
)
_COMPUTATION = re.compile(r"^%?([\w.-]+) [^\n]*\{\n(.*?)^\}", re.M | re.S)
_HALF = re.compile(r"\bb?f16\[")


def in_lowered(text: str) -> list[str]:
    """The lines of StableHLO that add up numbers of 16 bits."""
    return [line.strip() for line in text.splitlines() if _LOWERED.search(line)]


def over_rows(text: str, rows: Collection[int]) -> list[str]:
    """The products of StableHLO that sum over rows into 16 bits: results of a weight's shape, or of some lanes'.

    On one device that is one rounding; over several, whose parts are then added up, it is a sum in 16 bits.
    """
    found = []
    for line in text.splitlines():
        match = _PRODUCT.search(line)
        sizes = [int(size) for size in match[1].split("x")] if match else []
        if match and len(sizes) <= 3 and not set(sizes) & set(rows):
            found.append(line.strip())
    return found


def in_compiled(text: str) -> list[str]:
    """The lines of HLO, divided over devices, that add up numbers of 16 bits.

    A CPU has no such sums: where it was asked for one, what it applies is named `promoted` or rounds after every step.
    """
    bodies = {name: body for name, body in _COMPUTATION.findall(text) if " add(" in body}
    found = []
    for line in text.splitlines():
        match = _OPERATION.search(line)
        if match and match["applied"] in bodies:
            body = bodies[match["applied"]]
            if _HALF.search(match["type"]) or _HALF.search(body) or "promoted" in match["applied"]:
                found.append(line.strip()[:300])
    return found
