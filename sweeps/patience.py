"""Words on standard error while something takes long: what it is at, and for how many seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT_S = 5.0  # before the first word, and between two


@contextmanager
def patience(what: str, silent_s: float = SILENT_S) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes the name of each stage; while the block runs, a line every `silent_s` seconds.

    A thread writes them, so that a single long stage is told too.
    """
    stage, ended, begun = ["start"], threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(silent_s):
            print(f"{what}: {stage[0]}, {time.monotonic() - begun:.0f} s so far", file=sys.stderr, flush=True)

    def at(name: str) -> None:
        stage[0] = name

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield at
    finally:
        ended.set()
        thread.join()
