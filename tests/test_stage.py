"""The stage tree: what may share updates, and what that saves."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from conftest import resolve

from lab import schedule
from lab.config import RunConfig, SharpnessConfig
from lab.identity import digest, run_id
from sweeps import stage as tree
from sweeps.stage import stages
from sweeps.sweep import Run

pytestmark = pytest.mark.host

RATES = (2.0**-7, 2.0**-6, 2.0**-5, 2.0**-4)


def run(config: RunConfig) -> Run:
    return Run(run_id(config), config, {})


def runs_of(base: RunConfig, **axes: Sequence[Any]) -> list[Run]:
    """Resolved runs, one per value of the axes taken together."""
    return [run(resolve(base, **dict(zip(axes, values, strict=True)))) for values in zip(*axes.values(), strict=True)]


def budgets(base: RunConfig, steps: Sequence[int], fraction: float, **fields: Any) -> list[Run]:
    return [
        run(resolve(base, schedule__steps=total, schedule__decay_fraction=fraction, schedule__warmup_steps=0, **fields))
        for total in steps
    ]


def totals(runs: Sequence[Run]) -> tuple[int, int]:
    """(updates alone, updates of the tree)."""
    return sum(r.config.schedule.steps or 0 for r in runs), sum(stage.steps for stage in stages(runs))


# shared/reference: sum(B) / (max(B) (1 - f) + f sum(B)), printed to two decimals.
SAVINGS = [
    ([1000 * 4**i for i in range(4)], (1.29, 1.25, 1.21)),
    ([1000 * 2**i for i in range(6)], (1.79, 1.65, 1.53)),
    ([round(100 * 2 ** (i / 2)) * 10 for i in range(8)], (2.62, 2.22, 1.93)),
    ([1000 * (i + 1) for i in range(8)], (3.33, 2.65, 2.20)),
]


@pytest.mark.parametrize(("steps", "savings"), SAVINGS)
def test_the_saving_is_the_arithmetic_bound(base: RunConfig, steps: list[int], savings: tuple[float, ...]) -> None:
    for fraction, printed in zip((0.1, 0.2, 0.3), savings, strict=True):
        alone, planned = totals(budgets(base, steps, fraction))
        decays = sum(round(fraction * total) for total in steps)
        assert planned == max(steps) - round(fraction * max(steps)) + decays
        assert alone / planned == pytest.approx(printed, abs=0.0051)


def test_forty_six_updates_instead_of_seventy(base: RunConfig) -> None:
    runs = budgets(base, (10, 20, 40), 0.2)
    assert totals(runs) == (70, 46)
    found = stages(runs)
    assert [(stage.begin, stage.end, len(stage.runs), len(stage.ending)) for stage in found] == [
        (0, 8, 3, 0),
        (8, 10, 1, 1),
        (8, 16, 2, 0),
        (16, 20, 1, 1),
        (16, 40, 1, 1),
    ]
    assert len({stage.trunk_id for stage in found}) == 1
    assert {stage.parent for stage in found} <= {None, *(stage.stage_id for stage in found)}


def test_stages_cover_every_run_exactly(base: RunConfig) -> None:
    rng = np.random.default_rng(0)
    runs = {}
    for _ in range(60):
        total = int(rng.integers(4, 60))
        warmup = int(rng.choice([0, 2, 3]))
        config = resolve(
            base,
            schedule__steps=total,
            schedule__warmup_steps=warmup,
            schedule__decay_steps=int(rng.integers(0, total - warmup + 1)),
            schedule__decay_shape=str(rng.choice(["linear", "sqrt"])),
            optimizer__lr=float(rng.choice(RATES)),
            seed=int(rng.integers(2)),
        )
        runs[run_id(config)] = run(config)
    found = stages(list(runs.values()))
    by_id = {stage.stage_id: stage for stage in found}
    assert len(by_id) == len(found)
    for one in runs.values():
        line = [stage for stage in found if one in stage.runs]
        assert [stage.begin for stage in line] == [0, *(stage.end for stage in line[:-1])]
        assert line[-1].end == one.config.schedule.steps
        assert [stage.parent for stage in line] == [None, *(stage.stage_id for stage in line[:-1])]
        for stage in line:  # all that share a stage have its very rates and decays
            for function in (schedule.rates, schedule.decays):
                same = {function(other.config)[stage.begin : stage.end].tobytes() for other in stage.runs}
                assert len(same) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__lr": [2.0**-6, float(np.nextafter(2.0**-6, 1))]},
        {"seed_init": [0, 1]},
        {"seed_data": [0, 1]},
        {"optimizer__weight_decay": [0.0, 0.1]},
        {"optimizer__beta2": [0.95, 0.99]},
        {"schedule__warmup_steps": [2, 3]},
        {"evaluation__sequences": [16, 8]},
    ],
)
def test_runs_that_differ_from_the_start_share_nothing(base: RunConfig, changes: dict[str, list[Any]]) -> None:
    runs = runs_of(base, schedule__steps=[12, 24], **changes)
    found = stages(runs)
    assert len(found) == 2
    assert {stage.trunk_id for stage in found} == {None}
    control = runs_of(base, schedule__steps=[12, 24])
    assert len(stages(control)) == 3


def test_horizon_rules_keep_budgets_apart(base: RunConfig) -> None:
    rule = {"parametrization__horizon": "completed", "parametrization__base_batch": 4}
    rule |= {"parametrization__base_tokens": 12 * 64, "parametrization__name": "mup"}
    runs = [run(resolve(base, schedule__steps=steps, **rule)) for steps in (12, 24)]
    assert len(stages(runs)) == 2


def test_cosine_runs_share_their_warm_up_only(base: RunConfig) -> None:
    runs = [
        run(resolve(base, schedule__kind="cosine", schedule__steps=steps, schedule__decay_steps=None))
        for steps in (12, 24)
    ]
    assert [(stage.begin, stage.end) for stage in stages(runs)] == [(0, 2), (2, 12), (2, 24)]


def test_power_and_other_laws_without_a_horizon_share_their_trunks(base: RunConfig) -> None:
    for kind in ("power", "inverse_sqrt"):
        assert totals(budgets(base, (10, 20, 40), 0.2, schedule__kind=kind)) == (70, 46)
    apart = [
        run(resolve(base, schedule__kind="power", schedule__steps=steps, schedule__power_coefficient=a))
        for steps, a in ((20, 0.1), (40, 0.2))
    ]
    assert len(stages(apart)) == 2


def test_cycles_are_another_choice(base: RunConfig) -> None:
    """Under WSD-S a budget goes on from the decayed weights of the one before: a chain, and no tree."""
    runs = [
        run(
            resolve(
                base,
                schedule__kind="wsd_s",
                schedule__steps=steps,
                schedule__cycle_steps=earlier or None,
                schedule__decay_steps=2,
                schedule__warmup_steps=0,
            )
        )
        for steps, earlier in ((10, ()), (20, (10,)), (40, (10, 20)))
    ]
    found = stages(runs)
    assert totals(runs) == (70, 40)
    assert [(stage.begin, stage.end, len(stage.ending)) for stage in found] == [(0, 10, 1), (10, 20, 1), (20, 40, 1)]
    forks = [run(resolve(base, schedule__steps=s, schedule__decay_steps=2, schedule__warmup_steps=0)) for s in (10, 20)]
    assert len({stage.trunk_id for stage in stages([*runs, *forks])}) == 1


def test_decay_shapes_share_their_trunk(base: RunConfig) -> None:
    runs = runs_of(base, schedule__decay_shape=["linear", "cosine", "sqrt"])
    assert [(stage.begin, stage.end) for stage in stages(runs)] == [(0, 8), (8, 12), (8, 12), (8, 12)]


def test_one_trajectory_gives_every_run_that_has_it_its_record(base: RunConfig) -> None:
    same = [
        run(resolve(base, schedule__kind="wsd", schedule__decay_steps=0)),
        run(resolve(base, schedule__kind="constant", schedule__decay_steps=None)),
    ]
    (stage,) = stages(same)
    assert len(stage.ending) == 2


def test_stage_ids_do_not_depend_on_the_rest_of_the_sweep(base: RunConfig) -> None:
    few, many = (budgets(base, steps, 0.2) for steps in ((20, 40), (20, 40, 80)))
    assert {stage.stage_id for stage in stages(few) if not stage.ending} < {s.stage_id for s in stages(many)}
    assert stages(few)[0].trunk_id == stages(many)[0].trunk_id


# Runs of any length


def test_marks_of_blocks_are_those_of_whole_arrays(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids do not follow how many updates are made at a time."""
    runs = [
        *budgets(base, (100, 250, 1000), 0.3, optimizer__weight_decay=0.1),
        *budgets(base, (100, 250), 0.3, schedule__kind="power"),
        *budgets(base, (333, 1000), 0.3, optimizer__decay="independent", schedule__decay_shape="cosine"),
    ]
    whole = stages(runs)
    for block in (64, 100):
        tree._marks.cache_clear()
        tree._values.cache_clear()
        monkeypatch.setattr(tree, "_BLOCK", block)
        assert stages(runs) == whole
    first = schedule.rates(runs[0].config)[:1], schedule.decays(runs[0].config)[:1]
    told = hashlib.sha256(np.stack(first, axis=1).tobytes()).hexdigest()
    assert whole[0].trunk_id == digest(tree._family(runs[0]) + told)  # as 0.1.0 made it


