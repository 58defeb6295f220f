"""Libraries that say more than a person at a terminal wants to read."""

import glob
import os

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
