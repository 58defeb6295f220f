"""Tables as people have them: trackers' names, states, budgets in whole steps, repeats that are none, odd units."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.calculator import fit
from analysis.runs.near import grouped
from analysis.runs.optima import find_optima
from analysis.runs.source import load
from lab.check import InputError
from sweeps import options

pytestmark = pytest.mark.host

PARAMS, TOKENS = (1e8, 2e8, 4e8), (2e9, 8e9)
RATES = 1e-3 * 2.0 ** np.arange(-3, 4)
LOSS_LAW = ("params", "tokens", "loss")


def table(at: float = 1e-3, **changes: Any) -> pd.DataFrame:
    """Parabolas about lr* = `at` (N / 1e8)^-0.5."""
    rows = [
        {"lr": lr, "params": n, "tokens": d, "loss": 2.5 + 0.05 * math.log(lr / (at * (n / 1e8) ** -0.5)) ** 2}
        for n in PARAMS
        for d in TOKENS
        for lr in RATES
    ]
    frame = pd.DataFrame(rows)
    frame["loss"] -= 0.1 * np.log(frame["params"] * frame["tokens"] / 1e18)
    return frame.assign(**changes)


def written(folder: Path, text: str, name: str = "runs.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_repeats_that_differ_in_another_column_are_asked_about() -> None:
    """Two models with optima a factor 4 apart are no seeds of each other: 0.1.0 took their mean, which is flat."""
    both = pd.concat([table(5e-4, model="a"), table(2e-3, model="b")])
    with pytest.raises(InputError, match=r"42 settings repeat and differ in 'model' \(a, b\).*--where model=a") as told:
        load(both)
    assert "--repeats model" in str(told.value) and "\n" not in str(told.value)
    for model, at in (("a", 5e-4), ("b", 2e-3)):
        law = fit(load(both, where={"model": model}), "lr", draws=0).law
        assert law.lr and law.lr.exponents["params"] == pytest.approx(-0.5, abs=0.01)
        assert law.lr.predict({"params": 1e8, "tokens": 2e9}).value == pytest.approx(at, rel=0.02)
    assert len(load(both, repeats=["model"]).frame) == 84
    with pytest.raises(InputError, match="--repeats modl: the frame has no such column"):
        load(both, repeats=["modl"])


@pytest.mark.parametrize(
    ("column", "values", "asked"),
    [
        ("schedule", ("cosine", "wsd"), True),
        ("epochs", (1, 2), True),
        ("qk_norm", (True, False), True),
        ("weight_decay", (0.0, 0.1), True),
        ("data_repeats", (1, 4), True),
        ("init_std", (0.01, 0.02), True),
        ("seed", (0, 1), False),
        ("trial", (1, 2), False),
        ("hostname", ("n1", "n2"), False),
        ("train_loss", (2.1, 2.2), False),
        ("grad_norm", (0.3, 0.4), False),
    ],
)
def test_what_a_setting_is_and_what_an_outcome(column: str, values: tuple[Any, Any], asked: bool) -> None:
    both = pd.concat([table(**{column: value}) for value in values], ignore_index=True)
    both["loss"] += np.random.default_rng(0).normal(0, 1e-4, len(both))
    if column == "hostname":
        both[column] = [f"n{number}" for number in range(len(both))]
    if asked:
        with pytest.raises(InputError, match=f"differ in '{column}'"):
            load(both)
    else:
        assert len(load(both).frame) == 84
    # The control: where each setting has one value, nothing repeats.
    assert len(load(table(**{column: values[0]})).frame) == 42


def test_budgets_in_whole_steps_are_one() -> None:
    """Tokens of 64 to 512 sequences in whole steps differ by up to 1.5 %: 0.1.0 made a cell of each."""
    frames = []
    for batch in (64, 128, 256, 512):
        frame = table(batch=batch * 2048.0)
        whole = np.floor(frame["tokens"] / frame["batch"] / (1 + batch % 7)) * frame["batch"] * (1 + batch % 7)
        frames.append(frame.assign(tokens=whole, loss=frame["loss"] + 0.02 * math.log(batch / 180) ** 2))
    frame = pd.concat(frames)
    assert frame["tokens"].nunique() > 4
    runs = load(frame)
    assert runs.frame.groupby(["params", "tokens"]).ngroups == 6
    assert sum("count as 2" in note for note in runs.notes) == 1
    apart = load(frame.assign(tokens=frame["tokens"] * (1 + 0.05 * (frame["batch"] > 3e5))))
    assert apart.frame.groupby(["params", "tokens"]).ngroups == 12  # the control: 5 % are another budget


def test_sizes_within_one_per_cent_are_one(shared: Path) -> None:
    """0.1.0: OverflowError, from an exponent over sizes that differ by .26 %."""
    frame = table()
    frame["params"] *= 1 + 0.003 * (frame["tokens"] > 5e9)
    runs = load(frame)
    assert runs.frame["params"].nunique() == 3
    assert "6 sizes within 1 % of each other count as 3" in runs.notes
    case = load(shared.parent / "cases" / "laws" / "near_equal_sizes.csv")
    assert case.frame["params"].nunique() == 1
    with pytest.raises(InputError, match=r"no law of the lr: 2 optima.*as many coefficients as cells"):
        fit(case, "lr", draws=0)


def test_groups_of_near_values() -> None:
    made, whole = grouped(np.array([1.0, 1.005, 1.005, 2.0]), 0.01)
    assert made.tolist() == [1.005, 1.005, 1.005, 2.0] and whole
    chain = np.exp(0.005 * np.arange(10))
    assert grouped(chain, 0.01)[0].tolist() == chain.tolist()  # a continuum has no groups
    assert not grouped(chain, 0.01)[1]


@pytest.mark.parametrize(
    ("word", "kept"),
    [("finished", True), ("Completed", True), ("SUCCESS", True)]
    + [(word, False) for word in ("crashed", "failed", "killed", "running", "Preempted", "timed out", "OOM")],
)
def test_what_states_say(word: str, kept: bool) -> None:
    """W&B's State: 0.1.0 fitted crashed runs with the loss at which they had stopped."""
    states = ["finished"] * 41 + [word]
    frame = table(State=states)
    frame.loc[41, "loss"] += 3
    runs = load(frame)
    assert len(runs.frame) == 41 + kept
    assert ("1 runs are not finished and left out (State)" in runs.notes) == (not kept)


