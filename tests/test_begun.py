"""Stores of 0.1.0 stay what they are: what goes on there trains on the split that it was begun with."""

import json
from pathlib import Path

import pytest

from lab import corpus, store
from lab.check import InputError
from lab.config import DataConfig, RunConfig
from lab.override import apply
from sweeps import begun, final_run
from sweeps.sweep import Sweep, axis, resolved

pytestmark = pytest.mark.host


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Forty texts, each with a copy that has one more newline."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        lines = "".join(f"text {number} has its line {line} of {number * line}\n" for line in range(40))
        (folder / f"{number}.txt").write_text(lines)
        (folder / f"copy-{number}.txt").write_text(lines + "\n")
    return folder


def sweep(base: RunConfig, texts: Path) -> Sweep:
    config = apply(base, {"data.corpus": f"text:{texts}"})
    return Sweep("begun", "?", "none", "none", config, axis("optimizer.lr", 0.01, 0.02))


def old_store(root: Path, made: Sweep) -> list[str]:
    """A store as 0.1.0 wrote it, before its runs were trained."""
    data = made.base.data
    first = corpus._load(data.corpus, data.tokenizer, data.validation_fraction, corpus.FIRST)
    configs = [config.resolve(vocab=first.vocab, fingerprint=first.fingerprint) for config in made]
    runs = resolved(made, begun={(data.corpus, data.tokenizer, data.validation_fraction): {first.fingerprint}})
    assert [run.config for run in runs] == configs
    for run in runs:
        store.write_config(root, run.run_id, run.config)
    said = {"name": made.name, "question": "?", "base": "", "axes": ["optimizer.lr"], "optimum_axes": ["optimizer.lr"]}
    (root / "sweep.json").write_text(json.dumps(said | {"runs": {run.run_id: run.point for run in runs}}))
    return [run.run_id for run in runs]


def test_a_store_goes_on_with_the_split_that_it_was_begun_with(base: RunConfig, texts: Path, tmp_path: Path) -> None:
    made = sweep(base, texts)
    old = old_store(tmp_path / "old", made)
    assert [run.run_id for run in resolved(made, begun=begun.corpora(tmp_path / "old"))] == old
    fresh = resolved(made, begun=begun.corpora(tmp_path / "new"))
    assert not {run.run_id for run in fresh} & set(old)  # the control: today's split is another corpus
    text = corpus.load(resolved(made, begun=begun.corpora(tmp_path / "old"))[0].config.data)
    assert text.overlap.share > 0.5 > 0.01 > corpus.load(fresh[0].config.data).overlap.share
    (tmp_path / "old" / "sweep.json").unlink()  # as the remedy of a damaged one says
    assert [run.run_id for run in resolved(made, begun=begun.corpora(tmp_path / "old"))] == old
    lines = corpus.described(resolved(made, begun=begun.corpora(tmp_path / "old"))[0].config.data)
    assert any("the split of 0.1.0" in line for line in lines)


def test_a_text_that_has_changed_is_one_line(base: RunConfig, texts: Path, tmp_path: Path) -> None:
    made = sweep(base, texts)
    old_store(tmp_path / "old", made)
    (texts / "1.txt").write_text("another text\n")
    corpus._load.cache_clear()
    with pytest.raises(InputError, match="the text has changed; use a new output folder or the old text"):
        resolved(made, begun=begun.corpora(tmp_path / "old"))
    assert resolved(made, begun=begun.corpora(tmp_path / "new"))


def test_a_configuration_that_states_a_fingerprint_gets_its_split(texts: Path) -> None:
    """As `lrlab sharpness` and a resolved configuration for `lrlab train` do."""
    corpus._load.cache_clear()
    now = corpus.load(DataConfig(corpus=f"text:{texts}"))
    first = corpus._load(f"text:{texts}", "bytes", 0.05, corpus.FIRST)
    assert now.fingerprint != first.fingerprint
    assert corpus.load(DataConfig(corpus=f"text:{texts}", fingerprint=first.fingerprint)) is first
    assert corpus.load(DataConfig(corpus=f"text:{texts}", fingerprint=now.fingerprint)) is now
    with pytest.raises(InputError, match=r"data\.fingerprint=0{16} but data\.corpus=.* now has"):
        corpus.load(DataConfig(corpus=f"text:{texts}", fingerprint="0" * 16))


def test_a_final_run_goes_on_with_its_split(base: RunConfig, texts: Path, tmp_path: Path) -> None:
    made = sweep(base, texts)
    (old, _) = old_store(tmp_path / "old", made)
    one = Sweep(final_run.NAME, "?", "none", "none", made.base, axis("optimizer.lr", 0.01))
    settled = final_run._settled(one, tmp_path / "old")
    assert [run.run_id for run in resolved(settled)] == [old]
    assert [run.run_id for run in resolved(final_run._settled(one, tmp_path / "new"))] != [old]
