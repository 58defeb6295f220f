"""Sweeps: combinators, replaced axes, plans that are stable, and what the bundled ones promise."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.results import flattened
from lab import store
from lab.config import ExecConfig, RunConfig
from lab.record import Provenance, Result, record
from sweeps import catalog, plan
from sweeps.sweep import Run, Sweep, axis, chain, product, replaced, resolved, zipped
from sweeps.this_machine import here

RATES = (2.0**-8, 2.0**-7, 2.0**-6)


def make(base: RunConfig, points: Sequence[dict[str, Any]], **fields: Any) -> Sweep:
    return Sweep(name="test", question="?", cost="none", expected="none", base=base, points=points, **fields)


def grid(base: RunConfig) -> Sweep:
    return make(base, product(axis("model.width", 16, 32), axis("seed", 0, 1), axis("optimizer.lr", *RATES)))


def test_combinators() -> None:
    a, b = axis("model.width", 1, 2), axis("model.depth", 3, 4)
    assert product(a, b) == [
        {"model.width": 1, "model.depth": 3},
        {"model.width": 1, "model.depth": 4},
        {"model.width": 2, "model.depth": 3},
        {"model.width": 2, "model.depth": 4},
    ]
    assert zipped(a, b) == [{"model.width": 1, "model.depth": 3}, {"model.width": 2, "model.depth": 4}]
    assert chain(a, a, b) == [*a, *b]
    assert product() == [{}]


def test_combinators_refuse_contradictions() -> None:
    with pytest.raises(ValueError, match=r"model\.width is set by two axes"):
        product(axis("model.width", 1), axis("model.width", 2))
    with pytest.raises(ValueError, match=r"zipped axes have lengths \[1, 2\]: make them equal"):
        zipped(axis("model.width", 1), axis("model.depth", 1, 2))


def test_a_sweep_without_runs_or_with_unknown_axes_is_refused(base: RunConfig) -> None:
    with pytest.raises(ValueError, match="has no runs"):
        make(base, [])
    with pytest.raises(ValueError, match=r"unknown setting model\.widht \(did you mean model\.width\?\)"):
        make(base, axis("model.widht", 1))
    with pytest.raises(ValueError, match=r"unknown setting optimizer\.rate"):
        make(base, axis("model.width", 16), optimum_axes=("optimizer.rate",))


def test_replacing_an_axis_or_a_value(base: RunConfig) -> None:
    narrowed = replaced(grid(base), {"model.width": [64]})
    assert {config.model.width for config in narrowed} == {64}
    assert len(narrowed.points) == 6
    valued = replaced(grid(base), {"optimizer.beta2": [0.9]})
    assert {config.optimizer.beta2 for config in valued} == {0.9}
    assert len(valued.points) == 12
    seeds = replaced(grid(base), {"seed": [0, 1, 2]})
    assert {(c.seed_init, c.seed_data) for c in seeds} == {(0, 0), (1, 1), (2, 2)}
    apart = replaced(grid(base), {"seed_init": [7]})
    assert {(c.seed_init, c.seed_data) for c in apart} == {(7, 0)}


def test_replacing_a_duration_clears_the_one_it_replaces(base: RunConfig) -> None:
    budgets = make(base, product(axis("schedule.steps", 12, 24), axis("optimizer.lr", *RATES)))
    tokens = replaced(budgets, {"schedule.tokens": [64 * 20]})
    assert {run.config.schedule.steps for run in resolved(tokens)} == {20}
    assert len(tokens.points) == 3


def test_execution_settings_do_not_change_runs(base: RunConfig) -> None:
    changed = replaced(grid(base), {"exec.lanes": [8]})
    assert changed.execution.lanes == 8
    assert [r.run_id for r in resolved(changed)] == [r.run_id for r in resolved(grid(base))]
    with pytest.raises(ValueError, match=r"exec\.lanes takes one value, not 2"):
        replaced(grid(base), {"exec.lanes": [4, 8]})


def test_runs_that_coincide_appear_once(base: RunConfig) -> None:
    same = make(base, chain(axis("schedule.steps", 12), axis("schedule.tokens", 12 * 64)))
    assert len(resolved(same)) == 1


def test_smoke_runs_take_two_steps(base: RunConfig) -> None:
    runs = resolved(grid(base), smoke=True)
    assert len(runs) == 12
    assert {run.config.schedule.steps for run in runs} == {2}


def test_cycles_are_values_like_others(base: RunConfig) -> None:
    cycles = make(base, axis("schedule.cycle_steps", (5,), (5, 9)))
    cycles = replaced(cycles, {"schedule.kind": ["wsd_s"], "schedule.decay_steps": [2]})
    assert [run.config.schedule.cycle_steps for run in resolved(cycles)] == [(5,), (5, 9)]
    assert {run.config.schedule.cycle_steps for run in resolved(cycles, smoke=True)} == {None}
    replacing = replaced(cycles, {"schedule.cycle_fractions": [(0.5,)]})
    assert [run.config.schedule.cycle_steps for run in resolved(replacing)] == [(6,)]
    assert flattened({"schedule.cycle_steps": [5, 9]}) == {"schedule.cycle_steps": "5:9"}


def ids(units: Sequence[plan.Unit]) -> list[str]:
    return [run.run_id for unit in units for run in unit.runs]


def planned(runs: Sequence[Run], **settings: Any) -> list[plan.Group]:
    return plan.plan(runs, ExecConfig(**settings), machine=here("cpu"))


def test_runs_are_grouped_by_program_and_packed_into_lanes(base: RunConfig) -> None:
    runs = resolved(grid(base))
    groups = planned(runs, lanes=4)
    assert [group.model.width for group in groups] == [16, 32]
    assert [len(unit.runs) for group in groups for unit in group.units] == [4, 2, 4, 2]
    assert {unit.execution.lanes for group in groups for unit in group.units} == {4}
    assert sorted(ids([unit for group in groups for unit in group.units])) == sorted(run.run_id for run in runs)


def test_parametrization_rate_seed_and_schedule_share_a_program(base: RunConfig) -> None:
    runs = resolved(
        make(
            base,
            product(
                axis("parametrization.name", "sp", "mup"),
                axis("optimizer.kind", "adam", "adamw"),
                axis("optimizer.clip", 1.0, None),
                axis("schedule.floor", 0.0, 0.1),
            ),
        )
    )
    assert len(planned(runs)) == 1
    split = resolved(make(base, product(axis("optimizer.kind", "adamw", "sgd"), axis("dtype", "float32", "bfloat16"))))
    assert len(planned(split)) == 4


def test_lanes_of_one_unit_have_the_same_updates(base: RunConfig) -> None:
    runs = resolved(make(base, product(axis("optimizer.lr", *RATES), axis("schedule.steps", 12, 24))))
    (group,) = planned(runs, lanes=4)
    assert [(unit.begin, unit.end, len(unit.stages)) for unit in group.units] == [(0, 8, 3), (8, 12, 3), (8, 24, 3)]
    assert [{(stage.begin, stage.end) for stage in unit.stages} for unit in group.units] == [
        {(unit.begin, unit.end)} for unit in group.units
    ]


def test_the_bucket_is_the_smallest_power_of_two_that_holds_few_runs(base: RunConfig) -> None:
    runs = resolved(grid(base))
    assert {u.execution.lanes for g in planned(runs[:1]) for u in g.units} == {1}
    assert {u.execution.lanes for g in planned(runs[:2]) for u in g.units} == {2}
    assert {u.execution.lanes for g in planned(runs) for u in g.units} == {4}


def test_unit_ids_are_stable_and_follow_their_lanes(base: RunConfig) -> None:
    runs = resolved(grid(base))
    first, again, other = (
        [unit.unit_id for group in planned(runs, lanes=lanes) for unit in group.units] for lanes in (4, 4, 2)
    )
    assert first == again
    assert not set(first) & set(other)


def finished(run: Run) -> dict[str, Any]:
    """The record of a run that nobody has trained."""
    how = Provenance("abc", 0, 1, 4, "map", 1, "cpu", "cpu", 1, ExecConfig(), "then", "now", 1.0)
    return record(run.config, Result("done", 2.0, 0.1, 256, 2.1, 2.1, None), how)


def test_finished_runs_are_left_out(base: RunConfig, tmp_path: Path) -> None:
    runs = resolved(grid(base))
    groups = planned(runs, lanes=4)
    assert len(plan.pending(groups, store.read_records(tmp_path))) == 4
    for run in groups[0].units[0].runs + groups[0].units[1].runs[:1]:
        store.write_record(tmp_path, finished(run))
    left = plan.pending(groups, store.read_records(tmp_path))
    assert len(left) == 3
    assert left[0].runs == groups[0].units[1].runs[1:]
    assert left[0].execution.lanes == 4
    assert left[0].unit_id != groups[0].units[1].unit_id


@pytest.mark.parametrize("name", catalog.names())
def test_bundled_sweeps_say_what_they_ask_and_fit_their_corpus(name: str) -> None:
    sweep = catalog.load(name)
    assert sweep.name == name
    assert sweep.question.endswith("?")
    assert sweep.cost
    assert sweep.expected
    runs = resolved(sweep)
    assert len(runs) == len({run.run_id for run in runs}) == len(sweep.points)


def test_finding_sweeps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no bundled sweep is called quickstrat \(did you mean quickstart\?\)"):
        catalog.load("quickstrat")
    with pytest.raises(ValueError, match=r"missing\.py is not a file"):
        catalog.load(str(tmp_path / "missing.py"))
    for text, line in (
        ("x = 1\n", r"has no function sweep\(\)"),
        ("import nonexistent\n", r"cannot be loaded: ModuleNotFoundError"),
        ("def sweep():\n    return 3\n", r"sweep\(\) gives int and not a Sweep"),
        ("def sweep(:\n", r"cannot be loaded: SyntaxError"),
        ("def sweep():\n    raise KeyError('x')\n", r"sweep\(\) failed: KeyError"),
    ):
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(ValueError, match=line):
            catalog.load(str(tmp_path / "mine.py"))


def test_a_store_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "record.json"
    assert store.create_exclusive(path, b"one")
    assert not store.create_exclusive(path, b"two")
    assert path.read_bytes() == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def test_a_store_has_one_launcher(tmp_path: Path) -> None:
    with store.locked(tmp_path), pytest.raises(ValueError, match="is in use by process"), store.locked(tmp_path):
        pass
    with store.locked(tmp_path):
        pass


def test_points_survive_the_base_being_replaced(base: RunConfig) -> None:
    sweep = grid(base)
    assert [c.optimizer.lr for c in sweep] == [point["optimizer.lr"] for point in sweep.points]
    assert dataclasses.replace(sweep, name="other").points == sweep.points


# Seeds that have points of their own


def dithered(base: RunConfig) -> Sweep:
    """Two widths, and three rates that are shifted from seed to seed."""
    rates = chain(
        *(product(axis("seed", seed), axis("optimizer.lr", *(r * 2 ** (seed / 4) for r in RATES))) for seed in range(4))
    )
    return make(base, product(axis("model.width", 16, 32), rates))


def test_seeds_are_chosen_with_the_points_that_belong_to_them(base: RunConfig) -> None:
    sweep = dithered(base)
    found = replaced(sweep, {"seed": [0, 2]})
    assert list(found.points) == [point for point in sweep.points if point["seed"] in (0, 2)]
    assert len(found.points) == 12  # crossed, as in 0.1.0, they would be 48
    both = replaced(sweep, {"seed": [1], "model.width": [64]})
    assert [(point["model.width"], point["seed"]) for point in both.points] == [(64, 1)] * 3
    # A corpus that belongs to a seed is no rate, and the same holds.
    corpora = zipped(axis("seed", 0, 1), axis("data.corpus", "text:a", "text:b"))
    assert list(replaced(make(base, corpora), {"seed": [1]}).points) == corpora[1:]


def test_a_seed_without_points_of_its_own_is_refused_where_others_have_them(base: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"seed=7: each seed .* points of its own, .* there are seed=0,1,2,3"):
        replaced(dithered(base), {"seed": [0, 7]})
    with pytest.raises(ValueError, match=r"seed_data=0: each seed .* they are told by seed"):
        replaced(dithered(base), {"seed_data": [0]})


def test_seeds_without_points_of_their_own_are_replaced(base: RunConfig) -> None:
    """The controls: every seed has the same points, or fewer of them; or other settings have made them the same."""
    assert len(replaced(grid(base), {"seed": [5, 6, 7]}).points) == 2 * 3 * 3
    fewer = chain(
        product(axis("model.width", 16), axis("seed", 0, 1, 2)), product(axis("model.width", 32), axis("seed", 0))
    )
    assert len(replaced(make(base, fewer), {"seed": [0, 7]}).points) == 4
    for order in (("seed", "optimizer.lr"), ("optimizer.lr", "seed")):
        values = {"seed": [0, 7], "optimizer.lr": [0.1, 0.2]}
        assert len(replaced(dithered(base), {name: values[name] for name in order}).points) == 2 * 2 * 2
