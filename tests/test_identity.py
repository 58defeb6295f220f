"""Identity: what changes numbers is hashed, what does not is not, and new fields keep old ids."""

import dataclasses
import json

import pytest
from conftest import resolve

from lab.config import RunConfig
from lab.config.field import added
from lab.identity import canonical_json, digest, from_dict, run_id

pytestmark = pytest.mark.host


def test_canonical_json_round_trips(base: RunConfig) -> None:
    run = resolve(base)
    again = from_dict(RunConfig, json.loads(json.dumps(dataclasses.asdict(run))))
    assert again == run
    assert run_id(again) == run_id(run)


def test_cycles_round_trip_and_are_tuples_again(base: RunConfig) -> None:
    run = resolve(base, schedule__kind="wsd_s", schedule__cycle_steps=(6,), schedule__decay_fraction=0.4)
    again = from_dict(RunConfig, json.loads(json.dumps(dataclasses.asdict(run))))
    assert again == run
    assert again.schedule.cycle_steps == (6,)
    assert again.schedule.cycle_decays == (2,)
    assert run_id(again) == run_id(run)
    assert '"cycle_decays":[2],"cycle_steps":[6]' in canonical_json(run)
    in_tokens = resolve(base, schedule__kind="wsd_s", schedule__cycle_tokens=(6 * 64,), schedule__decay_fraction=0.4)
    assert run_id(in_tokens) == run_id(run)


def test_run_id_is_pinned() -> None:
    """A change of this id means that old records are lost: add fields with `identity.added` instead."""
    run = RunConfig().resolve(vocab=256, fingerprint="0" * 16)
    assert run_id(run) == "f35d0d5efe3b"


def test_every_hashed_field_changes_the_id(base: RunConfig) -> None:
    run = resolve(base)
    changes = {
        "model__width": 32,
        "model__norm": "layernorm",
        "optimizer__lr": 0.1,
        "optimizer__weight_decay": 0.1,
        "optimizer__kind": "lion",
        "parametrization__ablate": "hidden.lr",
        "parametrization__alignment": "none",
        "parametrization__name": "sp",
        "schedule__decay_steps": 3,
        "schedule__decay_shape": "exponential",
        "schedule__index": "hf",
        "schedule__warmup_shape": "cosine",
        "schedule__warmup_start": 0.5,
        "schedule__kind": "power",
        "data__length": 8,
        "evaluation__sequences": 8,
        "dtype": "float64",
        "seed_init": 1,
        "seed_data": 1,
    }
    ids = {run_id(resolve(base, **{name: value})) for name, value in changes.items()}
    assert len(ids | {run_id(run)}) == len(changes) + 1


def test_a_corpus_is_its_fingerprint_and_not_its_path(base: RunConfig) -> None:
    run = resolve(base)
    moved = dataclasses.replace(run, data=dataclasses.replace(run.data, corpus="text:/elsewhere"))
    assert run_id(moved) == run_id(run)
    other = dataclasses.replace(run, data=dataclasses.replace(run.data, fingerprint="other"))
    assert run_id(other) != run_id(run)


def test_an_unresolved_run_has_no_id(base: RunConfig) -> None:
    with pytest.raises(ValueError, match="resolved configuration"):
        run_id(base)


@dataclasses.dataclass(frozen=True)
class Before:
    width: int = 8


@dataclasses.dataclass(frozen=True)
class After:
    width: int = 8
    gate: bool = added(schema=2, frozen=False)


@dataclasses.dataclass(frozen=True)
class Careless:
    width: int = 8
    gate: bool = False


def test_a_field_added_with_the_old_behaviour_keeps_old_ids() -> None:
    assert digest(canonical_json(After())) == digest(canonical_json(Before()))
    assert digest(canonical_json(After(gate=True))) != digest(canonical_json(Before()))
    assert digest(canonical_json(Careless())) != digest(canonical_json(Before()))


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown field model\.widht \(did you mean model\.width\?\)"):
        from_dict(RunConfig, {"model": {"widht": 3}})
