"""How often prediction intervals of fitted laws hold the optimum of a new size: the table of `docs/laws_coverage.md`.

    python -m benchmarks.coverage                # 4,000 laws per row, minutes on one core
    python -m benchmarks.coverage --laws 10000

Each row is a setting of `analysis.power.simulation`; each cell `beyond / inside`, per cent of the laws whose nominal 95
% interval held the true optimum of a new size twice as large as the largest, and of one in the middle.
"""

import argparse
from collections.abc import Iterator

from analysis.power.simulation import Setting, coverage, simulate

METHODS = ("law", "reml-z", "iid", "iid mean")
# Standard deviations between and within sizes: OpenEuroLLM's rate and batch, Step Law's rate, and others around them.
SPREADS = ((0.22, 0.17), (0.14, 0.11), (0.07, 0.05), (0.3, 0.1), (0.1, 0.1), (0.05, 0.1), (0.0, 0.1))


def settings() -> Iterator[Setting]:
    """The rows of the table: well-specified designs first, then wrong models."""
    for balanced in (True, False):
        for sizes in (5, 6, 8):
            for between, within in SPREADS:
                yield Setting(sizes, between, within, balanced=balanced)
    for wrong in ("curvature", "heavy tails", "trunks"):
        for sizes in (5, 6, 8):
            yield Setting(sizes, 0.14, 0.11, wrong=wrong)


def row(setting: Setting, laws: int, seed: int) -> str:
    """A line of the table in Markdown."""
    found = coverage(simulate(setting, laws, seed))
    shares = (" / ".join(f"{100 * share:.1f}" for share in found[name]) for name in METHODS)
    what = "crossed" if setting.balanced else "uneven"
    what = what if setting.wrong == "nothing" else f"crossed, {setting.wrong}"
    return f"| {setting.sizes} | {what} | {setting.between:g}, {setting.within:g} | {' | '.join(shares)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", type=int, default=4000, help="laws per row")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"| sizes | cells | SD between, within | {' | '.join(METHODS)} |")
    print(f"|---|---|---|{'---|' * len(METHODS)}")
    for setting in settings():
        print(row(setting, arguments.laws, arguments.seed), flush=True)


if __name__ == "__main__":
    main()