def test_long_runs_share_what_short_ones_do(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `EXACT` updates the pieces are compared and not the numbers: the tree is the same, without the numbers."""
    runs = [
        *budgets(base, (100, 250, 1000), 0.3),
        *budgets(base, (100, 250, 1000), 0.3, optimizer__lr=2.0**-4),
        *budgets(base, (100, 250, 1000), 0.3, schedule__kind="power", optimizer__lr=64.0),  # below its cap throughout
        *budgets(base, (250, 1000), 0.3, schedule__kind="inverse_sqrt", optimizer__lr=2.0**-3),
        *budgets(base, (1000,), 0.3, schedule__decay_shape="cosine"),
        *[run(resolve(base, schedule__kind="cosine", schedule__steps=n, schedule__decay_steps=None)) for n in (90, 91)],
    ]
    shape = [(one.begin, one.end, one.runs, bool(one.trunk_id)) for one in stages(runs)]
    tree._marks.cache_clear()
    monkeypatch.setattr(tree, "EXACT", 1)
    found = stages(runs)
    assert [(one.begin, one.end, one.runs, bool(one.trunk_id)) for one in found] == shape
    assert len({one.stage_id for one in found}) == len(found)
    tree._marks.cache_clear()


def test_runs_of_a_trillion_tokens_are_planned_without_their_updates(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = schedule.factors

    def counted(config: Any, start: int = 0, stop: int | None = None, **law: Any) -> np.ndarray:
        found = real(config, start, stop, **law)
        made.append(found.size)
        return found

    monkeypatch.setattr(schedule, "factors", counted)
    steps = [10**12 // 64, 10**12 // 32, 10**12 // 16]
    runs = [
        run(resolve(base, schedule__steps=n, schedule__decay_fraction=0.2, schedule__warmup_steps=5000)) for n in steps
    ]
    found = stages(runs)
    assert [(one.begin, one.end) for one in found][:2] == [(0, steps[0] - steps[0] // 5), (steps[0] * 4 // 5, steps[0])]
    assert sum(one.steps for one in found) < 0.7 * sum(steps)
    assert max(made) <= tree._BLOCK
    assert sum(made) < 10**7


@pytest.mark.parametrize("every", [1, 7, 8, 64])
def test_points_of_a_probe_are_counted_without_a_list(every: int) -> None:
    config = SharpnessConfig(every=every)
    for begin, end in ((0, 0), (0, 100), (1, 64), (65, 1000), (8, 8), (9, 9)):
        assert config.count(begin, end) == len(config.cadence(begin, end))
    assert config.count(0, 10**12) >= 10**12 // every
