"""The words of `lrlab train`: one run, on the learning rate that a law predicts."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import disk
from lab.check import require
from lab.quiet import quiet_logs
from sweeps import group_options, settings


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `train`; `command` makes its parser."""
    does = "train one run over all devices, and go on with it when run again"
    example = "--out results/final --config run.json --law law.json --validate-every 1000"
    parser = command(commands, "train", _train, does, example)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where its record goes")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the run: a configuration (.json), or a sweep of one run (.py)"
    )
    settings.add(parser, metavar="NAME=VALUE", help="replace a value; exec.* changes the execution only")
    parser.add_argument(
        "--law", metavar="FILE_OR_NAME", help="takes the learning rate, and the batch if it has one, from a law"
    )
    parser.add_argument(
        "--validate-every", metavar="N", type=_positive(int), help="validate every N updates too, not at the end only"
    )
    parser.add_argument(
        "--log-seconds", metavar="S", type=_positive(float), default=10.0, help="a line every S seconds (default 10)"
    )
    parser.add_argument("--smoke", action="store_true", help="two steps, in DIR/smoke")
    group_options.add(parser)


def _train(options: argparse.Namespace) -> int:
    from sweeps import final_run
    from sweeps.journal import JournalConfig
    from sweeps.table import console

    quiet_logs()
    terminal = console(soft_wrap=True)
    disk.require_folder(options.out, "--out")
    root: Path = options.out / "smoke" if options.smoke else options.out
    changes = _changes(options)
    group_options.join(options)
    sweep = final_run.changed(final_run.read(options.config), changes)
    rate = None
    if options.law is not None:
        sweep, rate = final_run.with_law(sweep, root, options.law, batch_by_hand="data.sequences" in changes)
        terminal.print("\n".join(rate.lines), highlight=False)
    try:
        return final_run.train(
            sweep,
            root,
            again=_again(options),
            smoke=options.smoke,
            console=terminal,
            journal=JournalConfig(options.log_seconds, options.validate_every),
            rate=rate,
        )
    except KeyboardInterrupt:  # before the worker began, or a second time
        terminal.print(f"interrupted; go on with\n  {_again(options)}")
        return 130


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The values of `--set`, one for each name."""
    found = settings.parse(options.settings)
    for name, values in found.items():
        require(len(values) == 1, f"--set {name} takes one value here, not {len(values)}: lrlab sweep trains several")
        require(not name.startswith("probe."), f"--set {name}: measure the trained run with lrlab sharpness")
    require(
        options.law is None or "optimizer.lr" not in found,
        "--set optimizer.lr and --law both say the learning rate: keep one of them",
    )
    return {name: values[0] for name, values in found.items()}


def _again(options: argparse.Namespace) -> str:
    """The command line that goes on with this run."""
    command = sys.argv[0] if Path(sys.argv[0]).name == "lrlab" else "lrlab"
    words = [command, "train", "--out", str(options.out)]
    words += ["--config", str(options.config)] if options.config else []
    for text in options.settings:
        words += ["--set", text]
    words += ["--law", options.law] if options.law else []
    words += ["--validate-every", str(options.validate_every)] if options.validate_every else []
    words += ["--log-seconds", f"{options.log_seconds:g}"] if options.log_seconds != 10.0 else []
    words += ["--smoke"] if options.smoke else []
    words += group_options.words(options)
    return shlex.join(words)


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return value

    return number
