"""Mutants: one line of the product changed at a time, and the tests that are to fail then.

    python benchmarks/mutants.py                  all of them, two at a time
    python benchmarks/mutants.py rates record     those whose file or description has one of the words

`mutants.toml` holds the table.  Every mutant is applied to a copy of the tracked files in a temporary folder, and its
own tests run there until one fails.  First, the same tests run without any mutant: they have to pass, or nothing is
learnt.  Compiled programs come from the checkout's cache (`.pytest_cache`); a mutant that changes a program
compiles it.

Prints a line per mutant, killed or SURVIVED, and a closing line; the exit status is 1 where one survived.

Half of the time of a test is imports, so a process imports the libraries once and is forked for every mutant.
"""

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
# Outcomes of pytest: tests failed; collection was interrupted by an error, as of a module that no longer imports.
FAILED = (1, 2)
SECONDS = 600
# Beside what tests set, which comes too late for a JAX that is imported.
SETTINGS = {
    "LRLAB_SHARED": str(ROOT.parent / "shared"),
    "PYTHONDONTWRITEBYTECODE": "1",  # a line of the same length, changed within a second, looks unchanged
}
LIBRARIES = (
    "pytest",
    "scipy.stats",
    "scipy.optimize",
    "scipy.interpolate",
    "pandas",
    "jax",
    "flax.nnx",
    "optax",
    "optax.contrib",
    "orbax.checkpoint",
    "matplotlib.pyplot",
    "rich.console",
)


@dataclass(frozen=True)
class Mutant:
    """`new` for `old`, which stands once in `file`; `breaks` says what is wrong then, `tests` what must notice."""

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """Tests to run, with a mutant or without."""

    tests: tuple[str, ...]
    mutant: Mutant | None = None


@dataclass(frozen=True)
class Outcome:
    """Of a task: the exit status of pytest (that of a failure where it did not end), and what it said."""

    task: Task
    code: int
    told: str


def read(table: Path) -> list[Mutant]:
    """The mutants of a table, their selections of tests written out."""
    found = tomllib.loads(table.read_text())
    selections = found["selections"]
    return [
        Mutant(**one | {"tests": tuple(test for name in one["tests"] for test in selections[name])})
        for one in found["mutant"]
    ]


def main(words: Sequence[str], processes: int) -> int:
    chosen = [one for one in read(TABLE) if not words or any(word in f"{one.file} {one.breaks}" for word in words)]
    for one in chosen:
        check(one)
    tests = sorted({test for one in chosen for test in one.tests})
    begun, killed = time.perf_counter(), 0
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ.update(importlib.import_module("compilation").environment(os.environ))
    del sys.path[0]
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copied(Path(folder) / str(number)) for number in range(processes)]
        for outcome in outcomes([Task((test,)) for test in tests], trees):
            if outcome.code:
                print(outcome.told, "this fails without any mutant: mend it first", sep="\n")
                return 2
        print(f"{len(tests)} selections pass without a mutant ({time.perf_counter() - begun:.0f} s)", flush=True)
        for outcome in outcomes([Task(one.tests, one) for one in chosen], trees):
            mutant = outcome.task.mutant
            assert mutant is not None
            if outcome.code not in (0, *FAILED):
                print(outcome.told, f"pytest ended with {outcome.code}: {mutant.file}: {mutant.breaks}", sep="\n")
                return 2
            killed += outcome.code in FAILED
            print(f"{'killed  ' if outcome.code else 'SURVIVED'}  {mutant.file}: {mutant.breaks}", flush=True)
    minutes, used = (time.perf_counter() - begun) / 60, sum(os.times()[:4]) / 60
    print(f"{killed} of {len(chosen)} mutants killed in {minutes:.1f} minutes ({used:.1f} of processor time)")
    return int(killed < len(chosen))


def copied(folder: Path) -> Path:
    """The tracked files, as they are in the checkout, in a folder of their own."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder


def check(mutant: Mutant) -> None:
    """Refuse a row that does not fit the checkout.

    Raises:
        ValueError: the old text is not in the file exactly once, or a file of tests is not there.
    """
    count = (ROOT / mutant.file).read_text().count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant.file} has {count} times {mutant.old!r}: mend mutants.toml")
    lacking = [test for test in mutant.tests if not (ROOT / test.partition("::")[0]).is_file()]
    if lacking:
        raise ValueError(f"no file for {', '.join(lacking)}: mend mutants.toml")


def outcomes(tasks: Sequence[Task], trees: Sequence[Path]) -> Iterator[Outcome]:
    """The tasks' outcomes as they come, as many at once as there are trees."""
    waiting, free = list(reversed(tasks)), list(trees)
    running: dict[int, tuple[Task, Path, float]] = {}
    while waiting or running:
        while waiting and free:
            task, tree = waiting.pop(), free.pop()
            running[_forked(task, tree)] = task, tree, time.perf_counter()
        for pid, (task, tree, begun) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            late = not done and time.perf_counter() - begun > SECONDS
            if late:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if done or late:
                del running[pid]
                free.append(tree)
                _restored(task, tree)
                code = FAILED[0] if late else os.waitstatus_to_exitcode(status)
                yield Outcome(task, code, (tree / "told.txt").read_text(errors="replace"))
        time.sleep(0.05)


def _forked(task: Task, tree: Path) -> int:
    """Run a task's tests in a child process, whose number is given; what they say is in the tree's `told.txt`."""
    if task.mutant is not None:
        path = tree / task.mutant.file
        shutil.copyfile(path, tree / "original.txt")
        path.write_text(path.read_text().replace(task.mutant.old, task.mutant.new))
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code: Any = 3
    try:
        told = os.open(tree / "told.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(told, stream)
        os.chdir(tree)
        # Before the editable installation, whose files are the checkout's; subprocesses of tests too.
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        code = int(sys.modules["pytest"].main(["-q", "-x", "-p", "no:cacheprovider", *task.tests]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def _restored(task: Task, tree: Path) -> None:
    if task.mutant is not None:
        shutil.copyfile(tree / "original.txt", tree / task.mutant.file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Change one line at a time and see whether a test fails.")
    parser.add_argument("words", nargs="*", help="of the files or descriptions that are meant; none for all")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    sys.exit(main(asked.words, asked.processes))
