"""`lrlab sharpness`: measure the states that a store keeps, finished or half-finished."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.check import InputError, require
from sweeps import settings

if TYPE_CHECKING:
    from lab.config import SharpnessConfig


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = command(
        commands,
        "sharpness",
        run,
        "eigenvalues of the Hessian at the states that runs have reached, and how far the edge of stability is",
        "results/quickstart --set probe.quantities=preconditioned+tangent_kernel",
    )
    parser.add_argument(
        "path", metavar="DIR_OR_CHECKPOINT", type=Path, help="the folder of a sweep, of one of its units, or a state"
    )
    settings.add(parser, metavar="probe.NAME=VALUE", help="what to measure, as in probe.top=5 (docs/sharpness.md)")
    parser.add_argument("--json", action="store_true", help="print the points as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure every state, write its points, and print the newest of each run."""
    from analysis.sharpness.newest import newest_plain, newest_table
    from analysis.sharpness.points import read
    from lab import store
    from lab.sharpness import probe_id
    from sweeps import saved
    from sweeps.column import aligned
    from sweeps.measurement import Meter, check

    root, unit_ids = located(options.path)
    config = probe(options)
    with store.locked(root):
        states = [state for unit_id in unit_ids if (state := saved.newest(root, unit_id)) is not None]
        require(
            bool(states),
            f"{options.path} keeps no trained state: train with --keep final (the default), or measure along the "
            "training with lrlab sweep --probe sharpness",
        )
        for state in states:
            check(config, [run for stage in state.unit.stages for run in stage.runs])
        for state in states:
            Meter(config, state.unit, state.job, root).measure(state.snapshot)
    found = read(root, probe_id(config))
    measured = {run.run_id for state in states for stage in state.unit.stages for run in stage.runs}
    found = dataclasses.replace(found, frame=found.frame[found.frame["run_id"].isin(measured)])
    if options.json:
        print(json.dumps(newest_plain(found), indent=1))
        return 0
    header, rows = newest_table(found)
    print("\n".join(aligned([tuple(header), *map(tuple, rows)])))
    return 0


def located(path: Path) -> tuple[Path, list[str]]:
    """(store, ids of the units to measure) of the folder of a sweep, of a unit, or of one of its states.

    Raises:
        InputError: it is none of them.
    """
    from lab import store

    require(path.is_dir(), f"{path} is not a folder: give the folder of a sweep, or of a state in it")
    if (path / "sweep.json").is_file():
        return path, store.unit_ids(path, "checkpoints")
    for folder in (path.absolute(), *path.absolute().parents):
        if folder.parent.name == "units" and (folder.parents[1] / "sweep.json").is_file():
            return folder.parents[1], [folder.name]
    raise InputError(f"{path} is neither the folder of a sweep nor a state in it: give the folder of lrlab sweep --out")


def probe(options: argparse.Namespace) -> "SharpnessConfig":
    """The probe that `--set` asks for.

    Raises:
        InputError: another setting, or several values.
    """
    from lab.config import SharpnessConfig
    from lab.override import apply

    values = {}
    for name, several in settings.parse(options.settings).items():
        require(name.startswith("probe."), f"--set {name}: only probe.* settings apply to runs that are there")
        require(len(several) == 1, f"--set {name} takes one value here, not {len(several)}")
        values[name.removeprefix("probe.")] = several[0]
    return apply(SharpnessConfig(), values)
