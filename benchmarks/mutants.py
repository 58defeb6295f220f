"""Mutants: one line of the product changed at a time, and the tests that are to fail then.

    python benchmarks/mutants.py                  all of them, two at a time
    python benchmarks/mutants.py rates record     those whose file or description has one of the words

`mutants.toml` holds the table.  Every mutant is applied to a copy of the tracked files in a temporary folder, and its
own tests run there until one fails.  First, the same tests run without any mutant: they have to pass, or nothing is
learnt.  Compiled programs come from the checkout's cache (`.pytest_cache/jax`); a mutant that changes a program
compiles it.

Prints a line per mutant, killed or SURVIVED, and a closing line; the exit status is 1 where one survived.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
# Outcomes of pytest: tests failed; collection was interrupted by an error, as of a module that no longer imports.
FAILED = (1, 2)
SECONDS = 300


@dataclass(frozen=True)
class Mutant:
    """`new` for `old`, which stands once in `file`; `breaks` says what is wrong then, `tests` what must notice."""

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]


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
        changed(one, ROOT)
        lacking = {test for test in one.tests if not (ROOT / test.partition("::")[0]).is_file()}
        if lacking:
            raise ValueError(f"no file for {', '.join(sorted(lacking))}: mend mutants.toml")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(processes) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            trees.put(copied(Path(folder) / str(number)))
        tests = sorted({test for one in chosen for test in one.tests})
        parts = [part for part in (tests[number::processes] for number in range(processes)) if part]
        for code, told in pool.map(lambda part: in_tree(trees, part, None), parts):
            if code:
                print(told, "the tests fail without any mutant: mend them first", sep="\n")
                return 2
        print(f"{len(tests)} selections pass without a mutant ({time.perf_counter() - begun:.0f} s)", flush=True)
        killed = 0
        for one, (code, told) in zip(chosen, pool.map(lambda one: in_tree(trees, one.tests, one), chosen), strict=True):
            if code not in (0, *FAILED):
                print(told, f"pytest ended with {code} for {one.file}: {one.breaks}", sep="\n")
                return 2
            killed += code in FAILED
            print(f"{'killed  ' if code else 'SURVIVED'}  {one.file}: {one.breaks}", flush=True)
    minutes = (time.perf_counter() - begun) / 60
    print(f"{killed} of {len(chosen)} mutants killed in {minutes:.1f} minutes")
    return int(killed < len(chosen))


def copied(folder: Path) -> Path:
    """The tracked files, as they are in the checkout, in a folder of their own."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder


def changed(mutant: Mutant, root: Path) -> str:
    """The text of a mutant's file with its line changed.

    Raises:
        ValueError: the old text is not in the file exactly once: the table is behind the code.
    """
    text = (root / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} has {text.count(mutant.old)} times {mutant.old!r}: mend mutants.toml")
    return text.replace(mutant.old, mutant.new)


def in_tree(trees: "SimpleQueue[Path]", tests: Sequence[str], mutant: Mutant | None) -> tuple[int, str]:
    """(exit status of pytest, what it said) of some tests in one of the trees, which is left as it was."""
    tree = trees.get()
    try:
        original = None
        if mutant is not None:
            original = (tree / mutant.file).read_text()
            (tree / mutant.file).write_text(changed(mutant, tree))
        try:
            return _pytest(tree, tests, once=mutant is not None)
        finally:
            if mutant is not None and original is not None:
                (tree / mutant.file).write_text(original)
    finally:
        trees.put(tree)


def _pytest(tree: Path, tests: Sequence[str], *, once: bool) -> tuple[int, str]:
    cache = ROOT / ".pytest_cache" / "jax"
    settings = {
        "PYTHONPATH": str(tree),  # before the editable installation, whose files are the checkout's
        "PYTHONDONTWRITEBYTECODE": "1",  # a line of the same length, changed within a second, looks unchanged
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)),
        "LRLAB_SHARED": os.environ.get("LRLAB_SHARED", str(ROOT.parent / "shared")),
    }
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(["-x"] if once else []), *tests]
    try:
        found = subprocess.run(
            words,
            cwd=tree,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS if once else None,
        )
    except subprocess.TimeoutExpired:
        return FAILED[0], "it did not end"
    return found.returncode, found.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Change one line at a time and see whether a test fails.")
    parser.add_argument("words", nargs="*", help="of the files or descriptions that are meant; none for all")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    sys.exit(main(asked.words, asked.processes))
