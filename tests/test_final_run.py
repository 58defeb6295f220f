"""`lrlab train`: the same numbers as a sweep, over any mesh, gone on with, at a law's rate."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from law_cases import BATCH, planned, planted_laws, power

from analysis.prediction import predict
from lab import count, store
from lab.check import InputError
from lab.config import RunConfig
from lab.override import apply
from sweeps import final_run, law_rate
from sweeps.cli import main

pytestmark = pytest.mark.stack

STEPS = 16


@pytest.fixture(scope="module")
def config_file(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.json"
    changed = apply(base, {"schedule.steps": STEPS, "data.sequences": 8})
    path.write_text(json.dumps(dataclasses.asdict(changed)))
    return path


QUICK = ["--set", "exec.segment=4", "--set", "exec.unroll=false", "--log-seconds", "1e-9"]


@pytest.fixture(scope="module")
def finished(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("final") / "run"
    assert main(["train", "--out", str(root), "--config", str(config_file), "--validate-every", "6", *QUICK]) == 0
    return root


def only(root: Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the record of a store's one run."""
    ((run_id, record),) = store.read_records(root).items()
    return store.run_folder(root, run_id), record


SWEEP = """
import json
from pathlib import Path
from lab.config import ExecConfig, RunConfig
from lab.identity import from_dict
from sweeps.sweep import Sweep, axis

def sweep():
    base = from_dict(RunConfig, json.loads(Path({path!r}).read_text()))
    return Sweep("one", "?", "-", "-", base, axis("optimizer.lr", {rates}),
                 execution=ExecConfig(lanes=1, segment=4, unroll=False))
"""


@pytest.mark.exact
def test_a_run_is_bitwise_that_of_a_sweep_of_one_lane(config_file: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SWEEP.format(path=str(config_file), rates="2.0**-6, 2.0**-5"))
    assert main(["sweep", str(tmp_path / "one.py"), "--out", str(tmp_path / "sweep")]) == 0
    folder, record = only(finished)
    other = store.read_records(tmp_path / "sweep")[record["run_id"]]
    assert other["validation"] == record["validation"]
    curve = (store.run_folder(tmp_path / "sweep", record["run_id"]) / "curve.csv").read_text()
    assert curve == (folder / "curve.csv").read_text()
    for command in ("status", "report"):
        assert main([command, str(finished)]) == 0


def test_the_tables_hold_what_was_asked_for(finished: Path) -> None:
    folder, record = only(finished)
    validation, log = pd.read_csv(folder / "validation.csv"), pd.read_csv(folder / "log.csv")
    curve = pd.read_csv(folder / "curve.csv")
    assert list(validation["step"]) == [6, 12, STEPS]
    assert validation["loss"].iloc[-1] == record["validation"]["loss"]
    assert validation["standard_error"].iloc[-1] == record["validation"]["standard_error"]
    assert log["step"].is_unique and log["step"].iloc[-1] == STEPS and {6, 12} <= set(log["step"])
    assert np.isnan(log["tokens_per_second"].iloc[0])  # the first segment
    assert (log["tokens"] == 128 * log["step"]).all()
    begin = 0
    for row in log.itertuples():
        window = curve.iloc[begin : row.step]
        assert row.loss == pytest.approx(window["loss"].mean(), rel=1e-5)
        assert row.grad_norm == pytest.approx(window["grad_norm"].mean(), rel=1e-5)
        assert row.lr == pytest.approx(window["lr"].iloc[-1], rel=1e-7)
        begin = row.step


def test_a_finished_run_is_skipped_and_its_configuration_names_the_same_run(finished: Path) -> None:
    folder, record = only(finished)
    before = (folder / "log.csv").read_text()
    assert main(["train", "--out", str(finished), "--config", str(folder / "config.json"), *QUICK]) == 0
    assert only(finished)[1] == record
    assert (folder / "log.csv").read_text() == before


PRELUDE = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from pathlib import Path
from lab import checkpoint, store
from sweeps import worker
from sweeps.cli import main

ROOT, CONFIG = Path(sys.argv[1]), sys.argv[2]
FSDP4 = ["exec.mesh.fsdp=4"]

def run(name, settings, stop=None):
    \"\"\"The exit status; with `stop`, that of a run which is asked to stop once so many updates are made.\"\"\"
    words = ["train", "--out", str(ROOT / name), "--config", CONFIG, "--validate-every", "6", "--log-seconds", "1e-9"]
    for text in ("exec.segment=4", "exec.unroll=false", *settings):
        words += ["--set", text]
    inside, request = worker._checkpointed, []
    def stopping(job, begin, root, unit, asked, *rest):
        for snapshot in inside(job, begin, root, unit, asked, *rest):
            asked.asked = stop is not None and snapshot.step >= stop
            yield snapshot
    worker._checkpointed = stopping
    try:
        return main(words)
    finally:
        worker._checkpointed = inside