def test_states_that_are_odd() -> None:
    words = ["finished"] * 40 + ["diverged", "crashed"]
    runs = load(table(State=words))
    assert runs.frame["status"].tolist().count("diverged") == 1 and len(runs.frame) == 41
    with pytest.raises(InputError, match=r"State='vaporised' is no known word.*--where State=VALUE"):
        load(table(State=["finished"] * 41 + ["vaporised"]))
    assert len(load(table(State=["north"] * 21 + ["south"] * 21)).frame) == 42  # no word of ours: no state
    with pytest.raises(InputError, match="no run is finished"):
        load(table(State="crashed"))
    marked = [None] * 41 + ["crashed"]  # who marks failures only means that the others ended
    assert len(load(table(status=marked)).frame) == 41
    assert load(table(diverged=[False] * 41 + [True])).frame["status"].tolist().count("diverged") == 1


def test_runs_that_stopped_early_are_left_out() -> None:
    frame = table(max_steps=1000, _step=1000)
    frame.loc[[3, 5], "_step"] = 400
    runs = load(frame)
    assert len(runs.frame) == 40
    assert any("2 runs ended early" in note and "_step below max_steps" in note for note in runs.notes)
    assert len(load(table(max_steps=1000, _step=100)).frame) == 42  # the control: a count of something else


def test_an_exact_name_wins() -> None:
    """0.1.0 refused its own export: loss may be 'loss' or 'train_loss'."""
    runs = load(table(train_loss=1.0, val_loss=1.5))
    assert runs.frame["loss"].min() > 1.6
    assert "loss is the column of that name, not 'train_loss' or 'val_loss'" in runs.notes


