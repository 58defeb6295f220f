"""The shell and JAX's configuration: what changes numbers is pinned or recorded, and a hang-up saves."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from lab import checkpoint, device, environment, store
from lab.check import InputError
from sweeps import saved, supervisor, worker
from sweeps.plan import Source

pytestmark = pytest.mark.host

CHANGED = {
    "JAX_DEBUG_NANS": "1",
    "JAX_ENABLE_X64": "True",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "false",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DISABLE_JIT": "1",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_RANDOM_SEED_OFFSET": "7",
}
USUAL = {
    "JAX_DEBUG_NANS": "0",
    "JAX_ENABLE_X64": "off",
    "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_THREEFRY_PARTITIONABLE": "1",
}
OTHERS = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": "x", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "HOME": "y"}


def test_variables_that_change_numbers_are_taken_out_and_named_once() -> None:
    environ = CHANGED | OTHERS
    lines = environment.pin(environ)
    assert environ == OTHERS
    assert len(lines) == len(CHANGED)
    for name, value in CHANGED.items():
        assert sum(line.startswith(f"{name}={value} is not used") for line in lines) == 1
    assert environment.pin(environ) == []


def test_variables_that_say_what_holds_anyway_are_taken_out_in_silence() -> None:
    environ = USUAL | OTHERS
    assert environment.pin(environ) == []
    assert environ == OTHERS


def test_the_words_of_what_holds_are_those_of_jax() -> None:
    """Each variable is a setting of JAX whose value without a shell is one of the words here, if this JAX has it."""
    code = "import jax, json; print(json.dumps({name: str(value) for name, value in jax.config.values.items()}))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    values = json.loads(found.stdout)
    known = 0
    for name, usual in environment._USUAL.items():
        if name.lower() in values:
            known += 1
            assert environment._word(values[name.lower()].replace("None", "")) in usual, name
    assert known > 20


def test_programs_run_as_without_a_shell_whatever_the_caller_has_set() -> None:
    names = ("jax_debug_nans", "jax_numpy_dtype_promotion", "jax_default_matmul_precision")
    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"), jax.default_matmul_precision("highest"):
        with environment.pinned():
            assert [getattr(jax.config, name) for name in names] == [False, "standard", None]
        # The control: they are the caller's again.
        assert [getattr(jax.config, name) for name in names] == [True, "strict", "highest"]


def test_flags_are_recorded_where_they_can_change_numbers() -> None:
    flags = "--xla_cpu_enable_fast_math=true --xla_dump_to=/tmp/x --xla_force_host_platform_device_count=8 --xla_b=1"
    environ = {"XLA_FLAGS": flags + " --xla_gpu_autotune_level=0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "HOME": "y"}
    both = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    assert environment.recorded("cpu", environ) == both | {"XLA_FLAGS": "--xla_b=1 --xla_cpu_enable_fast_math=true"}
    assert environment.recorded("gpu", environ) == both | {"XLA_FLAGS": "--xla_b=1 --xla_gpu_autotune_level=0"}
    quiet = {"XLA_FLAGS": "--xla_dump_to=/tmp/x", "JAX_DISABLE_MOST_OPTIMIZATIONS": "false", "NVIDIA_TF32_OVERRIDE": ""}
    assert environment.recorded("cpu", quiet) == {}


# Going on under other flags


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A unit with a resume point, begun with fast arithmetic, and one that goes on from its fork."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    unit: Any = SimpleNamespace(unit_id="abc", sources=())
    folder = store.unit_folder(tmp_path, "abc")
    said = {"lanes": [], "execution": {"lanes": 4}, "environment": environment.recorded("cpu")}
    store.write_atomic(folder / "unit.json", store.pretty(said))
    (folder / "checkpoints" / "000000010").mkdir(parents=True)
    return tmp_path, unit


def test_a_unit_does_not_go_on_under_other_flags(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, unit = begun
    saved.require_same_environment(root, [unit])
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x --xla_cpu_enable_fast_math=true")
    saved.require_same_environment(root, [unit])  # what is written down on the way changes nothing
    monkeypatch.delenv("XLA_FLAGS")
    words = r"unit abc was begun with XLA_FLAGS=--xla_cpu_enable_fast_math=true and would go on with no XLA_FLAGS"
    with pytest.raises(InputError, match=words):
        saved.require_same_environment(root, [unit])
    branch: Any = SimpleNamespace(unit_id="def", sources=(Source("abc", 0),))
    with pytest.raises(InputError, match=words):
        saved.require_same_environment(root, [branch])


def test_units_that_were_not_begun_or_do_not_say_are_free(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, unit = begun
    monkeypatch.delenv("XLA_FLAGS")
    folder = store.unit_folder(root, "abc")
    (folder / "unit.json").write_text('{"lanes": [], "execution": {"lanes": 4}}')  # as 0.1.0 wrote it
    saved.require_same_environment(root, [unit])
    store.write_atomic(folder / "unit.json", store.pretty({"environment": {"XLA_FLAGS": "--xla_b=1"}}))
    checkpoint.clear(folder / "checkpoints")
    saved.require_same_environment(root, [unit])


# Devices that are not there


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda'\nmore")])
def test_a_platform_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def none() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    for asked in (device.devices, device.platform, device.device_count):
        with pytest.raises(
            InputError, match="^JAX_PLATFORMS=cuda, and JAX has no such device here .*: unset it"
        ) as told:
            asked()
        assert "\n" not in str(told.value)


def test_doctor_says_in_one_line_that_there_is_no_gpu() -> None:
    environ = os.environ | {"JAX_PLATFORMS": "foo"}
    found = subprocess.run([sys.executable, "-m", "sweeps.cli", "doctor"], env=environ, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("lrlab: error: JAX_PLATFORMS=foo, and JAX has no such device here")


# Hang-ups


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_hang_up_asks_for_a_stop_as_other_signals_do(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with worker.StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
    assert signal.getsignal(number) == before


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with worker.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_supervisor_passes_a_hang_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def wait() -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 130

    child = SimpleNamespace(send_signal=sent.append, wait=wait)
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: child)
    try:
        assert supervisor.supervise(["sweep"], 100.0) == 130
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)
    assert sent == [signal.SIGHUP]


def test_lines_to_a_closed_terminal_go_nowhere() -> None:
    ours, theirs = pty.openpty()
    kept = os.dup(1)
    try:
        os.dup2(theirs, 1)
        os.close(ours)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(1, b"x")  # the control: what a line would have met
        worker._leave_terminal()
        assert os.write(1, b"x") == 1
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(theirs)
    worker._leave_terminal()
    assert os.fstat(1).st_ino != os.stat(os.devnull).st_ino  # what is open stays
