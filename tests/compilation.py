"""The environment in which tests compile; it reaches subprocesses, and must stand before JAX is imported."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables to set, beside those that are given already.

    Nine tenths of the suite's time are compiles.  Most tests ask nothing of the optimiser; those that do are marked
    `exact` and run with LRLAB_TEST_EXACT=1, at the flags that users have.

    There is one cache for the session's workers and subprocesses, kept for the next session.  Its size must be bounded:
    JAX writes entries of an unbounded cache without a lock, and warns of one that it reads half-written.  A bounded
    cache reads the whole folder at each write, half a second with 3,000 entries, so only what takes long to compile is
    kept in it, and each version of Python has its own.
    """
    cache = ROOT / ".pytest_cache" / "jax-{}.{}".format(*sys.version_info)
    wanted = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 << 30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    exact = bool(given.get("LRLAB_TEST_EXACT"))
    if not exact:
        wanted["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    found = {name: value for name, value in wanted.items() if name not in given}
    # The emitters of jaxlib 0.10 take half of what is left; later versions have no others.
    flags = given.get("XLA_FLAGS", "")
    if not exact and version("jaxlib").startswith("0.10.") and EMITTERS not in flags:
        found["XLA_FLAGS"] = f"{flags} {EMITTERS}"
    return found
