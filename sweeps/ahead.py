"""Ahead-of-time compiles: what the TPU compiler says of a program, on a machine without a TPU.

`libtpu` (extra `tpu-aot`) compiles for a slice that it knows by name only.  It runs in a process of its own
(`python -m sweeps.ahead`, a JSON request on stdin, one JSON line per program on stdout): the calling process never
loads it, and an abort of the compiler ends the child alone.  One process answers several questions, since libtpu takes
seconds to start.

Verdicts are kept in a folder of the user and named by the program's fingerprint: its shape, the size of its corpus, the
slice, the compiler's options, the versions, and the sources of `lab`.  Sources and versions decide the lowered text;
hashing them takes milliseconds where lowering would start JAX and take seconds.  An edit of `lab` compiles once more
than it had to; it never gives a stale verdict.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.check import InputError, require
from lab.identity import digest, dump
from sweeps.machine import Machine

if TYPE_CHECKING:
    from lab.program import Shape

INSTALL = "libtpu is not installed: pip install 'lr-scaling-lab[tpu-aot]'"
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
# Of one program; a large one that is unrolled takes minutes.
LIMIT_SECONDS = 900.0
# Set before JAX is imported.  The last three keep libtpu from asking a metadata server what it runs on.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
_COLLECTIVE = re.compile(rf"= [^=]*?\b({'|'.join(COLLECTIVES)})(?:-start)?\(")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class CompilerError(InputError):
    """The compiler gave no verdict: it crashed, or it took too long."""


@dataclass(frozen=True)
class Question:
    """A program to compile: `tokens` is the size of a corpus of bytes on the devices, None where batches are fed."""

    shape: "Shape"
    tokens: int | None
    seeds: int = 1


@dataclass(frozen=True)
class Verdict:
    """What the compiler says of a program; bytes are per device.

    `needed_bytes` is what a program that fits not would take; of one that fits the other bytes are known.  `peak_bytes`
    is the most that is alive at once, arguments included.  `collectives` counts operations by kind in the compiled
    text.
    """

    fits: bool
    message: str
    compile_seconds: float
    versions: dict[str, str]
    argument_bytes: int | None = None
    output_bytes: int | None = None
    temp_bytes: int | None = None
    alias_bytes: int | None = None
    peak_bytes: int | None = None
    needed_bytes: int | None = None
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def memory_bytes(self) -> int | None:
        """What it takes, whether it fits or not; None where the compiler does not say."""
        return self.peak_bytes if self.fits else self.needed_bytes


def available() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def verdict(
    shape: "Shape", machine: Machine, *, tokens: int | None, seeds: int = 1, limit: float = LIMIT_SECONDS
) -> Verdict:
    """What the compiler says of one program on a machine; see `verdicts`."""
    return verdicts([Question(shape, tokens, seeds)], machine, limit=limit)[0]


def verdicts(questions: Sequence[Question], machine: Machine, *, limit: float = LIMIT_SECONDS) -> list[Verdict]:
    """What the compiler says of programs on a machine, from the cache where it is known.

    Args:
        limit: seconds for each program that has to be compiled.

    Raises:
        InputError: the machine is no TPU, or libtpu is missing.
        CompilerError: the compiler failed or took too long.
    """
    require(machine.topology is not None, f"{machine.name} is no TPU slice: there is no compiler to ask about it")
    require(available(), INSTALL)
    files = [_file(question, machine) for question in questions]
    missing = [i for i, file in enumerate(files) if _kept(file) is None]
    if missing:
        _compile([questions[i] for i in missing], [files[i] for i in missing], machine, limit)
    found = [_kept(file) for file in files]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def folder() -> Path:
    """Where verdicts are kept: LRLAB_CACHE, or `lrlab` in the user's folder of caches."""
    given = os.environ.get("LRLAB_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrlab"
    return (Path(given) if given else base) / "ahead"


def fingerprint(question: Question, machine: Machine) -> str:
    """Identity of a program, a slice, and a compiler."""
    return digest(dump([_plain(question), _slice(machine), versions(), _sources()]))


def versions() -> dict[str, str]:
    """Versions of what decides a compiled program."""
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu", "flax", "optax")}


@functools.cache
def _sources() -> str:
    root = Path(__file__).parent.parent / "lab"
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _plain(question: Question) -> dict[str, Any]:
    return dataclasses.asdict(question)


def _slice(machine: Machine) -> dict[str, Any]:
    assert machine.topology is not None
    topology = {"topology_name": machine.topology.name, **machine.topology.arguments}
    return {"topology": topology, "options": machine.compiler_options}


def _file(question: Question, machine: Machine) -> Path:
    return folder() / f"{machine.name}-{fingerprint(question, machine)}.json"


def _kept(file: Path) -> Verdict | None:
    """The verdict of a file; None where there is none that can be read."""
    try:
        return Verdict(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _keep(file: Path, found: dict[str, Any]) -> None:
    """Write a verdict, whole or not at all: several processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(file)


def _compile(questions: Sequence[Question], files: Sequence[Path], machine: Machine, limit: float) -> None:
    """Have a process compile programs, and keep what it says; what it finished before it failed is kept too."""
    request = json.dumps(_slice(machine) | {"programs": [_plain(question) for question in questions]})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sweeps.ahead"],
            input=request,
            capture_output=True,
            text=True,
            timeout=limit * len(questions),
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": _import_path()},
        )
        text, ended, errors = done.stdout, f"ended with status {done.returncode}", done.stderr
    except subprocess.TimeoutExpired as error:
        text, errors = _text(error.stdout), ""
        ended = f"took longer than {limit:.0f} s a program and was stopped"
    answers = [json.loads(line) for line in text.splitlines() if line.startswith('{"fits"')]
    for file, answer in zip(files, answers, strict=False):
        _keep(file, answer)
    if len(answers) < len(questions):
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        last = (named or lines or [""])[-1]
        raise CompilerError(
            f"the TPU compiler {ended} on program {len(answers) + 1} of {len(questions)} for {machine.name}"
            f"{': ' + last[:200] if last else ''}"
        )


def _import_path() -> str:
    """The child finds the packages that this process runs, from whatever folder it is started."""
    root = str(Path(__file__).parent.parent)
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _shape(plain: dict[str, Any]) -> "Shape":
    from lab.config import MeshConfig, ModelConfig
    from lab.model import Forward
    from lab.program import Shape

    parts = {"model": ModelConfig, "forward": Forward, "mesh": MeshConfig}
    return Shape(**plain | {name: part(**plain[name]) for name, part in parts.items()})


def _answer(plain: dict[str, Any], devices: Sequence[Any], options: dict[str, str]) -> Verdict:
    """Compile one program: the child's work."""
    import jax

    from lab.program import Program

    begun = time.perf_counter()
    lowered = Program(_shape(plain["shape"]), devices).lower(tokens=plain["tokens"], seeds=plain["seeds"])
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        line = next((line for line in text.splitlines() if "Used" in line or "exceeds" in line), text.splitlines()[0])
        spent = round(time.perf_counter() - begun, 2)
        return Verdict(False, line.strip()[:300], spent, versions(), needed_bytes=_needed(text))
    sizes: Any = compiled.memory_analysis()
    arguments, output = int(sizes.argument_size_in_bytes), int(sizes.output_size_in_bytes)
    temp, alias = int(sizes.temp_size_in_bytes), int(sizes.alias_size_in_bytes)
    return Verdict(
        fits=True,
        message="fits",
        compile_seconds=round(time.perf_counter() - begun, 2),
        versions=versions(),
        argument_bytes=arguments,
        output_bytes=output,
        temp_bytes=temp,
        alias_bytes=alias,
        peak_bytes=int(getattr(sizes, "peak_memory_in_bytes", 0)) or arguments + output + temp - alias,
        collectives=collectives(compiled.as_text() or ""),
    )


def collectives(text: str) -> dict[str, int]:
    """How often each kind of communication stands in a compiled text.

    A pair of start and done counts once, and so do the steps that a TPU overlaps with products, which share a channel.
    A TPU's reduce-scatter is an all-reduce inside a fusion of that name.
    """
    found: dict[str, set[str]] = {kind: set() for kind in COLLECTIVES}
    scatters = False
    for number, line in enumerate(text.splitlines()):
        if line.endswith("{") and not line.startswith(" "):
            scatters = "all-reduce-scatter" in line.split("(")[0]
        match = _COLLECTIVE.search(line)
        if match:
            kind = "reduce-scatter" if scatters and match[1] == "all-reduce" else match[1]
            channel = re.search(r"channel_id=\d+", line)
            found[kind].add(channel[0] if channel else str(number))
    return {kind: len(places) for kind, places in found.items() if places}


def _needed(text: str) -> int | None:
    """Bytes that a refusal names: `Used 20.5G of 15.75G hbm`, or `temporaries (29.63G) exceeds available HBM`."""
    match = re.search(r"Used ([\d.]+)([KMGT]?) of", text) or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", **request["topology"]).devices
    for plain in request["programs"]:
        print(json.dumps(dataclasses.asdict(_answer(plain, devices, request["options"]))), flush=True)


if __name__ == "__main__":
    main()
