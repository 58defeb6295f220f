"""Machines: what a sweep runs on, one strictly checked file each in `tpu_configs/`.

A machine is a TPU slice, a box of GPUs or a CPU host.  Its figures are per chip and carry their unit in the name.  A
chip is what is bought; a device is what JAX sees (`devices_per_chip`), and what a mesh is made of.  Names count chips:
`v5e-16` has 16 chips, `v4-16` too, although Google's accelerator type v4-16 counts TensorCores and has 8 chips.
"""

import dataclasses
import functools
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, TypeVar

from lab.check import InputError, check_fields, nearest, positive, require, type_hints
from lab.config import MeshConfig
from sweeps.machine_part import Efficiency, Interconnect, Peak, Topology

T = TypeVar("T")

# Generation -> platform, in the order of `names`.
GENERATIONS: dict[str, str] = {
    "v4": "tpu",
    "v5e": "tpu",
    "v5p": "tpu",
    "v6e": "tpu",
    "tpu7x": "tpu",
    "h100": "gpu",
    "h200": "gpu",
    "cpu": "cpu",
}


@dataclass(frozen=True)
class Machine:
    """One machine; `tpu_configs/NAME.toml` holds exactly these fields.

    `alias` is what others call it, where that differs from the name.  `hbm_gib` is the memory of a chip and
    `usable_hbm_gib` what a program may use of it; both are 0 on a CPU host, whose memory is the machine's.  `mesh` is
    the default of a sweep (lanes over all devices), `train_mesh` that of one large run.  `compiler_flags` go into
    `flags_variable`.  `launch` starts a sweep on all hosts.

    Raises:
        InputError: figures that contradict each other.
    """

    name: str
    platform: Literal["tpu", "gpu", "cpu"]
    generation: Literal["v4", "v5e", "v5p", "v6e", "tpu7x", "h100", "h200", "cpu"]
    chips: int
    hosts: int
    chips_per_host: int
    devices_per_chip: int
    hbm_gib: float
    usable_hbm_gib: float
    hbm_bytes_per_second: float
    peak_flops: Peak
    mesh: MeshConfig
    train_mesh: MeshConfig
    efficiency: Efficiency
    launch: tuple[str, ...]
    notes: tuple[str, ...] = ()
    compiler_flags: tuple[str, ...] = ()
    topology: Topology | None = None
    interconnect: Interconnect | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        positive(self, self.name, "chips", "hosts", "chips_per_host", "devices_per_chip")
        agree = self.hosts * self.chips_per_host
        require(self.chips == agree, f"chips={self.chips} is not hosts * chips_per_host = {agree}")
        known = GENERATIONS[self.generation]
        require(self.platform == known, f"platform={self.platform} is not {known}, where {self.generation} belongs")
        for word in ("mesh", "train_mesh"):
            require(getattr(self, word).lane is not None, f"{word}.lane is missing")
            size = getattr(self, word).devices
            require(size == self.devices, f"{word} has {size} places and the machine {self.devices} devices")
        require(
            self.usable_hbm_gib <= self.hbm_gib,
            f"usable_hbm_gib={self.usable_hbm_gib} is more than hbm_gib={self.hbm_gib}",
        )
        if self.platform != "cpu":
            positive(self, self.name, "hbm_gib", "usable_hbm_gib", "hbm_bytes_per_second")
            positive(self.peak_flops, "peak_flops", "float32", "bfloat16")
        for flag in self.compiler_flags:
            require(re.fullmatch(r"--xla_\w+=\w+", flag) is not None, f"compiler_flags: {flag} is not --xla_NAME=VALUE")
        self._check_topology()

    def _check_topology(self) -> None:
        if self.topology is None:
            return
        found, bounds = self.topology, self.topology.chips_per_host_bounds
        require(found.family == self.generation, f"topology.name={found.name} is not of generation {self.generation}")
        require(found.chips == self.chips, f"topology.name={found.name} has {found.chips} chips, not {self.chips}")
        require(
            bounds is None or math.prod(bounds) == self.chips_per_host,
            f"topology.chips_per_host_bounds={bounds} hold not {self.chips_per_host} chips",
        )

    @property
    def devices(self) -> int:
        """Devices that JAX sees."""
        return self.chips * self.devices_per_chip

    @property
    def memory_bytes(self) -> float:
        """Usable bytes of all chips."""
        return self.usable_hbm_gib * 2.0**30 * self.chips

    @property
    def device_memory_bytes(self) -> float:
        """Usable bytes of one device."""
        return self.memory_bytes / self.devices

    @property
    def flags_variable(self) -> str:
        """The environment variable that `compiler_flags` go into."""
        return "LIBTPU_INIT_ARGS" if self.platform == "tpu" else "XLA_FLAGS"

    @property
    def compiler_options(self) -> dict[str, str]:
        """`compiler_flags` as the `compiler_options` of `jax.jit(f).lower(x).compile`."""
        pairs = (flag.removeprefix("--").split("=", 1) for flag in self.compiler_flags)
        return {name: value for name, value in pairs}

    @property
    def naming_note(self) -> str | None:
        """A line for whoever typed the name, where others mean another size by such a name."""
        if self.alias is None or self.alias.rsplit("-", 1)[-1] == str(self.chips):
            return None
        return f"{self.name} counts chips: {self.chips} chips; where TensorCores are counted it is called {self.alias}"

    def peak(self, dtype: str = "bfloat16") -> float:
        """FLOP/s of all chips: float32's where bfloat16 has no figure, half of float32's for float64 (assumed)."""
        rates = {"bfloat16": self.peak_flops.bfloat16, "float64": self.peak_flops.float32 / 2}
        return self.chips * (rates.get(dtype) or self.peak_flops.float32)


