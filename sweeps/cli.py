"""The command `lrlab`.  Each subcommand imports what it needs when it runs, so `--help` is instant."""

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lab import disk, environment
from lab.check import InputError, nearest, require
from lab.quiet import quiet_absent_tpu, quiet_logs
from lab.text import shown
from sweeps import (
    compare_parser,
    fit_parser,
    group_options,
    horizon_parser,
    laws_parser,
    machine_parser,
    parametrization_parser,
    predict_parser,
    schedule_parser,
    settings,
    sharpness_parser,
    suggest_parser,
    supervisor,
    train_parser,
)

if TYPE_CHECKING:
    from sweeps.sweep import Sweep


class _Parser(argparse.ArgumentParser):
    """Errors are one line that names the value and the remedy."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lrlab: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.  Gives its exit status: 0 fine, 1 something failed, 2 wrong input, 130 interrupted."""
    quiet_absent_tpu()
    for line in environment.pin():
        print(f"note: {shown(line)}", file=sys.stderr)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, commands = _parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        parser.error(f"{arguments[0]} is not a command{nearest(arguments[0], commands)}")
    options = parser.parse_args(arguments)
    try:
        if group_options.asked(options) and not supervisor.supervised():
            return supervisor.supervise(arguments, group_options.group_of(options).heartbeat)
        return options.run(options)
    except disk.DiskFull as error:
        group_options.leave(error)
        _told(str(error))
        return 1
    except InputError as error:
        _told(str(error))
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        group_options.leave(error)
        line = disk.told(error)
        if line is None:
            raise
        _told(line)
        if error.filename is None:  # printed lines that found no room would be tried again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        group_options.leave(error)
        raise


def _told(line: str) -> None:
    print(f"lrlab: error: {shown(' '.join(line.split()))}", file=sys.stderr)


def _parser() -> tuple[argparse.ArgumentParser, tuple[str, ...]]:
    """The parser and the names of its commands."""
    parser = _Parser(prog="lrlab", description="Which learning rate, batch size and schedule for a large run?")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    _sweep_parser(commands)
    plan = _command(commands, "plan", _plan, "what a sweep would cost, and what its runs share", "quickstart --json")
    plan.add_argument("sweep", metavar="NAME_OR_FILE.py", help="a bundled sweep, or a file with sweep()")
    settings.add(plan, metavar="NAME=V1,V2", help="replace an axis or a value, as in lrlab sweep")
    _probe_option(plan)
    plan.add_argument("--on", metavar="MACHINE", help="for a machine (lrlab tpu list), by its TPU compiler")
    plan.add_argument("--no-compile", action="store_true", help="with --on: estimates only")
    plan.add_argument("--check-largest", action="store_true", help="with --on: compile the largest model too (slow)")
    plan.add_argument("--json", action="store_true", help="print as JSON")
    report = _command(commands, "report", _report, "figures, optima and drift of a sweep", "results/quickstart --json")
    report.add_argument("dir", metavar="DIR", type=Path, help="a store, or a file of lrlab export")
    report.add_argument("--open", action="store_true", help="open the page in a browser")
    report.add_argument("--json", action="store_true", help="print the summary as JSON")
    report.add_argument("--seed-sd", metavar="NATS", type=float, help="noise of a run's loss, instead of its repeats'")
    horizon_parser.add(commands, _command)
    status = _command(commands, "status", _status, "how far a sweep is", "results/quickstart")
    status.add_argument("dir", metavar="DIR", type=Path)
    status.add_argument("--json", action="store_true", help="print as JSON")
    compare_parser.add(commands, _command)
    fit_parser.add(commands, _command)
    predict_parser.add(commands, _command)
    suggest_parser.add(commands, _command)
    train_parser.add(commands, _command)
    export = _command(commands, "export", _export, "every run as a CSV table", "results/quickstart --csv runs.csv")
    export.add_argument("dir", metavar="DIR", type=Path)
    export.add_argument("--csv", metavar="FILE", type=Path, required=True)
    parametrization_parser.add(commands, _command)
    schedule_parser.add(commands, _command)
    sharpness_parser.add(commands, _command)
    laws_parser.add(commands, _command)
    machine_parser.add(commands, _command)
    doctor = _command(commands, "doctor", _doctor, "backend, devices, memory, versions, extras", "--json")
    doctor.add_argument("--json", action="store_true", help="print as JSON")
    return parser, tuple(commands.choices)


def _sweep_parser(commands: Any) -> None:
    example = "quickstart --out results/wide --set model.width=64,128,256"
    sweep = _command(commands, "sweep", _sweep, "train the runs of a sweep that have no record yet", example)
    sweep.add_argument("sweep", metavar="NAME_OR_FILE.py", nargs="?", help="a bundled sweep, or a file with sweep()")
    sweep.add_argument("--out", metavar="DIR", type=Path, help="where records go; run again to go on")
    replaces = "replace an axis or a value, as in optimizer.lr=2**-7,2**-6; exec.* changes the execution only"
    settings.add(sweep, metavar="NAME=V1,V2", help=replaces)
    _probe_option(sweep)
    group_options.add(sweep)
    sweep.add_argument("--list", action="store_true", help="bundled sweeps: question, cost, expected picture")
    sweep.add_argument("--dry-run", action="store_true", help="print what lrlab plan prints")
    sweep.add_argument("--smoke", action="store_true", help="two steps of every run")
    sweep.add_argument(
        "--keep", choices=("final", "none"), help="final (the default) keeps trained parameters and optimizer state"
    )