def only(name):
    ((run_id, record),) = store.read_records(ROOT / name).items()
    folder = store.run_folder(ROOT / name, run_id)
    return run_id, record, {p.stem: p.read_text() for p in folder.glob("*.csv")}
"""


def on_eight_devices(root: Path, config_file: Path, code: str) -> Any:
    """What a piece of code leaves in `found`, in a process with eight devices."""
    words = [sys.executable, "-W", "error", "-c", PRELUDE + code + "\nprint(json.dumps(found))"]
    done = subprocess.run([*words, str(root), str(config_file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def columns(table: str, *names: str) -> np.ndarray:
    return pd.read_csv(io.StringIO(table))[list(names)].to_numpy()


@pytest.mark.slow
def test_a_run_goes_on_over_other_devices(config_file: Path, finished: Path, tmp_path: Path) -> None:
    """fsdp 4, then fsdp 2 x tensor 2 with the batch in two parts, then one device; and on the same mesh, bitwise."""
    found = on_eight_devices(
        tmp_path,
        config_file,
        """
statuses = [run("straight", FSDP4), run("same", FSDP4, 5), run("same", FSDP4)]
statuses += [run("moved", FSDP4, 5)]
statuses += [run("moved", ["exec.mesh.fsdp=2", "exec.mesh.tensor=2", "exec.accumulate=2"], 7)]
statuses += [run("moved", ["exec.mesh.fsdp=1", "exec.mesh.data=8", "exec.accumulate=1"], 11)]
statuses += [run("moved", ["exec.mesh.data=1", "exec.mesh.fsdp=1"])]
found = {"statuses": statuses, "units": sorted(p.name for p in (ROOT / "moved" / "units").iterdir()),
         "devices": only("straight")[1]["exec"]["devices"],
         **{name: only(name) for name in ("straight", "same", "moved")}}