@functools.cache
def names() -> list[str]:
    """Names of all machines, by generation and size."""
    files = resources.files("tpu_configs").iterdir()
    found = [file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")]

    def place(name: str) -> tuple[int, int]:
        generation, _, chips = name.partition("-")
        return list(GENERATIONS).index(generation), int(chips or 1)

    return sorted(found, key=place)


def named(name: str) -> Machine:
    """The machine of a name, or of an alias that cannot be mistaken for a name (`v5litepod-16`).

    Raises:
        InputError: no such machine, with the nearest.
    """
    if name in names():
        return _named(name)
    for machine in map(_named, names()):
        if machine.alias == name:
            require(
                machine.naming_note is None,
                f"{name} is no machine here, where names count chips: if {name} counts TensorCores it is "
                f"{machine.name} (lrlab tpu list)",
            )
            return machine
    raise InputError(f"{name} is not a machine{nearest(name, names())}: see lrlab tpu list")


@functools.cache
def _named(name: str) -> Machine:
    machine = read(resources.files("tpu_configs").joinpath(f"{name}.toml").read_text(), f"tpu_configs/{name}.toml")
    expected = machine.generation if machine.platform == "cpu" else f"{machine.generation}-{machine.chips}"
    require(machine.name == name == expected, f"tpu_configs/{name}.toml: name={machine.name} is not {expected}")
    return machine


def read(text: str, path: str) -> Machine:
    """The machine of a TOML text; `path` is what errors name.

    Raises:
        InputError: not TOML, an unknown or missing key, a wrong type, or figures that contradict each other.
    """
    try:
        machine = _built(Machine, tomllib.loads(text), "")
        require(machine.platform != "tpu" or machine.topology is not None, "topology is missing")
        return machine
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _built(cls: type[T], table: Mapping[str, Any], section: str) -> T:
    """A dataclass from a table with exactly its fields; tables in it become the dataclasses of their fields."""
    hints = type_hints(cls)
    for key in table:
        if key not in hints:
            raise InputError(f"unknown key {section}{key}{nearest(key, hints)}")
    values = dict(table)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING
        require(not required or field.name in table, f"{section}{field.name} is missing")
        options = typing.get_args(hints[field.name]) if isinstance(hints[field.name], types.UnionType) else ()
        part = next((kind for kind in (hints[field.name], *options) if dataclasses.is_dataclass(kind)), None)
        if part is not None and isinstance(table.get(field.name), dict):
            values[field.name] = _built(part, table[field.name], f"{field.name}.")  # type: ignore[arg-type]
    return cls(**values)