@pytest.mark.parametrize(
    "names",
    [
        {"lr": "learning_rate", "params": "n_params", "tokens": "tokens", "loss": "eval/loss"},
        {"lr": "config.learning_rate", "params": "model/num_parameters", "tokens": "num_tokens", "loss": "eval_loss"},
        {"lr": "optimizer.learning_rate", "params": "parameter_count", "tokens": "throughput/total_tokens"},
        {"lr": "config/optimizer/learning_rate", "loss": "val/loss", "params": "params_total"},
        {"lr": "matrix_lr", "params": "num_scaling_params", "tokens": "tokens_trained", "loss": "val_loss"},
    ],
)
def test_names_of_trackers(names: dict[str, str]) -> None:
    runs = load(table().rename(columns=names))
    assert runs.fingerprint == load(table()).fingerprint


TRACKED = [
    ("train_batch_size", "max_steps", "max_length"),
    ("trainer.train_batch_size", "trainer.num_train_steps", "train_seq_len"),
    ("gbs", "iters", "block_size"),
]


@pytest.mark.parametrize(("batch", "steps", "length"), TRACKED)
def test_tokens_from_steps_batch_and_length(batch: str, steps: str, length: str) -> None:
    frame = table().assign(**{batch: 256, length: 2048})
    frame[steps] = (frame["tokens"] / (256 * 2048)).astype(int)
    without = frame.drop(columns="tokens")
    runs = load(without)
    assert runs.frame["tokens"].to_numpy() == pytest.approx(table()["tokens"].to_numpy(), rel=1e-3)
    assert set(runs.frame["batch"]) == {256 * 2048.0} and runs.conditions["sequence length"] == 2048
    said = load(without.drop(columns=length), columns={"tokens": f"{steps}*{batch}*2048", "batch": f"{batch}*2048"})
    assert said.fingerprint == runs.fingerprint
    implied = load(frame.drop(columns=length))  # tokens / (steps x batch) says it
    assert set(implied.frame["batch"]) == {256 * 2048.0}
    with pytest.raises(InputError, match="unit of the batch column .* cannot be guessed: give --batch-unit"):
        load(without.drop(columns=length))


@pytest.mark.parametrize(
    ("frame", "given", "words"),
    [
        (table().assign(lr=lambda frame: frame["lr"] * 1e4), {}, r"lr=\d+.* is above 10: .*other units"),
        (table().assign(loss=lambda frame: np.exp(frame["loss"])), {}, "is it a perplexity"),
        (table().rename(columns={"params": "tokens", "tokens": "params"}), {}, "fewer tokens than parameters"),
        (table(loss=lambda one: one["loss"].where(one.index % 5 > 0, np.exp(one["loss"] + 1))), {}, "is it a perplex"),
        (table(tokens=lambda one: one["tokens"].where(one.index > 6, one["tokens"] / 1e3)), {}, "100 times off"),
        (table(bs=128), {"batch_unit": "tokens"}, "batch=128 with tokens=.* less than a sequence"),
        (table(bs=2.0**17), {"batch_unit": "sequences:1024"}, r"batch=1.34\d+e\+08 .* fewer than 20 updates"),
        (table(bs=0.25), {"batch_unit": "sequences:1024"}, "less than a sequence"),
    ],
)
def test_units_that_cannot_be_are_asked_about(frame: pd.DataFrame, given: dict[str, str], words: str) -> None:
    if words == "is it a perplexity":
        frame["loss"] += 8.0
    with pytest.raises(InputError, match=words) as told:
        load(frame, batch_unit=given.get("batch_unit"))
    assert "--as-is" in str(told.value) and "\n" not in str(told.value)
    assert len(load(frame, batch_unit=given.get("batch_unit"), as_is=True).frame) == 42


def test_a_perplexity_is_a_logarithm_away() -> None:
    frame = table().assign(val_ppl=lambda one: np.exp(one["loss"])).drop(columns="loss")
    with pytest.raises(
        InputError, match=r"no column for loss; of a perplexity.*--columns 'loss=log\(val_ppl\)'"
    ) as told:
        load(frame)
    pasted = shlex.split(str(told.value).rpartition("--columns ")[2])[0]
    runs = load(frame, columns=options.columns(pasted))
    np.testing.assert_allclose(runs.frame["loss"], table()["loss"])


