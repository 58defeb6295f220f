"""The README and docs/transfer.md tell what the records in docs/ give: optima, drifts, slopes and regrets."""

import functools
import math

import numpy as np
import pandas as pd
import pytest
from measured import DOCS, ROOT, fails, interval, octaves, percent, records, results, says, table

from analysis.drift import Cell, Drift, drifts, read_cells
from analysis.noise import Noise
from analysis.results import Results
from analysis.transfer import Transfer, transfers

pytestmark = pytest.mark.host
README, TRANSFER = ROOT / "README.md", DOCS / "transfer.md"
Read = tuple[list[Cell], list[Drift], list[Transfer], Noise]


def read(found: Results) -> Read:
    cells, noise = read_cells(found)
    return cells, drifts(cells), transfers(cells), noise


@functools.cache
def measured(name: str) -> Read:
    return read(records(name))


def by(cells: list[Cell], *names: str) -> dict[tuple, Cell]:
    return {tuple(cell.values[name] for name in names): cell for cell in cells}


def moved(one: Drift) -> str:
    assert one.octaves is not None
    return interval(one.octaves, one.low, one.high)


def sloped(one: Transfer) -> str:
    assert one.line
    return f"{interval(one.line.slope, one.line.low, one.line.high)}: {one.verdict}"


def lost(one: Transfer) -> str:
    return ", ".join("none to give" if r.percent is None else percent(r.percent) for r in one.regrets[1:])


def optimum(cell: Cell, digits: int) -> list[str]:
    found = cell.optimum
    assert found.loss
    return ["flat within the noise" if found.quality == "flat" else octaves(found), f"{found.loss:.{digits}f}"]


def the_quickstart(found: Read) -> None:
    cells, drift, transfer, noise = found
    for one in transfers(cells, noise):
        assert one.carried
        says(README, f'"{one.carried.sentence}"')
    rows = by(cells, "model.width", "parametrization.name")
    wanted = [[str(width), *optimum(rows[width, "sp"], 3), *optimum(rows[width, "mup"], 3)] for width in (32, 64, 128)]
    along = {one.parametrization: moved(one) for one in drift}
    wanted.append(["drift, octaves", along["sp"], "", along["mup"], ""])
    assert table(README, "width | sp: optimum, 95 % interval (log2)") == wanted
    slope = {one.parametrization: one for one in transfer}
    told = {name: sloped(one).split(": ") for name, one in slope.items()}
    number, rest = told["sp"][0].split(" ", 1)
    says(README, f'for `sp` "{told["sp"][1]}", {number} octave per doubling {rest}')
    says(README, f'for muP "{told["mup"][1]}", {told["mup"][0]}')


def widths(found: Read) -> None:
    cells, _, transfer, noise = found
    rows = by(cells, "model.width", "parametrization.name")
    wanted = [
        [str(width), *optimum(rows[width, "sp"], 4), *optimum(rows[width, "mup"], 4)] for width in (32, 64, 128, 256)
    ]
    one = {each.parametrization: each for each in transfer}
    wanted.append(["slope, 90 %", sloped(one["sp"]), "", sloped(one["mup"]), ""])
    wanted.append(["regret of width 32's rate at 64, 128, 256", lost(one["sp"]), "", lost(one["mup"]), ""])
    assert table(TRANSFER, "width | sp: optimum, 95 % | loss | muP") == wanted
    nats = {name: one[name].regrets[-1].nats or 0 for name in one}
    line = one["mup"].line
    assert line
    says(
        TRANSFER,
        f"costs {nats['sp']:.2f} nat at width 256",
        f"the rate of width 32 gives up {lost(one['mup']).split(', ')[-1]} of the loss ({nats['mup']:.3f} nat",
        f"(Birge ratio {line.birge:.2f})",
        f"{one['mup'].seeds_needed} seeds per rate would decide",
    )
    assert nats["mup"] / noise.sd == pytest.approx(0.25, abs=0.05)  # "a quarter of the noise between seeds"