def _probe_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--probe",
        choices=("sharpness", "none"),
        help="measure sharpness along the runs (--set probe.quantities=, probe.every=, ...), or drop a sweep's probe",
    )


def _command(commands: Any, name: str, run: Any, does: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=does, description=does, allow_abbrev=False)
    parser.epilog = f"example: {parser.prog} {example}"
    parser.set_defaults(run=run)
    return parser


def _sweep(options: argparse.Namespace) -> int:
    from sweeps import catalog, estimate, launch
    from sweeps.sweep import replaced
    from sweeps.table import console

    terminal = console(soft_wrap=True)
    if options.list:
        for name in catalog.names():
            found = catalog.load(name)
            lines = (found.question, f"cost: {found.cost}", f"expected: {found.expected}")
            print("\n  ".join((name, *lines)))
        return 0
    require(options.sweep is not None, "which sweep? Name one of lrlab sweep --list, or give a .py file")
    require(
        options.dry_run or options.out is not None,
        "--out is missing: say where the records go, as in --out results/NAME",
    )
    if options.out is not None:
        disk.require_folder(options.out, "--out")
    changes = settings.parse(options.settings)
    if options.keep:
        changes["exec.keep"] = [options.keep]
    quiet_logs()
    sweep = replaced(_probed(catalog.load(options.sweep), options.probe), changes)
    if options.dry_run:
        estimate.show(estimate.estimate(sweep, smoke=options.smoke), terminal)
        return 0
    assert options.out is not None
    group_options.join(options)
    out: Path = options.out
    root = out / "smoke" if options.smoke else out
    try:
        return launch.launch(sweep, root, again=_again(options), smoke=options.smoke, console=terminal)
    except KeyboardInterrupt:  # before the worker began, or a second time
        terminal.print(f"interrupted; finished runs are kept; go on with\n  {_again(options)}")
        return 130


def _probed(sweep: "Sweep", probe: str | None) -> "Sweep":
    """The sweep with the probe that `--probe` asks for; a sweep that has one keeps its settings."""
    from lab.config import SharpnessConfig

    if probe == "sharpness":
        return dataclasses.replace(sweep, probe=sweep.probe or SharpnessConfig())
    return dataclasses.replace(sweep, probe=None) if probe == "none" else sweep


def _plan(options: argparse.Namespace) -> int:
    from sweeps import catalog, estimate
    from sweeps.sweep import replaced
    from sweeps.table import console

    quiet_logs()
    require(
        options.on is not None or not (options.no_compile or options.check_largest),
        "--no-compile and --check-largest are about a machine: name it with --on",
    )
    sweep = replaced(_probed(catalog.load(options.sweep), options.probe), settings.parse(options.settings))
    if options.on is not None:
        return _plan_on(sweep, options)
    found = estimate.estimate(sweep)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        estimate.show(found, console(soft_wrap=True))
    return 0


def _plan_on(sweep: "Sweep", options: argparse.Namespace) -> int:
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"  # planning for another machine leaves an accelerator of this one alone
    from sweeps import outlook, outlook_table
    from sweeps.table import console

    found = outlook.outlook(sweep, options.on, compile=not options.no_compile, check_largest=options.check_largest)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        outlook_table.show(found, console(soft_wrap=True))
    return 0


def _report(options: argparse.Namespace) -> int:
    from analysis import report
    from analysis.noise import given
    from sweeps.table import show

    found, page = report.write(options.dir, None if options.seed_sd is None else given(options.seed_sd))
    if options.json:
        print(json.dumps(found.summary(), indent=1))
    else:
        show(found)
        print(shown(f"report: {page}"))
    if options.open:
        import webbrowser

        webbrowser.open(page.absolute().as_uri())
    return 0


def _status(options: argparse.Namespace) -> int:
    from sweeps import status

    found = status.read(options.dir)
    print(json.dumps(status.summary(found), indent=1) if options.json else status.text(found))
    return 0


def _export(options: argparse.Namespace) -> int:
    from analysis.results import load

    found = load(options.dir)
    frame = found.frame
    require(options.csv.parent.is_dir(), f"--csv {options.csv}: the folder {options.csv.parent} does not exist")
    with disk.whole(options.csv) as path:
        found.table().to_csv(path, index=False)
    print("\n".join([shown(f"{len(frame)} runs in {options.csv}"), *found.notes]))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from sweeps import doctor

    quiet_logs()
    found = doctor.examine()
    print(json.dumps(found, indent=1) if options.json else doctor.text(found))
    return 0


def _again(options: argparse.Namespace) -> str:
    """The command line that goes on with this sweep."""
    command = sys.argv[0] if Path(sys.argv[0]).name == "lrlab" else "lrlab"
    words = [command, "sweep", options.sweep, "--out", str(options.out)]
    for text in options.settings:
        words += ["--set", text]
    words += ["--smoke"] if options.smoke else []
    words += ["--probe", options.probe] if options.probe else []
    words += ["--keep", options.keep] if options.keep else []
    words += group_options.words(options)
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