@pytest.mark.parametrize("name", ["smooth loss", "loss (final)", "the 'last' loss", "$loss", "loss*2"])
def test_what_is_suggested_works_when_pasted(name: str) -> None:
    frame = table().rename(columns={"loss": name}).assign(State="finished", lossy="text")
    if name in ("smooth loss", "$loss"):  # names that are known
        runs = load(frame)
    else:
        with pytest.raises(InputError, match="no column for loss") as told:
            load(frame)
        assert "lossy" not in str(told.value).split("it has")[0]  # a text is no loss
        words = str(told.value).partition("as in --columns ")[2].rpartition("; it has")[0]
        runs = load(frame, columns=options.columns(shlex.split(words)[0]))
    np.testing.assert_array_equal(runs.frame["loss"], table()["loss"])


def test_hints_offer_numbers_that_could_be_right() -> None:
    frame = table().drop(columns="tokens").assign(State="finished", tokens_per="few", tokenz=-1.0)
    with pytest.raises(InputError, match="no column for tokens") as told:
        load(frame)
    assert "is it" not in str(told.value) and "tokens=State" not in str(told.value)
    with pytest.raises(InputError, match=r"is it 'tokenz'\?"):  # the control
        load(frame.assign(tokenz=1e9))


def test_a_condition_of_ones_own_table_is_told() -> None:
    found = load(table(**{"config.lr_scheduler_type": "cosine", "max_grad_norm": 1.0, "warmup_steps": 100})).conditions
    assert found == {"schedule": "cosine", "clip": 1.0, "warm-up": 100}


def test_a_condition_that_goes_with_the_size_is_told() -> None:
    frame = table(optimizer=lambda one: np.where(one["params"] < 3e8, "adamw", "muon"))
    runs = load(frame)
    assert any(note.startswith("optimizer differs between runs (adamw, muon)") for note in runs.notes)
    assert "optimizer" not in runs.conditions
    assert not any("differs" in note for note in load(table(optimizer="adamw")).notes)  # the control


def test_bits_per_byte_are_told() -> None:
    for name in ("val_bpb", "bits_per_byte", "eval/Bits per byte"):
        runs = load(table().rename(columns={"loss": name}))
        assert any("bits per byte, not nats" in note for note in runs.notes)
    with pytest.raises(InputError, match="no column for loss"):  # the control
        load(table().rename(columns={"loss": "bytes_per_bit"}))
    both = table().rename(columns={"loss": "val_bpb"}).assign(val_loss=table()["loss"] + 1)
    assert load(both).frame["loss"].equals(table()["loss"] + 1)  # a loss in nats wins


@pytest.mark.parametrize("nested", [False, True])
def test_json_lines(tmp_path: Path, nested: bool) -> None:
    rows = table().to_dict("records")
    if nested:
        rows = [{"config": {"lr": one.pop("lr")}, **one} for one in rows]
    lines = "\n".join(json.dumps(one) for one in rows)
    wanted = load(table()).fingerprint
    assert load(written(tmp_path, lines, "runs.jsonl")).fingerprint == wanted
    assert load(written(tmp_path, json.dumps(rows), "runs.json")).fingerprint == wanted
    assert load(written(tmp_path, lines + "\n\n", "runs.csv")).fingerprint == wanted
    broken = lines.replace("{", "", 1).split("\n")
    with pytest.raises(InputError, match="runs.jsonl is not a CSV table, and no JSON lines .line 2"):
        load(written(tmp_path, "\n".join([broken[1], broken[0], *broken[2:]]), "runs.jsonl"))
    without = [{name: value for name, value in one.items() if name != "loss"} for one in rows[:1]] + rows[1:]
    runs = load(written(tmp_path, "\n".join(map(json.dumps, without)), "runs.jsonl"))
    assert len(runs.frame) == 41 and any("without a loss left out (line 1)" in note for note in runs.notes)