def depths(found: Read) -> None:
    cells, _, transfer, _ = found
    rows = by(cells, "model.depth", "parametrization.depth")
    rules = ("none", "sqrt", "complete")
    wanted = [
        [str(depth), *(word for rule in rules for word in optimum(rows[depth, rule], 4))] for depth in (2, 4, 8, 16)
    ]
    one = {each.group["parametrization.depth"]: each for each in transfer}
    wanted.append(["slope, 90 %", *(word for rule in rules for word in (sloped(one[rule]), ""))])
    wanted.append(["regret of depth 2's rate at 4, 8, 16", *(word for rule in rules for word in (lost(one[rule]), ""))])
    assert table(TRANSFER, "depth | no rule") == wanted
    line = one["complete"].line
    assert line
    says(TRANSFER, f"The interval of its slope ends at {line.high:+.3f}")
    assert rows[16, "complete"].optimum.degree is None  # "an asymmetry of the curve is seen"
    spread = [math.log2(cell.optimum.lr or 0) for (_, rule), cell in rows.items() if rule == "complete"]
    assert max(spread) - min(spread) < 0.2  # "its optimum stays within 0.2 octave"
    grown = [cell.points["loss"].min() for (depth, rule), cell in rows.items() if rule == "none" and depth >= 4]
    assert grown == sorted(grown)  # "from depth 4 on the loss grows"


def controls(plain: Read, heads: Read, others: Read) -> None:
    def row(label: str, found: Read, **at: object) -> list[str]:
        cells, drift, _, _ = found
        mine = [c for c in cells if all(c.values[name.replace("__", ".")] == value for name, value in at.items())]
        small, large = (next(c for c in mine if c.width == width) for width in (32, 128))
        group = {name: value for name, value in small.values.items() if name != "model.width"}
        (along,) = [one for one in drift if one.group == group]
        return [label, *optimum(small, 3), *optimum(large, 3), moved(along)]

    assert table(TRANSFER, "control | width 32") == [
        row("none (quickstart: rates a factor 2 apart, 2 seeds)", plain, parametrization__name="mup"),
        row("weight decay 0.1", others, optimizer__weight_decay=0.1),
        row("readout does not start at zero", others, optimizer__weight_decay=0.0),
        row("head dimension 16 -> 64, attention sqrt(d0)/d", heads, parametrization__attention="inverse"),
        row("head dimension 16 -> 64, attention 1/sqrt(d)", heads, parametrization__attention="sqrt"),
    ]
    small, large = (
        by(plain[0], "model.width", "parametrization.name")[width, "mup"].optimum.loss for width in (32, 128)
    )
    loose = by(others[0], "model.width", "optimizer.weight_decay")
    gains = [(a or 0) - (loose[width, 0.0].optimum.loss or 0) for a, width in ((small, 32), (large, 128))]
    says(TRANSFER, "({:.2f} nat at width 32, {:.2f} at width 128".format(*gains))


def given_up(width: Read, depth: Read) -> None:
    """The README's short table."""
    rates = {each.parametrization: each.regrets[-1].percent or 0 for each in width[2]}
    rules = {each.group["parametrization.depth"]: each.regrets[-1].percent or 0 for each in depth[2]}
    assert table(README, "a rate tuned at | used at") == [
        ["width 32, `sp`", "width 256", f"{percent(rates['sp'])} of the loss"],
        ["width 32, muP", "width 256", percent(rates["mup"])],
        ["depth 2, branches divided by L (CompleteP)", "depth 16", percent(rules["complete"])],
        ["depth 2, branches divided by sqrt(L)", "depth 16", percent(rules["sqrt"])],
    ]


def shifted(name: str) -> Read:
    """The control: losses that a reader would not tell from the records, each by some thousandths."""
    frame = records(name).frame
    noise = np.random.default_rng(0).normal(0, 0.004, len(frame))
    return read(results(name, frame.assign(loss=frame["loss"] + noise)))


def test_the_quickstart_of_the_readme() -> None:
    the_quickstart(measured("quickstart"))
    fails(the_quickstart, shifted("quickstart"))


def the_split(found: Read) -> None:
    """The answers of the quickstart on the split that leaves near copies on one side."""
    cells, _, _, noise = found
    answers = {one.parametrization: one.carried for one in transfers(cells, noise)}
    for name in ("sp", "mup"):
        carried = answers[name]
        assert carried
        says(README, f'"{carried.sentence}"')


def test_the_quickstart_on_todays_split() -> None:
    frame = pd.read_csv(DOCS / "quickstart_split.csv")
    the_split(read(results("quickstart", frame)))
    noise = np.random.default_rng(0).normal(0, 0.004, len(frame))
    fails(the_split, read(results("quickstart", frame.assign(loss=frame["loss"] + noise))))


def test_widths() -> None:
    widths(measured("lr_vs_width"))
    fails(widths, shifted("lr_vs_width"))


