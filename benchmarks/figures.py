"""What the step benchmark measured, and its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BUSY = 1.5  # a median above this many minima tells of other work on the machine


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one update of one lane, and seconds of compilation."""

    min_ms: float
    median_ms: float
    compile_s: float


@dataclass(frozen=True)
class Measured:
    """All rows of one width; a row that could not run has a few words in `failures` instead of a timing."""

    width: int
    parameters: int
    timings: Mapping[str, Timing]
    failures: Mapping[str, str]
    difference: float
    updates: int
    difference_after: float

    def ratio(self, name: str, reference: str) -> float:
        """Time of a row over time of the reference row."""
        return self.timings[name].min_ms / self.timings[reference].min_ms


def table(found: Sequence[Measured], ours: Sequence[str], theirs: Sequence[str], reference: str) -> str:
    """The figures as text, one line per row and four columns per width."""
    names = [*ours, *(name for name in theirs if any(_mentions(one, name) for one in found))]
    label = max(map(len, names))
    lines = [
        f"ms per update of one lane (min, median), ratio of min to '{reference}', seconds of compilation",
        " " * label + "".join(f"{f'width {one.width}':>30}" for one in found),
        " " * label + f"{'min':>9}{'median':>8}{'ratio':>7}{'comp.':>6}" * len(found),
    ]
    lines += [f"{name:<{label}}" + "".join(_cells(one, name, reference) for one in found) for name in names]
    lines += [f"{name} at width {one.width} failed: {why}" for one in found for name, why in one.failures.items()]
    if busy := [str(one.width) for one in found if _busy(one)]:
        lines.append(
            f"width {', '.join(busy)}: some medians are above {BUSY} times the minimum, so other work was using the "
            "CPUs: run again when they are idle"
        )
    return "\n".join(lines)


def _busy(one: Measured) -> bool:
    return any(row.median_ms > BUSY * row.min_ms for row in one.timings.values())


def _mentions(one: Measured, name: str) -> bool:
    return name in one.timings or name in one.failures


def _cells(one: Measured, name: str, reference: str) -> str:
    if name not in one.timings:
        return f"{'failed':>9}{'':>21}"
    row = one.timings[name]
    return f"{row.min_ms:9.2f}{row.median_ms:8.2f}{one.ratio(name, reference):7.2f}{row.compile_s:6.1f}"
