"""The batch that `lrlab train --law` trains, and what it warns of."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from law_cases import grid, planned, planted_laws

from lab import store
from lab.check import InputError
from lab.config import RunConfig
from lab.override import apply
from sweeps import final_run, law_rate
from sweeps.cli import main

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def config_file(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.json"
    changed = apply(base, {"schedule.steps": 16, "data.sequences": 8})
    path.write_text(json.dumps(dataclasses.asdict(changed)))
    return path


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return planted_laws(tmp_path_factory.mktemp("laws"))


@pytest.fixture
def one_batch(laws: dict[str, Path], tmp_path: Path) -> str:
    """A law whose runs all had 256 tokens per update."""
    data = json.loads(laws["lr"].read_text()) | {"fixed": {"batch": 256.0}}
    path = tmp_path / "one_batch.json"
    path.write_text(json.dumps(data))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "by_hand"),
    [
        ({"exec.accumulate": 32}, False),  # a multiple of 32 sequences
        ({"exec.mesh.fsdp": 32}, False),  # and one for every device
        ({"data.length": 24}, False),  # 10 or 11 sequences are 240 or 264 tokens
        ({"data.sequences": 17}, True),
    ],
)
def test_a_law_of_one_batch_trains_it_or_refuses_however_the_batch_came_about(
    one_batch: str, config_file: Path, tmp_path: Path, changes: dict[str, Any], by_hand: bool
) -> None:
    sweep = planned(config_file, {"schedule.tokens": 100_000} | changes)
    trained = 16 * 17 if by_hand else 24 * 11 if "data.length" in changes else 512
    with pytest.raises(InputError, match=rf"had batch=256, and this run has {trained} tokens per update"):
        final_run.with_law(sweep, tmp_path, one_batch, batch_by_hand=by_hand)


@pytest.mark.parametrize("changes", [{}, {"exec.accumulate": 4}, {"exec.mesh.fsdp": 8}, {"data.sequences": 16}])
def test_the_batch_that_is_trained_is_printed(
    one_batch: str, config_file: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    by_hand = "data.sequences" in changes
    sweep = planned(config_file, {"schedule.tokens": 100_000} | changes)
    (config,), rate = final_run.with_law(sweep, tmp_path, one_batch, batch_by_hand=by_hand)
    assert config.data.tokens_per_step == 256
    line = "trained batch  256 tokens per update: 16 sequences of 16"
    assert line in rate.lines
    (tmp_path / law_rate.FILE).write_bytes(store.pretty(rate.record))
    assert line in final_run.with_law(sweep, tmp_path, one_batch, batch_by_hand=by_hand)[1].lines


def test_a_rounding_that_changes_a_laws_batch_by_half_is_refused(
    laws: dict[str, Path], config_file: Path, tmp_path: Path
) -> None:
    """The law's own batch is 353 tokens, and its rate follows the batch; 22 sequences, and 256 are another batch."""
    law, tokens = str(laws["lr+batch"]), {"schedule.tokens": 100_000}
    (config,), rate = final_run.with_law(planned(config_file, tokens), tmp_path, law, batch_by_hand=False)
    assert f"trained batch  {config.data.tokens_per_step} tokens per update" in "\n".join(rate.lines)
    words = r"asks for batch=3\d\d\.?\d*, and this run has 4096.*or set data\.sequences by hand"
    sweep = planned(config_file, tokens | {"exec.accumulate": 256})
    with pytest.raises(InputError, match=words):
        final_run.with_law(sweep, tmp_path, law, batch_by_hand=False)


@pytest.mark.parametrize("law", ["lr", "lr at batches"])
def test_a_law_that_is_told_the_batch_is_told_the_one_that_is_trained(
    laws: dict[str, Path], config_file: Path, tmp_path: Path, law: str
) -> None:
    """A law of the rate at a given batch does not set it, whatever the batch is a multiple of."""
    path = laws["lr"]
    if law == "lr at batches":
        path = tmp_path / "at_batches.json"
        grid().to_csv(tmp_path / "runs.csv", index=False, float_format="%.17g")
        words = ["--law", "lr", "--batch-rule", "fixed", "--draws", "0", "--out", str(path)]
        assert main(["fit", str(tmp_path / "runs.csv"), *words]) == 0
    sweep = planned(config_file, {"schedule.tokens": 100_000, "exec.accumulate": 32})
    (config,), rate = final_run.with_law(sweep, tmp_path, str(path), batch_by_hand=False)
    assert config.data.sequences == 8
    told = rate.record["prediction"]["inputs"]
    assert told.get("batch", 128) == 128 and (law == "lr") == ("batch" not in told)


@pytest.mark.parametrize(
    ("told", "changes", "warned"),
    [
        ("0.2 of the run", {"schedule.steps": 37, "schedule.decay_steps": 7}, False),  # 7.4 updates are 7
        ("0.2 of the run", {"schedule.steps": 37, "schedule.decay_steps": 9}, True),
        ("1000 tokens", {"schedule.decay_steps": 8}, False),  # 8 updates of 128
        ("1000 tokens", {"schedule.decay_steps": 10}, True),
        ("4 updates", {"schedule.decay_steps": 5}, True),
    ],
)
def test_rounding_to_whole_updates_is_no_other_condition(
    laws: dict[str, Path], config_file: Path, tmp_path: Path, told: str, changes: dict[str, Any], warned: bool
) -> None:
    data = json.loads(laws["lr"].read_text())
    data["conditions"] = {"params": "N non-embedding", "decay": told}
    law = tmp_path / "law.json"
    law.write_text(json.dumps(data))
    (config,) = planned(config_file, changes)
    lines = law_rate.ask(str(law), config, batch_by_hand=False, rows=1).record["warnings"]
    assert [f"had decay {told}" in line for line in lines] == [True] * warned
