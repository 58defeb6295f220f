"""A sweep folder as a table of runs: sizes, statuses, conditions, and the laws that a sweep keeps apart."""

import json
import math
import shlex
from pathlib import Path

import pytest

from analysis.calculator import fit
from analysis.runs.optima import find_optima, locate
from analysis.runs.source import load
from lab import store
from lab.check import InputError
from lab.config import ExecConfig, RunConfig
from lab.record import Provenance, Result, record
from sweeps import launch, options
from sweeps.cli import main
from sweeps.sweep import Point, Sweep, axis, product, resolved

pytestmark = pytest.mark.host


def stored(base: RunConfig, root: Path, points: list[Point], *, pending: int = 0) -> Path:
    """A store with a record of each run but the last `pending`: parabolas in ln lr; the highest rate diverged."""
    sweep = Sweep(name="planted", question="", cost="", expected="", base=base, points=points)
    runs = resolved(sweep)
    launch._describe(sweep, runs, root, {})
    highest = max(run.config.optimizer.lr for run in runs)
    where = Provenance("unit", 0, 1, 1, "map", 1, "cpu", "cpu", 1, ExecConfig(), "", "", 1.0)
    for run in runs[: len(runs) - pending]:
        lr, lost = run.config.optimizer.lr, run.config.optimizer.lr == highest
        loss = None if lost else 2 + 0.1 * math.log(lr / 2.0**-7) ** 2 + 0.001 * run.config.seed_init
        result = Result("diverged" if lost else "done", loss, 0.01, 256, loss, loss, 3 if lost else None)
        store.write_record(root, record(run.config, result, where))
    return root


RATES = axis("optimizer.lr", *(2.0**-k for k in (10, 9, 8, 7, 6, 5, 3)))


def test_a_sweep_folder(base: RunConfig, tmp_path: Path) -> None:
    points = product(axis("data.sequences", 4, 8), axis("seed", 0, 1), RATES)
    root = stored(base, tmp_path / "mine", points, pending=1)
    runs = load(root)
    one = next(iter(store.read_records(root).values()))
    assert runs.name == "mine"
    assert len(runs.frame) == 27
    assert "1 of 28 runs are not finished and left out" in runs.notes
    assert set(runs.frame["batch"]) == {4.0 * 16, 8.0 * 16}
    assert set(runs.frame["params"]) == {float(one["parameters"]["non_embedding"])}
    assert {"seed_init", "seed_data", "trunk", "model.width", "model.depth"} <= set(runs.frame)
    assert (runs.frame["status"] == "diverged").sum() == 3
    assert runs.frame.loc[runs.frame["status"] == "diverged", "loss"].isna().all()
    assert "variant" not in runs.frame
    wanted = {
        "params": "N non-embedding",
        "schedule": "wsd",
        "warm-up": "0.167 of the run",
        "decay": "0.333 of the run",
        "weight decay": 0.0,
        "beta2": 0.95,
        "parametrization": "mup",
        "sequence length": 16,
    }
    assert wanted.items() <= runs.conditions.items()
    found = find_optima(runs)
    assert found["quality"].tolist() == ["interior", "interior"]
    assert found["lr"].to_numpy() == pytest.approx(2.0**-7, rel=1e-6)
    assert found["diverged"].tolist() == [1, 1]
    assert found["stable"].to_numpy() == pytest.approx(2.0**-5)
    assert "seed SD (beyond each seed's mean)" in locate(runs).noise


def test_a_sweep_of_several_laws_keeps_them_apart(base: RunConfig, tmp_path: Path) -> None:
    points = product(axis("parametrization.name", "mup", "sp"), RATES)
    root = stored(base, tmp_path / "two", points)
    runs = load(root)
    assert set(runs.frame["variant"]) == {"parametrization mup", "parametrization sp"}
    assert any("each variant has its own law" in note for note in runs.notes)
    assert "parametrization" not in runs.conditions
    assert len(find_optima(runs)) == 2
    one = load(root, where={"parametrization.name": "sp"})
    assert "variant" not in one.frame
    assert one.conditions["parametrization"] == "sp"


