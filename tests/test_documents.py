"""Documents and shipped data say what is true."""

import re
from pathlib import Path

import pytest

from lab.device import CLASSES
from sweeps import this_machine
from sweeps.cli import main

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_exist(document: Path) -> None:
    text = document.read_text()
    for name in re.findall(r"`((?:lab|analysis|sweeps|docs|tests|benchmarks|tpu_configs)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (document.parent / target).exists(), target


def test_the_sweep_of_the_documentation_loads_and_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweeps import catalog

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.DOTALL)
    (tmp_path / "depth.py").write_text(block)
    sweep = catalog.load(str(tmp_path / "depth.py"))
    assert len(sweep.points) == 80
    assert {config.model.depth for config in sweep} == {2, 4, 8, 16}
    assert main(["plan", str(tmp_path / "depth.py")]) == 0  # the document's first command, on a machine without files
    assert "80 runs, 4 programs" in capsys.readouterr().out


def test_constraints_hold_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r'[a-z0-9-]+==[\w.]+( ; python_version (<|>=) "3\.12")?', line)


@pytest.mark.parametrize("platform", sorted(CLASSES))
def test_every_platform_has_figures(platform: str) -> None:
    assert this_machine.here(platform).peak() > 1e8


def test_no_module_is_too_long() -> None:
    for folder in ("lab", "analysis", "sweeps", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 420, path
