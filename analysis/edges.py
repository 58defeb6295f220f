"""What becomes of optima at an edge of their grid, which are bounds: the words for it, and which is the default."""

from typing import Literal

Edges = Literal["drop", "censor", "keep"]
EDGES: tuple[Edges, ...] = ("drop", "censor")  # what a user chooses from; `keep` belongs to near-optimal
DEFAULT: Edges = "censor"  # docs/laws_coverage.md has the simulation behind this