@pytest.mark.parametrize(
    "form",
    ["# from our cluster, 2026\n{}", "sep=;\n{}", "# lr*, N and D\n\n# and more\n{}", "#{}", "# {}"],
)
def test_comments_and_separators(tmp_path: Path, form: str) -> None:
    text = table().to_csv(index=False, sep=";" if form.startswith("sep") else ",")
    path = written(
        tmp_path, form.format(text).replace("\n", "\n# a comment between\n", 1) if "more" in form else form.format(text)
    )
    assert load(path).fingerprint == load(table()).fingerprint
    place = next(n for n, line in enumerate(path.read_text().split("\n"), start=1) if line.startswith("0.000125"))
    lines = path.read_text().split("\n")
    lines[place - 1] = "x" + lines[place - 1]
    with pytest.raises(InputError, match=f"line {place}: lr='x0.000125' is not a number"):
        load(written(tmp_path, "\n".join(lines)))


def test_decimal_commas(tmp_path: Path) -> None:
    text = table().to_csv(index=False, sep=";", decimal=",")
    assert load(written(tmp_path, text)).fingerprint == load(table()).fingerprint


def test_names_that_differ_in_values_are_refused(shared: Path) -> None:
    with pytest.raises(InputError, match="two columns of one name, 'loss', that differ"):
        load(shared.parent / "cases" / "laws" / "two_loss_columns.csv")


def test_the_cases(shared: Path) -> None:
    """Smallest inputs on which 0.1.0 failed."""
    cases = shared.parent / "cases" / "laws"
    with pytest.raises(InputError, match=r"14 settings repeat and differ in 'model'"):
        load(cases / "two_models_one_size.csv")
    for model, at in (("a", 1e-3), ("b", 4e-3)):
        found = find_optima(load(cases / "two_models_one_size.csv", where={"model": model}))
        assert found["lr"].to_numpy() == pytest.approx(at, rel=0.03)
    with pytest.raises(InputError, match="no row has lr: fill"):
        load(cases / "empty_lr_column.csv")
    assert len(load(cases / "three_rows.jsonl", require=LOSS_LAW).frame) == 3
    runs = load(cases / "wandb_tokens.csv", columns={"loss": "eval/loss"})
    assert runs.frame.groupby(["params", "tokens"]).ngroups == 15
    assert [note for note in runs.notes if "within 2 %" in note] == [
        "38 token counts within 2 % of each other count as 15"
    ]
    state = find_optima(load(cases / "state_column.csv"))["quality"].value_counts().to_dict()
    assert state == {"interior": 6, "edge-high": 3}
    with pytest.raises(InputError, match=r"0\.1 counts as too high \(1\.411 > 1\.103 \+ 0\.3\): run 0\.015, 0\.0424"):
        fit(load(cases / "seven_rates_too_few.csv"), "lr", draws=0)
    repeats = fit(load(cases / "repeats_in_one_cell.csv"), "lr", draws=0)
    assert repeats.optima and len(repeats.optima.interior) == 9
    assert "repeats in 1 of 9 cells have one of 0.0379" in repeats.optima.noise


def test_a_law_as_large_as_its_cells_is_refused() -> None:
    frame = table()[lambda one: one["params"] < 3e8]
    few = frame[~((frame["params"] > 1.5e8) & (frame["tokens"] > 5e9))]
    with pytest.raises(
        InputError, match=r"3 optima, 0 bounds, as many coefficients as cells .*the optima: 0.001"
    ) as told:
        fit(load(few), "lr", draws=0)
    assert "\n" not in str(told.value)
    assert fit(load(frame), "lr", draws=0).law.lr  # the control: a cell more
    with pytest.raises(InputError, match="5 usable rows .* 5 numbers"):
        fit(load(table().drop(columns="lr").iloc[::8].iloc[:5], require=LOSS_LAW), "loss", draws=0)


def test_a_law_prints_in_lines() -> None:
    """0.1.0: repr of a fit was 90,401 characters."""
    found = fit(load(table()), "lr", draws=200)
    assert len(repr(found)) < 300 and "params^-0.5" in repr(found)
    assert found.law.lr and len(repr(found.law.lr)) < 200
