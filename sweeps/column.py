"""Aligned columns of plain text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as lines: the first `left` columns start together, the others end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            word.ljust(n) if place < left else word.rjust(n)
            for place, (word, n) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
