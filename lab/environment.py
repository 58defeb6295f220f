"""What a shell says to JAX and its compilers: what would change numbers is set back, or recorded where it cannot be.

A run is its configuration, so no variable may change its numbers unsaid.  JAX's own settings are set back to what they
are without a shell (`pin`, before JAX is imported; `pinned`, around what is compiled and run).  Flags of the compilers
can be meant (a fault worked around, a faster collective): they stand in the record and in the unit, and a unit does not
go on under others (`sweeps.saved.require_same_environment`).
"""

import contextlib
import os
import re
from collections.abc import Iterator, MutableMapping

# Variables of JAX that change what is computed, or whether it is, with the words that say what holds without them.
_USUAL: dict[str, tuple[str, ...]] = {
    "JAX_DEBUG_INFS": ("0",),
    "JAX_DEBUG_KEY_REUSE": ("0",),
    "JAX_DEBUG_NANS": ("0",),
    "JAX_DEFAULT_DTYPE_BITS": ("64",),
    "JAX_DEFAULT_MATMUL_PRECISION": ("", "default", "none"),
    "JAX_DEFAULT_PRNG_IMPL": ("threefry2x32",),
    "JAX_DISABLE_JIT": ("0",),
    "JAX_ENABLE_CUSTOM_PRNG": ("0",),
    "JAX_ENABLE_X64": ("0",),
    "JAX_ERROR_CHECKING_BEHAVIOR_DIVIDE": ("ignore",),
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN": ("ignore",),
    "JAX_ERROR_CHECKING_BEHAVIOR_OOB": ("ignore",),
    "JAX_EXPLICIT_X64_DTYPES": ("1", "allow"),
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": ("0",),
    "JAX_LEGACY_PRNG_KEY": ("allow",),
    "JAX_NO_EXECUTION": ("0",),
    "JAX_NO_TRACING": ("0",),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard",),
    "JAX_NUMPY_RANK_PROMOTION": ("allow",),
    "JAX_PALLAS_POISON_BUFFERS": ("0",),
    "JAX_RANDOM_SEED_OFFSET": ("0",),
    "JAX_SOFTMAX_CUSTOM_JVP": ("0",),
    "JAX_THREEFRY_GPU_KERNEL_LOWERING": ("0",),
    "JAX_THREEFRY_PARTITIONABLE": ("1",),
    "JAX_TRANSFER_GUARD": ("", "allow"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE": ("", "allow"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": ("", "allow"),
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": ("", "allow"),
    "JAX_USE_DIRECT_LINEARIZE": ("1",),
}
_YES, _NO = {"1", "y", "yes", "t", "true", "on"}, {"0", "n", "no", "f", "false", "off"}
# What compilers and libraries of devices are told, and what their numbers follow.
_RECORDED = (
    "JAX_COMPILER_ENABLE_REMAT_PASS",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_ENABLE_PGLE",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT",
    "JAX_MEMORY_FITTING_EFFORT",
    "JAX_MEMORY_FITTING_LEVEL",
    "JAX_OPTIMIZATION_LEVEL",
    "JAX_USE_SHARDY_PARTITIONER",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "XLA_FLAGS",
)
_FLAGS = {"XLA_FLAGS", "LIBTPU_INIT_ARGS"}
# Flags that say how many devices there are, or what is written down on the way.
_UNRELATED = re.compile(r"--xla_(force_host_platform_device_count|dump_.*|hlo_profile|gpu_cuda_data_dir)$")


def pin(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take JAX's variables that change numbers out of the environment, before JAX is imported.

    Gives a line for each that said something else than what holds without it.
    """
    lines = []
    for name, usual in _USUAL.items():
        value = environ.pop(name, None)
        if value is not None and _word(value) not in usual:
            lines.append(f"{name}={value} is not used: what is trained follows from its configuration alone")
    return lines


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """JAX as `pin` leaves it, whatever a program that imports this one has set; but for x64, which programs choose."""
    import jax

    with (
        jax.default_matmul_precision(None),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
        jax.disable_jit(False),
    ):
        yield


def recorded(platform: str, environ: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment says that can change numbers on a platform (`cpu`, `gpu` or `tpu`), by variable.

    Flags are sorted, and those of other platforms or that change nothing left out.
    """
    found = {}
    for name in _RECORDED:
        value = environ.get(name, "").strip()
        if name in _FLAGS:
            value = " ".join(sorted(flag for flag in value.split() if _relevant(flag, platform)))
        elif _word(value) == "0":
            value = ""
        if value:
            found[name] = value
    return found


def _relevant(flag: str, platform: str) -> bool:
    name = flag.partition("=")[0]
    others = {"cpu", "gpu", "tpu"} - {platform if platform in ("cpu", "tpu") else "gpu"}
    return not _UNRELATED.match(name) and not any(name.startswith(f"--xla_{other}_") for other in others)


def _word(value: str) -> str:
    """A value as JAX understands it: all its words for yes and no are 1 and 0."""
    word = value.strip().lower()
    return "1" if word in _YES else "0" if word in _NO else word
