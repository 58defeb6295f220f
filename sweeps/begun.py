"""The corpora that a store was begun with: what goes on there trains and validates on the same texts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lab import corpus, group, store
from lab.check import InputError
from lab.config import DataConfig

Begun = Mapping[tuple[str, str, float], Collection[str]]  # fingerprints, by corpus, tokenizer and fraction
NOTHING: Begun = MappingProxyType({})


def corpora(root: Path) -> Begun:
    """The fingerprints that the runs of a store have, by what their text was read from; empty for a new store."""
    found: dict[tuple[str, str, float], set[str]] = {}
    for name, tokenizer, fraction, fingerprint in group.agreed(lambda: _stated(root)):
        found.setdefault((name, tokenizer, fraction), set()).add(fingerprint)
    return found


def load(config: DataConfig, begun: Begun) -> corpus.Corpus:
    """The corpus of a configuration, as the store was begun with it.

    Raises:
        InputError: as `lab.corpus.load`.
    """
    return corpus.load(config, begun.get((config.corpus, config.tokenizer, config.validation_fraction), ()))


def _stated(root: Path) -> list[list[Any]]:
    found = set()
    for run_id in _runs(root):
        try:
            data = store.read_config(root, run_id)["data"]
            found.add((data["corpus"], data["tokenizer"], float(data["validation_fraction"]), data["fingerprint"]))
        except (InputError, KeyError, TypeError, ValueError):
            continue  # whoever needs this run says what is wrong with it
    return [list(row) for row in sorted(found)]


def _runs(root: Path) -> list[str]:
    """The runs of a store; where its sweep.json was deleted, those that have a folder."""
    if (root / "sweep.json").is_file():
        return list(store.read_sweep(root)["runs"])
    folder = root / "runs"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
