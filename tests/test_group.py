"""Groups of processes: two of them with four devices each, over gloo, train what one process with one device trains."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.check import InputError
from lab.group import Group
from sweeps import group_options
from sweeps.cli import main
from sweeps.supervisor import told

SWEEP = """
from lab.config import *
from sweeps.sweep import Sweep, axis, product

def sweep():
    return Sweep(
        name="pair", question="?", cost="", expected="",
        base=RunConfig(
            model=ModelConfig(width=16, head_dim=8), schedule=ScheduleConfig(steps={steps}, decay_fraction=0.5),
            data=DataConfig(sequences=8, length=16), evaluation=EvaluationConfig(sequences=16),
        ),
        execution=ExecConfig(lanes=8, segment=8, unroll=False, checkpoint_seconds=0.5),
        points=product(axis("optimizer.lr", *(2.0**-e for e in range(14, 6, -1)))),
    )
"""
SECONDS = 150


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "sweeps.cli", "sweep", str(folder / "pair.py"), "--out", str(folder / out), *more]


def environment(devices: int, **more: str) -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | more


def alone(folder: Path, out: str, devices: int, *more: str) -> None:
    done = subprocess.run(
        arguments(folder, out, *more), env=environment(devices), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]


def started(folder: Path, out: str, *more_settings: str, heartbeat: int = 60) -> tuple[Any, Any]:
    """Process 0 under its supervisor, and process 1 without one, so that a signal reaches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = ("--group", f"127.0.0.1:{port}", "--processes", "2", "--heartbeat", str(heartbeat))

    def process(number: int, **more: str) -> Any:
        with open(folder / f"{number}.err", "w") as errors:
            return subprocess.Popen(
                arguments(folder, out, *more_settings, *group, "--process", str(number)),
                env=environment(4, **more),
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    return process(0), process(1, LRLAB_SUPERVISED="1")


def errors_of(folder: Path, number: int) -> str:
    return (folder / f"{number}.err").read_text()


def losses(folder: Path, out: str) -> dict[str, float]:
    found = {}
    for path in sorted((folder / out / "runs").glob("*/record.json")):
        record = json.loads(path.read_text())
        found[path.parent.name] = record["validation"]["loss"]
    assert len(found) == 8
    return found


def apart(one: dict[str, float], other: dict[str, float]) -> float:
    assert one.keys() == other.keys()
    return float(np.abs(np.subtract([one[k] for k in one], [other[k] for k in one])).max())


@pytest.mark.slow
@pytest.mark.stack
def test_two_processes_train_what_one_device_trains(tmp_path: Path) -> None:
    (tmp_path / "pair.py").write_text(SWEEP.format(steps=8))
    alone(tmp_path, "one", 1)
    meshes = {"lanes": (), "fsdp": ("--set", "exec.mesh.fsdp=4", "--set", "exec.mesh.lane=2")}
    for out, settings in meshes.items():
        first, second = started(tmp_path, out, *settings)
        assert (first.wait(SECONDS), second.wait(SECONDS)) == (0, 0), errors_of(tmp_path, 0)[-2000:]
        assert apart(losses(tmp_path, "one"), losses(tmp_path, out)) < 2e-4
        claims = list((tmp_path / out).glob("units/*/claims/*.json"))
        assert len(claims) == 1  # process 0 alone writes


# How JAX derives the address of process 0 from the number of a job.
FIRST_PORT, PORTS = 61440, 4096


def free_job() -> int:
    """A job whose port nobody has."""
    for job in range(os.getpid() % PORTS, PORTS):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", FIRST_PORT + job)):
                return job
    raise AssertionError("no port is free")


def slurm(job: int, number: int) -> dict[str, str]:
    step = {"STEP_NODELIST": "localhost", "NTASKS": "2", "PROCID": str(number), "LOCALID": str(number)}
    return {f"SLURM_{name}": value for name, value in ({"JOB_ID": str(job)} | step).items()}


def open_mpi(job: int, number: int) -> dict[str, str]:
    ranks = {"WORLD_SIZE": "2", "WORLD_RANK": str(number), "WORLD_LOCAL_RANK": str(number)}
    names = {f"OMPI_COMM_{name}": value for name, value in ranks.items()}
    return names | {"OMPI_MCA_orte_hnp_uri": f"{job * PORTS}.0;tcp://127.0.0.1:1"}


@pytest.mark.slow
@pytest.mark.parametrize("variables", [slurm, pytest.param(open_mpi, marks=pytest.mark.nightly)])
def test_a_group_is_found_in_the_environment(variables: Callable[[int, int], dict[str, str]], tmp_path: Path) -> None:
    """As these launchers describe it: eight lanes over the four devices of each of two processes."""
    (tmp_path / "pair.py").write_text(SWEEP.format(steps=2))
    job = free_job()
    pair = []
    for number in (0, 1):
        with open(tmp_path / f"{number}.err", "w") as errors:
            pair.append(
                subprocess.Popen(
                    arguments(tmp_path, "out", "--group"),
                    env=environment(4, **variables(job, number)),
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            )
    assert [process.wait(SECONDS) for process in pair] == [0, 0], errors_of(tmp_path, 0)[-2000:]
    assert len(losses(tmp_path, "out")) == 8
    record = json.loads(next((tmp_path / "out").glob("runs/*/record.json")).read_text())
    assert record["exec"]["devices"] == 8
    assert len(list((tmp_path / "out").glob("units/*/claims/*.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "silent"])
def test_a_lost_process_ends_the_group_in_one_line_and_any_devices_go_on(tmp_path: Path, number: int) -> None:
    (tmp_path / "pair.py").write_text(SWEEP.format(steps=600))
    first, second = started(tmp_path, "pair", heartbeat=8)
    deadline = time.monotonic() + SECONDS
    while not list(tmp_path.glob("pair/units/*/checkpoints/0*[0-9]")) and time.monotonic() < deadline:
        assert first.poll() is None, errors_of(tmp_path, 0)[-2000:]
        time.sleep(0.05)
    second.send_signal(number)
    try:
        assert first.wait(SECONDS) == 1
    finally:
        second.kill()
        second.wait()
    lines = [line for line in errors_of(tmp_path, 0).splitlines() if line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("lrlab: error: the group ended, because one of its processes died or cannot be reached")
    assert lines[0].endswith("run the same command on every host again, and it goes on from the last checkpoint")
    assert not list(tmp_path.glob("pair/runs/*/record.json"))
    if number == signal.SIGKILL:
        alone(tmp_path, "pair", 2)
        assert len(list(tmp_path.glob("pair/units/*/claims/*.json"))) == 2
        alone(tmp_path, "straight", 2)
        # Eight devices for a part of the way, two for the rest: rounding differs from two devices all the way.
        assert apart(losses(tmp_path, "pair"), losses(tmp_path, "straight")) < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group", "here"], "belong together"),
        (["--group", "host:1", "--processes", "2"], "belong together"),
        (["--process", "1"], "belong together"),
        (["--group", "host", "--processes", "2", "--process", "0"], "--group host is not HOST:PORT"),
        (["--group", "host:1", "--processes", "2", "--process", "2"], "--process 2 is not one of 0 .. 1"),
        (["--group", "--heartbeat", "0"], "--heartbeat 0.0 is not above 0 seconds"),
    ],
)
def test_a_group_that_contradicts_itself_is_refused_in_one_line(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sweep", "quickstart", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_group_is_given_whole_or_found() -> None:
    assert Group().coordinator is None
    with pytest.raises(InputError, match="--processes 0 is not above 0"):
        Group("host:1", 0, 0)


def test_errors_of_communication_say_that_another_process_is_gone() -> None:
    """The last is the control: a failure of this process's own."""
    gone = ("Timed out while waiting for async_write_complete barrier.", "Gloo all-reduce failed:\nConnection closed")
    for text in gone:
        line = group_options.ending(RuntimeError(text))
        assert line.startswith("the group ended, because one of its processes died") and "\n" not in line
    assert group_options.ending(OSError("No space left on device")).startswith("this process of the group failed")


def test_the_supervisor_tells_one_line_of_a_failure() -> None:
    theirs = "E1122 05:41:15.1 23728 agent.cc:335] Polled an error\n*** Check failure stack trace: ***\n  @ 0x7f8dd\n"
    ours = "lrlab: error: exec.lanes=3 is not a power of two\n"
    line, kept = told(theirs, -signal.SIGABRT, 8.0, "/tmp/x.err")
    assert "no heartbeat for 8 s; details: /tmp/x.err" in line and line.count("\n") == 1 and kept
    assert told(theirs + ours, 2, 8.0, "") == (ours, False)
    # The control: a failure that we did not foresee is told whole.
    assert told(theirs, 1, 8.0, "") == (theirs, False)
