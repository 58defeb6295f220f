"""Options of the form `--set NAME=V1,V2`: their words for a parser, and their typed values."""

import argparse
from collections.abc import Sequence
from typing import Any

from lab.check import require


def add(
    parser: argparse.ArgumentParser, option: str = "--set", *, metavar: str, help: str, required: bool = False
) -> None:
    """Add the option to a parser, which collects its texts in `settings`."""
    parser.add_argument(
        option, metavar=metavar, dest="settings", action="append", default=[], required=required, help=help
    )


def parse(texts: Sequence[str], option: str = "--set") -> dict[str, list[Any]]:
    """Typed values by name.

    Raises:
        InputError: an unknown name, an ill-typed value, or a name given twice.
    """
    from lab import override
    from lab.config import ExecConfig, SharpnessConfig

    sections = {"exec": ExecConfig, "probe": SharpnessConfig}
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        require(bool(equals), f"{option} {text} has no value: write {option} NAME=VALUE")
        require(name not in found, f"{option} {name} is given twice: write all its values in one, as in {name}=1,2")
        section, _, short = name.partition(".")
        if section in sections:
            found[name] = override.parse(short, values, sections[section])
        else:
            found[name] = override.parse(name, values)
    return found


def single(texts: Sequence[str]) -> dict[str, Any]:
    """The options of commands that describe one run: one value each.

    Raises:
        InputError: several values, or how runs are executed.
    """
    found = parse(texts)
    for name, values in found.items():
        require(len(values) == 1, f"--set {name} takes one value here, not {len(values)}")
        require(not name.startswith("exec."), f"--set {name}: how runs are executed is no part of this")
        require(not name.startswith("probe."), f"--set {name}: what is measured along runs is no part of this")
    return {name: values[0] for name, values in found.items()}