def test_the_choice_of_a_variant_works_when_pasted(base: RunConfig, tmp_path: Path) -> None:
    """`--where kind=adamw` was told, and `kind` is the label of three columns: of the model, optimizer and schedule."""
    root = stored(base, tmp_path / "two", product(axis("optimizer.kind", "adamw", "lion"), RATES))
    with pytest.raises(InputError, match="each has a law of its own: choose with ") as told:
        fit(load(root), "lr", draws=0)
    pasted = shlex.split(str(told.value).partition("choose with ")[2].partition(" (")[0])
    assert pasted == ["--where", "optimizer.kind=adamw"]
    one = load(root, where=options.where(pasted[1:]))
    assert len(one.frame) == 7 and one.conditions["optimizer"] == "adamw" and "variant" not in one.frame
    with pytest.raises(InputError, match=r"kind may be .*optimizer.kind.*choose with --where optimizer.kind=adamw$"):
        load(root, where={"kind": "adamw"})
    with pytest.raises(InputError, match="has no column 'kinds'"):  # the control
        load(root, where={"kinds": "adamw"})


def test_a_sweep_without_a_finished_run(base: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run yet"):
        load(stored(base, tmp_path / "none", RATES, pending=7))


def exported(root: Path, path: Path) -> Path:
    assert main(["export", str(root), "--csv", str(path)]) == 0
    return path


def test_an_export_is_read_whole(base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same runs, conditions and law as of the store: 0.1.0 refused its own file, for `loss` and `train_loss`."""
    points = product(axis("data.sequences", 4, 8), axis("seed", 0, 1), RATES)
    root = stored(base, tmp_path / "mine", points, pending=1)
    path = exported(root, tmp_path / "runs.csv")
    one, other = load(root), load(path)
    assert other.fingerprint == one.fingerprint
    assert other.conditions == one.conditions
    assert other.notes == one.notes
    assert find_optima(other).equals(find_optima(one))
    with pytest.raises(
        InputError, match="tokens=768 is less than 1000"
    ):  # the control: with --columns, a table like any
        load(path, columns={"loss": "train_loss"}, require=("loss",))
    for command in ("report", "status"):
        capsys.readouterr()
        told = []
        for source in (root, path):
            assert main([command, str(source), "--json"]) == 0
            told.append(json.loads(capsys.readouterr().out))
        assert told[0] == told[1]
    assert (tmp_path / "runs-report" / "report.html").is_file()


def test_variants_of_an_export_stay_apart_and_can_be_chosen(base: RunConfig, tmp_path: Path) -> None:
    root = stored(base, tmp_path / "two", product(axis("parametrization.name", "mup", "sp"), RATES))
    runs = load(exported(root, tmp_path / "runs.csv"))
    assert set(runs.frame["variant"]) == {"parametrization mup", "parametrization sp"}
    with pytest.raises(InputError, match=r"choose with --where parametrization=mup \(") as told:
        fit(runs, "lr", draws=0)
    assert "\n" not in str(told.value)
    for source in (root, tmp_path / "runs.csv"):  # what is suggested works when it is pasted
        assert set(load(source, where={"parametrization": "mup"}).frame["parametrization.name"]) == {"mup"}


def test_horizon_and_compare_take_an_export(
    base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = product(axis("schedule.steps", 8, 16, 32), axis("seed", 0, 1), RATES)
    root = stored(base, tmp_path / "h", points)
    path = exported(root, tmp_path / "h.csv")
    capsys.readouterr()
    told = []
    for source in (root, path):
        assert main(["horizon", str(source), "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    kinds = [{"schedule.kind": "wsd"}, {"schedule.kind": "cosine", "schedule.decay_steps": None}]
    runs = product(axis("data.sequences", 4, 8), axis("seed", 0, 1), RATES)
    root = stored(base, tmp_path / "c", [kind | point for kind in kinds for point in runs])
    path = exported(root, tmp_path / "c.csv")
    capsys.readouterr()
    told = []
    for source in (root, path):
        words = ["compare", str(source), "--challenger", "cosine", "--judge", "data.sequences=8", "--json"]
        assert main(words) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]


def test_other_tables_are_no_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text("lr,params,tokens,loss\n0.1,1e6,1e8,3.0\n")
    assert main(["report", str(tmp_path / "runs.csv")]) != 0
    assert "is no table of lrlab export" in capsys.readouterr().err


def test_exports_of_older_versions() -> None:
    """They name no axes: the settings that vary are taken."""
    docs = Path(__file__).parents[1] / "docs"
    found = load(docs / "quickstart.csv", where={"parametrization": "mup"})
    assert "variant" not in found.frame and found.conditions["schedule"] == "wsd"
    assert found.frame.groupby("params").ngroups == 3
    assert set(load(docs / "quickstart.csv").frame["variant"]) == {"parametrization sp", "parametrization mup"}
