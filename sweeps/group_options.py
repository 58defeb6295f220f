"""Options of commands that train: which group of processes this one belongs to."""

import argparse
import os
import sys

from lab.group import HEARTBEAT_SECONDS, Group, joined, leader
from lab.group import join as join_group
from sweeps.supervisor import AGAIN, ENDED

_FROM_ENVIRONMENT = "environment"
# What errors of a collective or of the coordination service say where another process is gone.
_LOST = (
    "Connection closed",
    "Connection reset",
    "Connection refused",
    "Gloo",
    "heartbeat",
    "barrier",  # of a checkpoint that the other does not write
    "UNAVAILABLE",
    "ABORTED",
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add `--group`, `--processes`, `--process` and `--heartbeat`."""
    options = parser.add_argument_group("several hosts", "the same command on every host, with one store that all see")
    options.add_argument(
        "--group",
        nargs="?",
        const=_FROM_ENVIRONMENT,
        metavar="HOST:PORT",
        help="train with the processes of all hosts: alone where Slurm, GKE, Open MPI or TPU metadata say who they "
        "are, else the address of process 0",
    )
    options.add_argument("--processes", type=int, metavar="N", help="how many there are")
    options.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    options.add_argument(
        "--heartbeat",
        type=float,
        default=HEARTBEAT_SECONDS,
        metavar="SECONDS",
        help=f"a process that is silent for so long ends the group (default {HEARTBEAT_SECONDS:g})",
    )


def asked(options: argparse.Namespace) -> bool:
    """Whether a command is to run as one of a group."""
    return getattr(options, "group", None) is not None or getattr(options, "process", None) is not None


def group_of(options: argparse.Namespace) -> Group:
    """The group that the options describe.

    Raises:
        InputError: they contradict each other.
    """
    address = None if options.group == _FROM_ENVIRONMENT else options.group
    return Group(address, options.processes, options.process, options.heartbeat)


def words(options: argparse.Namespace) -> list[str]:
    """The options as they were given, but for the number of this process."""
    if not asked(options):
        return []
    if options.group == _FROM_ENVIRONMENT:
        return ["--group"]
    return ["--group", options.group, "--processes", str(options.processes), "--process", "I"]


def join(options: argparse.Namespace) -> None:
    """Join the group that was asked for, if one was; all but its leader fall silent.

    Raises:
        InputError: there is no such group.
    """
    if not asked(options):
        return
    join_group(group_of(options))
    if not leader():
        _silence()


def leave(error: Exception) -> None:
    """End this process of a group at once, in one line: a normal exit would wait for the others, who wait for it."""
    if joined():
        print(f"lrlab: error: {ending(error)}", file=sys.stderr, flush=True)
        os._exit(1)


def ending(error: Exception) -> str:
    """Why a group ended: another process is gone, as errors of communication say, or this one failed."""
    line = (str(error).strip().splitlines() or [""])[0]
    lost = any(word in line for word in _LOST)
    what = ENDED if lost else "this process of the group failed, which ends the others too"
    return f"{what} ({type(error).__name__}: {line}): {AGAIN}"


def _silence() -> None:
    sys.stdout = open(os.devnull, "w")  # for the rest of the process