""",
    )
    assert found["statuses"] == [0, 130, 0, 130, 130, 130, 0]
    assert found["devices"] == 4
    assert len(found["units"]) == 2  # the batch in two parts is another unit
    straight, same, moved = (found[name] for name in ("straight", "same", "moved"))
    assert same[0] == moved[0] == straight[0]
    assert same[1]["validation"] == straight[1]["validation"]
    assert same[2]["curve"] == straight[2]["curve"]
    assert same[2]["validation"] == straight[2]["validation"]
    folder, record = only(finished)
    one_device = {"curve": (folder / "curve.csv").read_text(), "validation": (folder / "validation.csv").read_text()}
    for other in (straight[2], one_device):
        for table, names in (("curve", ("lr", "loss", "grad_norm")), ("validation", ("step", "tokens", "loss"))):
            np.testing.assert_allclose(columns(moved[2][table], *names), columns(other[table], *names), rtol=1e-4)
    assert moved[1]["validation"]["loss"] == pytest.approx(record["validation"]["loss"], abs=2e-4)
    for one in (same, moved):
        steps = columns(one[2]["log"], "step")[:, 0]
        assert (np.diff(steps) > 0).all() and steps[-1] == STEPS


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return planted_laws(tmp_path_factory.mktemp("laws"))


def test_a_law_sets_the_rate_and_the_first_answer_stands(
    laws: dict[str, Path], config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law, root = tmp_path / "law.json", tmp_path / "run"
    law.write_bytes(laws["lr"].read_bytes())
    words = ["train", "--out", str(root), "--config", str(config_file), *QUICK]
    assert main([*words, "--law", str(law)]) == 0
    told = capsys.readouterr().out
    assert "95 % prediction interval" in told and "times outside the fitted runs" in told
    _, record = only(root)
    expected = predict(law, params=record["parameters"]["non_embedding"], tokens=record["tokens"])
    assert record["config"]["optimizer"]["lr"] == expected.lr
    kept = json.loads((root / law_rate.FILE).read_text())
    assert kept["learning_rate"] == expected.lr
    assert kept["law"] == {"name": str(law), "sha256": hashlib.sha256(law.read_bytes()).hexdigest()}
    data = json.loads(law.read_text())
    law.write_text(json.dumps(data | {"name": "fitted anew"}))
    assert main([*words, "--law", str(law)]) == 0
    assert "the recorded rate stands" in capsys.readouterr().out
    assert only(root)[1] == record
    for other, line in (
        (words, "use another --out"),
        ([*words, "--law", str(law), "--set", "seed=1"], "holds another run"),
        ([*words, "--law", str(law), "--set", "data.sequences=8"], "holds another run"),
    ):
        assert main(other) == 2
        assert line in capsys.readouterr().err
    assert json.loads((root / law_rate.FILE).read_text()) == kept


def test_a_law_of_the_batch_sets_it_unless_it_is_set_by_hand(
    laws: dict[str, Path], config_file: Path, tmp_path: Path
) -> None:
    law, tokens = str(laws["lr+batch"]), 100_000
    sweep = planned(config_file, {"schedule.tokens": tokens, "exec.mesh.fsdp": 2})
    found, _ = final_run.with_law(sweep, tmp_path, law, batch_by_hand=False)
    (config,) = found
    wanted = power(BATCH, 1.0, tokens) / 16
    assert config.data.sequences % 2 == 0 and abs(config.data.sequences - wanted) <= 1.01
    sizes = {"params": count.parameters(config.resolve(vocab=256, fingerprint="x").model, 16).non_embedding}
    steps = tokens // config.data.tokens_per_step
    sizes |= {"tokens": steps * config.data.tokens_per_step}
    assert config.optimizer.lr == predict(law, **sizes, batch=config.data.tokens_per_step).lr
    (by_hand,) = final_run.with_law(planned(config_file, {}), tmp_path, law, batch_by_hand=True)[0]
    assert by_hand.data.sequences == 8
    sizes["tokens"] = STEPS * 128
    assert by_hand.optimizer.lr == predict(law, **sizes, batch=128).lr
    with pytest.raises(InputError, match=r"sets the batch, .* give schedule\.tokens, or set data\.sequences by hand"):
        final_run.with_law(planned(config_file, {}), tmp_path, law, batch_by_hand=False)


def test_conditions_that_the_run_does_not_meet_are_told(
    laws: dict[str, Path], config_file: Path, tmp_path: Path
) -> None:
    data = json.loads(laws["lr"].read_text())
    data["conditions"] |= {
        "schedule": "cosine",
        "optimizer": "adamw",
        "warm-up": "2 updates",
        "decay": "0.5 of the run",
    }
    data["conditions"] |= {"parametrization": "sp", "params": "N non-embedding", "beta1": 0.9}
    law = tmp_path / "law.json"
    law.write_text(json.dumps(data))
    (config,) = planned(config_file, {})
    lines = law_rate.ask(str(law), config, batch_by_hand=False, rows=1).record["warnings"]
    assert lines == [
        "the runs behind the law had schedule cosine, this run has wsd",
        "the runs behind the law had decay 0.5 of the run, this run has 0.25 of the run",
        "the runs behind the law had parametrization sp, this run has mup",
    ]
    data["fixed"] = {"batch": 4096.0}
    law.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"had batch=4096, and this run has 128"):
        law_rate.ask(str(law), config, batch_by_hand=True, rows=1)
    flat = json.loads(laws["lr+batch"].read_text()) | {"penalty": None}
    law.write_text(json.dumps(flat))
    with pytest.raises(InputError, match=r"knows no valley.*leave data\.sequences out of --set"):
        law_rate.ask(str(law), config, batch_by_hand=True, rows=1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--law", "law.json", "--set", "optimizer.lr=0.1"], "--set optimizer.lr and --law both say the learning rate"),
        (["--law", "law.json"], "there is no law file law.json"),
        (["--law", "stplaw"], "did you mean"),
        (["--set", "optimizer.lr=0.1,0.2"], "takes one value here, not 2"),
        (["--set", "optimizer.rate=0.1"], "unknown setting optimizer.rate"),
        (["--set", "exec.lanes=4"], "a final run is one lane"),
        (["--set", "exec.mesh.lane=2"], "a final run is one lane"),
        (["--set", "exec.mesh.tensor=4"], "asks for 4 devices, and there are 1"),
        (["--set", "probe.every=2"], "lrlab sharpness"),
        (["--config", "none.json"], "is not a file"),
        (["--config", "run.toml"], "give a .json or .py file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line(words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert line in error and error.startswith("lrlab: error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_single_run_are_refused(
    config_file: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.py").write_text(SWEEP.format(path=str(config_file), rates="0.1, 0.2"))
    (tmp_path / "odd.json").write_text('{"model": 3}')
    for words, line in (
        (["--config", str(tmp_path / "two.py")], "has 2 runs, and this trains one"),
        (["--config", str(tmp_path / "odd.json")], "is no configuration of a run"),
    ):
        assert main(["train", "--out", str(tmp_path / "run"), *words]) == 2
        assert line in capsys.readouterr().err
    assert main(["train", "--out", str(finished), "--config", str(config_file), "--set", "seed=1"]) == 2
    assert f"holds the run {only(finished)[0].name}, not" in capsys.readouterr().err


def test_one_run_of_a_file_may_be_a_sweep(config_file: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SWEEP.format(path=str(config_file), rates="2.0**-6"))
    (run,) = final_run.resolved(planned(tmp_path / "one.py", {}))
    assert run.run_id == only(finished)[0].name
