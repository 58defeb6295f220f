"""The commands `lrlab parametrization` and `lrlab coord-check`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import disk
from lab.check import require
from lab.quiet import quiet_logs
from sweeps import settings


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both to `lrlab`; `command` makes a parser as `lrlab` makes its own."""
    _rules(commands, command)
    _coordinates(commands, command)


def _rules(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    group = commands.add_parser(
        "parametrization",
        help="the rules as numbers: every leaf's init, multiplier, rate, eps and decay",
        description="The rules as numbers.",
    )
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    listed = command(actions, "list", _list, "every parametrization with its source", "")
    listed.add_argument("--json", action="store_true", help="print as JSON")
    show = command(
        actions,
        "show",
        _show,
        "multipliers of every leaf of a transformer, relative to its base shape",
        "mup --width 1024 --base-width 256 --depth 8 --optimizer adamw",
    )
    show.add_argument("name", metavar="NAME", help="mup, sp, ... (lrlab parametrization list)")
    show.add_argument("--width", type=int, required=True)
    show.add_argument("--base-width", type=int, required=True)
    show.add_argument("--depth", type=int, default=2)
    show.add_argument("--optimizer", default="adamw", help="sgd, adam, adamw, adafactor, muon or lion")
    show.add_argument("--alignment", default="full", help="full, none or classical")
    show.add_argument("--depth-rule", default="none", help="none, sqrt or complete")
    show.add_argument("--base-depth", type=int, help="depth at which the depth rule is the identity")
    show.add_argument("--ablate", metavar="RULE", help="switch rules off, as in hidden.lr+attention")
    settings.add(show, metavar="NAME=VALUE", help="any other setting, as in model.tied=true")
    show.add_argument("--json", action="store_true", help="print as JSON")


def _coordinates(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    check = command(
        commands,
        "coord-check",
        _coord_check,
        "do activations and updates keep their size as the model grows? Exit status 1 says no",
        "mup --widths 16,32,64,256 --steps 6 --out results/coordinates",
    )
    check.add_argument("name", metavar="NAME", nargs="?", default="mup", help="parametrization (default mup)")
    sizes = check.add_mutually_exclusive_group()
    sizes.add_argument("--widths", help="widths, as in 16,32,64,256 (the default); the first is the base")
    sizes.add_argument("--depths", help="depths instead, as in 2,4,8,16,32; the first is the base")
    check.add_argument("--steps", type=int, default=6, help="updates to look at (default 6)")
    check.add_argument("--seeds", type=int, default=3, help="seeds per size (default 3)")
    check.add_argument("--ablate", metavar="RULE", help="judge a rule that is off, where it shows, against the whole")
    settings.add(check, metavar="NAME=VALUE", help="any other setting, as in optimizer.kind=sgd")
    check.add_argument("--out", metavar="DIR", type=Path, help="write the picture and the table there")
    check.add_argument("--json", action="store_true", help="print as JSON")


def _list(options: argparse.Namespace) -> int:
    from lab.parametrization import names

    if options.json:
        print(json.dumps(dict(names()), indent=1))
    else:
        for name, line in names().items():
            print(f"{name:14}{line}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from sweeps import rules

    changes = settings.single(options.settings)
    for name, value in {
        "parametrization.name": options.name,
        "parametrization.base_width": options.base_width,
        "parametrization.alignment": options.alignment,
        "parametrization.depth": options.depth_rule,
        "parametrization.base_depth": options.base_depth,
        "parametrization.ablate": options.ablate,
        "model.width": options.width,
        "model.depth": options.depth,
        "optimizer.kind": options.optimizer,
    }.items():
        changes.setdefault(name, value)
    found = rules.show(changes)
    print(json.dumps(found, indent=1) if options.json else rules.text(found))
    return 0


def _coord_check(options: argparse.Namespace) -> int:
    from sweeps import coordinates

    quiet_logs()
    if options.out is not None:
        disk.require_folder(options.out, "--out")
    axis = "depth" if options.depths else "width"
    default = coordinates.DEPTHS if axis == "depth" else coordinates.WIDTHS
    text = options.depths or options.widths
    check = coordinates.Check(
        name=options.name,
        axis=axis,
        sizes=default if text is None else _sizes(text),
        steps=options.steps,
        seeds=options.seeds,
        settings=settings.single(options.settings),
    )
    found = coordinates.ablation(check, options.ablate) if options.ablate else coordinates.whole(check)
    if options.out is not None:
        coordinates.write(found, options.out)
    print(json.dumps(found.summary(), indent=1) if options.json else coordinates.text(found))
    return coordinates.STATUS[found.verdict]


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    require(all(part.isdigit() for part in parts), f"{text} is not a list of sizes: write them as in 16,32,64")
    return tuple(int(part) for part in parts)
