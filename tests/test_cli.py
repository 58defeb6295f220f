"""The command line end to end on a tiny sweep, and one clear line for whatever is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lab import store
from sweeps.cli import main

SWEEP = '''
"""Two widths, four rates."""
from lab.config import *
from sweeps.sweep import Sweep, axis, product


def sweep():
    return Sweep(
        name="tiny",
        question="Is it <quick>?",
        cost="seconds",
        expected="a curve",
        base=RunConfig(
            model=ModelConfig(width=16, depth=1, head_dim=8),
            parametrization=ParametrizationConfig(base_width=16),
            schedule=ScheduleConfig(kind="wsd", steps={steps}, warmup_steps=2, decay_steps=4),
            data=DataConfig(corpus="text:{text}", sequences=4, length=16),
            evaluation=EvaluationConfig(sequences=16),
        ),
        points=product(axis("model.width", 16, 32), axis("optimizer.lr", 1e-3, 1e-2, 1e-1, 1.0)),
    )
'''


@pytest.fixture(scope="module")
def sweep_file(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "tiny.py"
    path.write_text(SWEEP.format(text=text, steps=12))
    return path


@pytest.fixture(scope="module")
def finished(sweep_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every run of the tiny sweep."""
    root = tmp_path_factory.mktemp("results") / "tiny"
    assert main(["sweep", str(sweep_file), "--out", str(root)]) == 0
    return root


def copied(root: Path, to: Path) -> Path:
    subprocess.run(["cp", "-r", str(root), str(to)], check=True)
    return to


def test_a_sweep_leaves_the_documented_store(finished: Path) -> None:
    described = store.read_sweep(finished)
    assert described["axes"] == ["model.width", "optimizer.lr"]
    records = store.read_records(finished)
    assert set(records) == set(described["runs"])
    assert len(records) == 8
    for run_id, record in records.items():
        assert record["run_id"] == run_id
        assert record["schema"] == 1
        assert re.fullmatch("[0-9a-f]{16}", record["corpus"])
        assert record["config"]["data"]["fingerprint"] == record["corpus"]
        assert record["overlap"] == {"window": 64, "share": 0.0, "searched": 1.0}  # a text of random words
        assert record["validation"]["tokens"] == 256
        assert record["exec"]["lanes"] == 4
        assert record["exec"]["versions"]["jax"]
        assert record["tokens"] == 12 * 64
        assert record["attempt"] == 1
        curve = pd.read_csv(store.run_folder(finished, run_id) / "curve.csv")
        assert len(curve) == 12
        assert (store.run_folder(finished, run_id) / "config.json").is_file()
        folder = store.unit_folder(finished, record["exec"]["unit"])
        assert (folder / "claims" / "0001.json").is_file()
        assert (folder / "checkpoints" / "final").is_dir()
    assert "Infinity" not in "".join(json.dumps(record) for record in records.values())


def test_a_second_launch_says_that_everything_is_there(
    finished: Path, sweep_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("record.json")}
    assert main(["sweep", str(sweep_file), "--out", str(finished)]) == 0
    assert "all 8 runs of tiny are in" in " ".join(capsys.readouterr().out.split())
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("record.json")} == before


