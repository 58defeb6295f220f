"""A supervisor: runs this command as a child process and says in one line how its group ended.

Where a process of a group dies, the runtime of the others aborts within the heartbeat, with pages of native traces and
no chance for Python.  The supervisor never touches the devices, so it is left to tell.  What the child writes to stderr
is held until it ends; what a failure does not need is kept in a file that the line names.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import FrameType

# Set in the child.
_CHILD = "LRLAB_SUPERVISED"
_OURS = "lrlab: error: "
_ABORTED = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS}
ENDED = "the group ended, because one of its processes died or cannot be reached"
AGAIN = "run the same command on every host again, and it goes on from the last checkpoint"


def supervised() -> bool:
    """Whether this process is the child."""
    return _CHILD in os.environ


def supervise(arguments: Sequence[str], heartbeat: float) -> int:
    """Run `lrlab ARGUMENTS` as a child and give its exit status; 1 where its group died."""
    command = [sys.executable, "-m", "sweeps.cli", *arguments]
    with tempfile.NamedTemporaryFile("w+", prefix="lrlab-", suffix=".err", delete=False) as errors:
        child = subprocess.Popen(command, env=os.environ | {_CHILD: "1"}, stderr=errors)

        def pass_on(number: int, _: FrameType | None) -> None:
            # A terminal sends its SIGINT to the child as well: only what came to this process alone is passed on.
            if number != signal.SIGINT or not sys.stdin.isatty():
                child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, pass_on)
        status = child.wait()
        errors.seek(0)
        written = errors.read()
        lines, kept = told(written, status, heartbeat, errors.name)
        sys.stderr.write(lines)
    if not kept:
        os.unlink(errors.name)
    if status in _ABORTED:
        return 1
    return status if status >= 0 else 128 - status


def told(written: str, status: int, heartbeat: float, file: str) -> tuple[str, bool]:
    """(what a person is told of a child's stderr, whether the file that holds all of it is needed)."""
    if status in _ABORTED:
        return f"{_OURS}{ENDED} (no heartbeat for {heartbeat:g} s; details: {file}): {AGAIN}\n", True
    ours = [line for line in written.splitlines() if line.startswith(_OURS)]
    if status == 0 or not ours:
        return written, False
    return "".join(f"{line}\n" for line in ours), False
