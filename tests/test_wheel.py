"""The wheel carries every module and data file that the commands need."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:  # a copy, so that no build folder is left in the checkout
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for package in ("lab", "lab/config", "analysis", "sweeps", "sweeps/bundled", "tpu_configs"):
        for path in (ROOT / package).iterdir():
            if path.suffix in (".py", ".toml"):
                assert f"{package}/{path.name}" in packed
    (entry,) = (name for name in packed if name.endswith("entry_points.txt"))
    assert b"lrlab = sweeps.cli:main" in zipfile.ZipFile(wheel).read(entry)
    assert not [name for name in packed if name.startswith("tests")]