def test_report_as_json_and_page(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(finished), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [cell["width"] for cell in found["cells"]] == [16, 32]
    for cell in found["cells"]:
        assert {"lr_opt", "lr_low", "lr_high", "quality", "loss", "parametrization"} <= set(cell)
    assert [(drift["axis"], drift["from"], drift["to"]) for drift in found["drift"]] == [("width", 16, 32)]
    assert [(found["axis"], len(found["regret"])) for found in found["transfer"]] == [("width", 2)]
    page = (finished / "report" / "report.html").read_text()
    assert "Is it &lt;quick&gt;?" in page
    assert "Slope of the optimum, and regret" in page
    assert page.count("data:image/png;base64") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    for run_id in store.read_records(finished):
        assert run_id in page
    assert {"curves.png", "curves.svg", "optimum_vs_width.png", "summary.json"} <= {
        path.name for path in (finished / "report").iterdir()
    }
    assert main(["report", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "drift (octaves)" in text
    assert str(page and finished / "report" / "report.html") in text.replace("\n", "")


def test_a_half_finished_sweep_can_be_reported_and_goes_on(
    finished: Path, sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = copied(finished, tmp_path / "half")
    gone = sorted(store.read_records(half))[:3]
    before = store.read_records(half)
    for run_id in gone:
        (store.run_folder(half, run_id) / "record.json").unlink()
    assert main(["report", str(half), "--json"]) == 0
    assert sum(cell["pending"] for cell in json.loads(capsys.readouterr().out)["cells"]) == 3
    assert main(["status", str(half), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == {"done": 5, "pending": 3}
    assert main(["sweep", str(sweep_file), "--out", str(half)]) == 0
    after = store.read_records(half)
    assert {run_id: after[run_id]["validation"] for run_id in gone} == {
        run_id: before[run_id]["validation"] for run_id in gone
    }


def test_a_changed_grid_keeps_what_is_done(
    finished: Path, sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = copied(finished, tmp_path / "wider")
    command = [
        "sweep",
        str(sweep_file),
        "--out",
        str(wider),
        "--set",
        "optimizer.lr=1e-2,3e-2",
        "--set",
        "model.width=16",
    ]
    assert main(command) == 0
    assert len(store.read_records(wider)) == 9
    assert main(["status", str(wider)]) == 0
    assert "9 done" in capsys.readouterr().out


def test_export_is_a_table_of_every_run(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished), "--csv", str(tmp_path / "runs.csv")]) == 0
    table = pd.read_csv(tmp_path / "runs.csv")
    assert len(table) == 8
    assert {"run_id", "status", "loss", "model.width", "optimizer.lr", "params", "tokens"} <= set(table)


def test_dry_run_costs_nothing(sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(sweep_file), "--dry-run", "--out", str(tmp_path / "none")]) == 0
    text = capsys.readouterr().out
    for words in ("8 runs, 2 programs, 2 compiles", "lanes", "training tokens", "FLOPs", "MiB"):
        assert words in text
    assert not (tmp_path / "none").exists()


def test_smoke_runs_two_steps_apart_from_the_results(sweep_file: Path, tmp_path: Path) -> None:
    assert main(["sweep", str(sweep_file), "--smoke", "--out", str(tmp_path), "--keep", "none"]) == 0
    records = store.read_records(tmp_path / "smoke")
    assert {record["tokens"] for record in records.values()} == {128}
    assert not list((tmp_path / "smoke" / "units").rglob("final"))


def test_list_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list"]) == 0
    text = capsys.readouterr().out
    assert "quickstart" in text
    assert "cost:" in text
    assert "expected:" in text
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "cpu"
    assert found["versions"]["jax"]
    assert main(["doctor"]) == 0
    assert "cores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["swep"], "swep is not a command (did you mean sweep?)"),
        (["sweep"], "which sweep? Name one of lrlab sweep --list"),
        (["sweep", "quickstart"], "--out is missing: say where the records go"),
        (["sweep", "quickstrat", "--out", "x"], "did you mean quickstart?"),
        (["sweep", "none.py", "--out", "x"], "none.py is not a file"),
        (["sweep", "quickstart", "--out", "x", "--set", "model.width"], "--set model.width has no value"),
        (["sweep", "quickstart", "--out", "x", "--set", "model.widht=1"], "did you mean model.width?"),
        (["sweep", "quickstart", "--out", "x", "--set", "seed=1", "--set", "seed=2"], "--set seed is given twice"),
        (["sweep", "quickstart", "--out", "x", "--set", "model.width=100"], "does not divide model.width=100"),
        (["sweep", "quickstart", "--out", "x", "--set", "model.heads=3"], "model.heads=3 does not divide"),
        (["sweep", "quickstart", "--out", "x", "--set", "schedule.steps=70"], "is longer than the run of 70 steps"),
        (["sweep", "quickstart", "--out", "x", "--set", "exec.lanes=3"], "exec.lanes=3 is not a power of two"),
        (["sweep", "quickstart", "--out", "x", "--set", "exec.lane=4"], "unknown setting lane (did you mean lanes?)"),
        (["sweep", "quickstart", "--out", "x", "--keep", "all"], "invalid choice: 'all'"),
        (["sweep", "quickstart", "--out", __file__], "is a file: give a folder"),
        (["report", "nowhere"], "nowhere holds no sweep (no sweep.json)"),
        (["status", "nowhere"], "nowhere holds no sweep"),
        (["export", "nowhere", "--csv", "x.csv"], "nowhere holds no sweep"),
        (["export", "nowhere"], "--csv"),
        (["report"], "DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands_are_one_clear_line(
    command: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(command)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("record.json"))


def test_a_store_refuses_another_sweep(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "quickstart", "--out", str(finished)]) == 2
    assert "holds the sweep tiny, made with another base configuration" in capsys.readouterr().err


def test_commands_without_training_do_not_import_jax(finished: Path) -> None:
    code = (
        "import sys; from sweeps.cli import main; "
        f"main(['status', {str(finished)!r}]); main(['report', {str(finished)!r}, '--json']); "
        "main(['schedule', 'show', 'wsd', '--steps', '9', '--decay', '2']); "
        "main(['schedule', 'export', 'wsd', '--steps', '9', '--decay', '2', '--format', 'optax']); "
        "import lab, analysis, sweeps, lab.config, lab.identity, lab.schedule, lab.count; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


# `lrlab`, in a process that is interrupted as soon as it has saved a resume point.
INTERRUPTED = """
import os, signal, sys
from sweeps import saved
from sweeps.cli import main

save = saved.save

def once(*arguments):
    saved.save = save
    save(*arguments)
    os.kill(os.getpid(), signal.SIGINT)

saved.save = once
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.exact
def test_interrupted_says_how_to_go_on_and_goes_on_bitwise(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text(SWEEP.format(text=text, steps=60).replace("16, 32", "16"))
    root, straight = tmp_path / "out", tmp_path / "straight"
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "sweep", str(path), "--out", str(root)]
        + ["--set", "exec.checkpoint_seconds=1e-9"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        timeout=600,
    )
    said = process.stdout
    assert process.returncode == 130, said
    assert "interrupted: 0 of 4 runs are done" in said
    assert f"lrlab sweep {path} --out {root} --set exec.checkpoint_seconds=1e-9" in said
    assert "Traceback" not in said
    saved = list(root.glob("units/*/checkpoints/0*"))
    assert len(saved) == 1
    assert main(["report", str(root)]) == 0
    # Resumed in another process than the one that was interrupted.
    assert main(["sweep", str(path), "--out", str(root)]) == 0
    assert main(["sweep", str(path), "--out", str(straight)]) == 0
    resumed, plain = store.read_records(root), store.read_records(straight)
    assert {r["attempt"] for r in resumed.values()} == {2}
    assert {k: v["validation"] for k, v in resumed.items()} == {k: v["validation"] for k, v in plain.items()}
    for run_id in plain:
        curves = [(store.run_folder(where, run_id) / "curve.csv").read_bytes() for where in (root, straight)]
        assert curves[0] == curves[1]
