"""libtpu on a machine without a TPU: what it needs to know before JAX is imported, to say nothing."""

import glob
import os

# libtpu looks up what it is not told, in vain, and writes pages about it to stderr.
_TOLD = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


def quiet_absent_tpu() -> None:
    """Tell libtpu not to look for a TPU where there is none; does nothing on a TPU host."""
    if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*"):
        for name, value in _TOLD.items():
            os.environ.setdefault(name, value)
