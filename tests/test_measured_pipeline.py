"""docs/laws_coverage.md tells what docs/pipeline.csv holds: regret and divergence through the whole pipeline."""

import pandas as pd
import pytest
from measured import DOCS, fails, table

pytestmark = pytest.mark.host


def pipeline(found: pd.DataFrame) -> None:
    rows = [
        [
            *(str(row[name]) for name in ("sizes", "setting", "laws")),
            *(f"{row[name]:.3f} %" for name in ("told", "true")),
            f"{row['ratio']:.1f}",
            *(f"{row[name]:.3f}" for name in ("diverge", "diverged")),
        ]
        for row in found.to_dict("records")
    ]
    assert table(DOCS / "laws_coverage.md", "sizes | setting | laws") == rows


def test_regret_and_divergence_through_the_pipeline() -> None:
    found = pd.read_csv(DOCS / "pipeline.csv")
    pipeline(found)
    fails(pipeline, found.assign(told=found["told"] + 0.001))