def test_depths() -> None:
    depths(measured("lr_vs_depth"))
    fails(depths, shifted("lr_vs_depth"))


def test_controls() -> None:
    three = ("quickstart", "width_heads", "width_controls")
    controls(*map(measured, three))
    for changed in three:
        fails(controls, *(shifted(name) if name == changed else measured(name) for name in three))


def test_what_a_small_models_rate_gives_up() -> None:
    given_up(measured("lr_vs_width"), measured("lr_vs_depth"))
    fails(given_up, shifted("lr_vs_width"), measured("lr_vs_depth"))
    fails(given_up, measured("lr_vs_width"), shifted("lr_vs_depth"))


def mean_curve(frame: pd.DataFrame, share: float) -> tuple[np.ndarray, np.ndarray]:
    """log2 rates and mean losses within a share of the lowest mean."""
    mean = frame.groupby("optimizer.lr")["loss"].mean()
    mean = mean[mean <= (1 + share) * mean.min()]
    return np.log2(mean.index.to_numpy(float)), mean.to_numpy(float)


def lowest(x: np.ndarray, y: np.ndarray, order: int) -> float:
    """Where a polynomial through the points is lowest between them."""
    fine = np.linspace(x.min(), x.max(), 4001)
    return float(fine[np.polyval(np.polyfit(x - x.mean(), y, order), fine - x.mean()).argmin()])


def slope_of(frame: pd.DataFrame, share: float, order: int) -> float:
    at = [lowest(*mean_curve(rows, share), order) for _, rows in frame.groupby("model.width")]
    return float(np.polyfit(range(len(at)), at, 1)[0])


def test_the_optima_by_numpy_alone() -> None:
    """Parabolas through the means within 2 % of the best, without the product: at every width close to the tables."""
    frame = records("lr_vs_width").frame
    cells = by(measured("lr_vs_width")[0], "model.width", "parametrization.name")
    for (width, name), rows in frame.groupby(["model.width", "parametrization.name"]):
        found = cells[width, name].optimum
        assert found.lr and found.loss
        x, y = mean_curve(rows, max(0.02, 4 * 0.012 / found.loss))  # 0.012: the noise that the report names
        assert lowest(x, y, 2) == pytest.approx(math.log2(found.lr), abs=0.03)


def test_the_slope_depends_on_how_the_optimum_is_read() -> None:
    """docs/transfer.md retracts a drift that the order and the window of the fit decide."""
    frame = records("lr_vs_width").frame
    frame = frame[frame["parametrization.name"] == "mup"]
    slopes = {
        (share, order): slope_of(frame, share, order) for share in (0.015, 0.02, 0.03, 0.05) for order in (2, 3, 4)
    }
    ends = sorted(slopes, key=lambda how: slopes[how])
    assert (ends[0], ends[-1]) == ((0.05, 2), (0.015, 4))
    first = f"slopes from {slopes[ends[0]]:.3f} (order 2, within 5 %) to "
    says(TRANSFER, first + f"{slopes[ends[-1]]:.3f} (order 4, within 1.5 %)")
    fails(says, TRANSFER, first + "+0.014")


def test_the_seeds_of_the_slope_resampled() -> None:
    """400 draws of the five seeds, parabolas within 3 %; and what the first three seeds alone gave."""
    frame = records("lr_vs_width").frame
    mup = frame[frame["parametrization.name"] == "mup"]
    by_width = [
        rows.pivot_table(index="optimizer.lr", columns="seed_init", values="loss")
        for _, rows in mup.groupby("model.width")
    ]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(400):
        seeds = rng.integers(0, 5, 5)
        at = []
        for table_RS in by_width:
            x, y = np.log2(table_RS.index.to_numpy(float)), table_RS.to_numpy(float)[:, seeds].mean(axis=1)
            near = y <= 1.03 * y.min()
            at.append(lowest(x[near], y[near], 2))
        drawn.append(np.polyfit(range(len(at)), at, 1)[0])
    low, high = np.percentile(drawn, [2.5, 97.5])
    says(TRANSFER, f"gives {slope_of(mup, 0.03, 2):.3f} with a percentile interval of {low:.2f} .. {high:.2f}")
    three = read(results("lr_vs_width", frame[frame["seed_init"] < 3]))[2]
    (line,) = [one.line for one in three if one.parametrization == "mup"]
    assert line
    says(TRANSFER, f"With 3 seeds it was {line.slope:.3f} ({line.low:.4f} .. {line.high:.4f})")
