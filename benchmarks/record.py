"""Records of benchmarks: tables in docs/ that the pages beside them tell, and tests compute again."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def write(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Write rows of equal columns to `docs/NAME`."""
    with (DOCS / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
