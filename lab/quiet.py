"""Libraries that say more than a person at a terminal wants to read."""

import contextlib
import glob
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

# libtpu looks up what it is not told, in vain, and writes pages about it to stderr.
_TOLD = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


def quiet_logs() -> None:
    """Of what libraries log through absl, show errors only."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    logging.set_stderrthreshold(logging.ERROR)


def quiet_absent_tpu() -> None:
    """Tell libtpu not to look for a TPU where there is none, before JAX is imported; does nothing on a TPU host."""
    if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*"):
        for name, value in _TOLD.items():
            os.environ.setdefault(name, value)


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Threads of a library print no traces of errors that it raises in the caller as well."""
    logger, hook = logging.getLogger("absl"), threading.excepthook
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    threading.excepthook = lambda _: None
    try:
        yield
    finally:
        logger.setLevel(level)
        threading.excepthook = hook


def quiet_late_callbacks() -> None:
    """From now on, writes that a failed one left behind, and that find no event loop to report to, print nothing."""
    hook = sys.excepthook

    def filtered(kind: Any, error: BaseException, trace: Any) -> None:
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            hook(kind, error, trace)

    sys.excepthook = filtered
