"""Configurations reject what cannot be, and say so in one line that names the value and the remedy."""

import dataclasses
import re
from typing import Any

import pytest
from conftest import resolve

from lab.config import ExecConfig, ModelConfig, RunConfig, ScheduleConfig
from lab.override import apply, parse

# (overrides on the tiny base run, what the line must say)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"model.widht": 64}, r"unknown setting model\.widht \(did you mean model\.width\?\)"),
    ({"optim.lr": 0.1}, r"unknown setting optim\.lr \(did you mean optimizer\.lr\?\)"),
    ({"learning_rate": 0.1}, r"unknown setting learning_rate"),
    ({"model.width": 64.5}, r"model\.width=64\.5 is not a whole number"),
    ({"model.width": "wide"}, r"model\.width='wide' is not a whole number"),
    ({"model.width": True}, r"model\.width=True is not a whole number"),
    ({"model.width": 0}, r"model\.width=0 is not above 0"),
    ({"model.width": -16}, r"model\.width=-16 is not above 0"),
    ({"model.depth": 0}, r"model\.depth=0 is not above 0"),
    ({"model.width": 20}, r"model\.head_dim=8 does not divide model\.width=20: use width 16 or 24"),
    ({"model.heads": 3}, r"model\.heads=3 does not divide model\.width=16: use one of 1, 2, 4, 8, 16"),
    ({"model.heads": 3, "model.head_dim": 8}, r"model\.heads=3 does not divide model\.width=16"),
    ({"model.heads": 4, "model.head_dim": 8}, r"model\.heads=4 x model\.head_dim=8 is not model\.width=16"),
    ({"model.kv_heads": 3}, r"model\.kv_heads=3 does not divide model\.heads=2: use one of 1, 2"),
    ({"model.kv_heads": 4}, r"model\.kv_heads=4 does not divide model\.heads=2"),
    ({"model.heads": 16}, r"model\.head_dim=1 is odd, and model\.position=rope rotates pairs"),
    ({"model.norm": "batchnorm"}, r"model\.norm=batchnorm is not one of layernorm, rmsnorm \(did you mean"),
    ({"model.placement": "before"}, r"model\.placement=before is not one of pre, post"),
    ({"model.position": "alibi"}, r"model\.position=alibi is not one of learned, rope"),
    ({"model.mlp": "relu"}, r"model\.mlp=relu is not one of gelu, swiglu"),
    ({"model.mlp_width": 0}, r"model\.mlp_width=0 is not above 0"),
    ({"model.bias": 1}, r"model\.bias=1 is not true or false"),
    ({"model.vocab": 100}, r"model\.vocab=100 is below the 256 tokens of the tokenizer: set it to 256 or more"),
    ({"model.vocab": 1 << 30}, r"model\.vocab=1073741824 is above 1048576"),
    (
        {"parametrization.name": "MuP"},
        r"parametrization\.name=MuP is not one of sp_gpt2, .*u_mup \(did you mean mup\?\)",
    ),
    ({"parametrization.base_width": 0}, r"parametrization\.base_width=0 is not above 0"),
    ({"model.mlp_width": 41, "model.width": 64}, r"set parametrization\.base_mlp_width"),
    ({"model.kv_heads": 1, "model.width": 48}, r"set parametrization\.base_kv_width"),
    ({"optimizer.kind": "adamax"}, r"optimizer\.kind=adamax is not one of sgd, .*, lion \(did you mean adam"),
    ({"optimizer.lr": 0.0}, r"optimizer\.lr=0\.0 is not above 0"),
    ({"optimizer.lr": float("nan")}, r"optimizer\.lr=nan is not a finite number"),
    ({"optimizer.lr": float("inf")}, r"optimizer\.lr=inf is not a finite number"),
    ({"optimizer.lr": None}, r"optimizer\.lr=None is not a number"),
    ({"optimizer.weight_decay": -0.1}, r"optimizer\.weight_decay=-0\.1 is negative"),
    ({"optimizer.kind": "adam", "optimizer.weight_decay": 0.1}, r"plain Adam has no weight decay, use .*adamw"),
    ({"optimizer.beta2": 1.0}, r"optimizer\.beta2=1\.0 is not in \[0, 1\)"),
    ({"optimizer.clip": 0.0}, r"optimizer\.clip=0\.0 is not above 0"),
    (
        {"optimizer.decay": "decoupled"},
        r"optimizer\.decay=decoupled is not one of constant-eta-lambda, coupled, independent",
    ),
    ({"schedule.kind": "cosin"}, r"schedule\.kind=cosin is not one of .*\(did you mean cosine\?\)"),
    ({"schedule.steps": 0}, r"schedule\.steps=0 is not above 0"),
    ({"schedule.steps": 5}, r"warmup_steps=2 \+ schedule\.decay_steps=4 is longer than the run of 5 steps"),
    ({"schedule.warmup_fraction": 0.9}, r"is longer than the run of 12 steps: shorten them or raise"),
    ({"schedule.warmup_fraction": 10.0}, r"warmup_fraction=10\.0 is above 1: it is a fraction of the run"),
    ({"schedule.steps": 4, "schedule.tokens": 999}, r"schedule\.steps=4 and schedule\.tokens=999 are given together"),
    ({"schedule.tokens": 10}, r"schedule\.tokens=10 is less than one update of 64 tokens"),
    ({"schedule.kind": "cosine"}, r"schedule\.kind=cosine takes no decay length"),
    ({"schedule.decay_steps": None}, r"schedule\.kind=wsd needs one of schedule\.decay_steps"),
    ({"schedule.warmup_steps": -1}, r"schedule\.warmup_steps=-1 is negative"),
    ({"schedule.floor": 1.5}, r"schedule\.floor=1\.5 is not in \[0, 1\]"),
    ({"schedule.warmup_start": -0.1}, r"schedule\.warmup_start=-0\.1 is not in \[0, 1\]"),
    ({"schedule.decay_shape": "exp"}, r"schedule\.decay_shape=exp is not one of .*exponential"),
    ({"schedule.index": "huggingface"}, r"schedule\.index=huggingface is not one of lab, hf, torchtitan"),
    (
        {"schedule.kind": "inverse_sqrt", "schedule.decay_steps": None, "schedule.index": "torchtitan"},
        r"schedule\.index=torchtitan has no schedule\.kind=inverse_sqrt: use schedule\.index=lab or hf or megatron",
    ),
    (
        {"schedule.kind": "power", "schedule.index": "levanter"},
        r"index=levanter has no .*=power: use .*lab or dolomite",
    ),
    ({"schedule.kind": "power", "schedule.index": "dolomite"}, r"has no decay after schedule\.kind=power: use .*=lab"),
    ({"schedule.kind": "inverse_sqrt", "schedule.index": "megatron"}, r"no decay after schedule\.kind=inverse_sqrt"),
    (
        {"schedule.kind": "inverse_sqrt", "schedule.decay_steps": None, "schedule.index": "hf", "schedule.floor": 0.1},
        r"schedule\.floor=0\.1 with schedule\.kind=inverse_sqrt: schedule\.index=hf has no floor there, use 0",
    ),
    ({"schedule.power_coefficient": 0.0}, r"schedule\.power_coefficient=0\.0 is not above 0"),
    ({"schedule.power_exponent": 0.51}, r"schedule\.power_exponent=0\.51 is above 0: the rate would grow"),
    (
        {"schedule.kind": "one_cycle", "schedule.decay_steps": None, "schedule.warmup_shape": "sqrt"},
        r"schedule\.warmup_shape=sqrt with schedule\.kind=one_cycle: its rise is a cosine",
    ),
    ({"schedule.cycle_steps": (6,)}, r"schedule\.cycle_steps=6 with schedule\.kind=wsd: only wsd_s has cycles"),
    ({"schedule.kind": "wsd_s", "schedule.cycle_steps": (6, 6)}, r"end at updates 6, 6: the ends must rise"),
    ({"schedule.kind": "wsd_s", "schedule.cycle_steps": (0,)}, r"end at updates 0: the ends must rise, from 1 on"),
    ({"schedule.kind": "wsd_s", "schedule.cycle_steps": (12,)}, r"of 12 steps that end at updates 12: .* stay below"),
    (
        {"schedule.kind": "wsd_s", "schedule.cycle_steps": (5,)},
        r"the cycle of 5 steps that ends at update 5 is shorter than its warm-up of 2 and decay of 4",
    ),
    ({"schedule.kind": "wsd_s", "schedule.cycle_fractions": (0.5, 1.0)}, r"cycle_fractions=0\.5:1\.0 is not below 1"),
    (
        {"schedule.kind": "wsd_s", "schedule.cycle_steps": (6,), "schedule.cycle_tokens": (64,)},
        r"schedule\.cycle_steps=\(6,\) and schedule\.cycle_tokens=\(64,\) are given together",
    ),
    (
        {"schedule.kind": "wsd_s", "schedule.cycle_steps": (6,), "schedule.cycle_decays": (1, 2)},
        r"schedule\.cycle_decays has 2 lengths for 1 earlier cycles: give one for each, or none",
    ),
    ({"schedule.kind": "wsd_s", "schedule.cycle_steps": (1.5,)}, r"schedule\.cycle_steps\[0\]=1\.5 is not a whole"),
    ({"schedule.kind": "wsd_s", "schedule.cycle_steps": 6}, r"cycle_steps=6 is not a list, .*: write it as in 10:20"),
    ({"data.corpus": "python-stdlb"}, r"not one of python-stdlib, text:PATH, bin:PATH \(did you mean python-stdlib"),
    ({"data.corpus": "text:/no/such/place"}, r"data\.corpus=text:/no/such/place matches no file: check the path"),
    ({"data.corpus": "text:"}, r"data\.corpus=text: matches no file"),
    ({"data.tokenizer": "byte"}, r"neither bytes nor the path of a tokenizer\.json \(did you mean bytes\?\)"),
    ({"data.tokenizer": "missing.json"}, r"data\.tokenizer=missing\.json is not a file"),
    ({"data.validation_fraction": 0.0}, r"data\.validation_fraction=0\.0 is not between 0 and 1"),
    ({"data.fingerprint": "0123"}, r"the text has changed; use a new output folder or the old text"),
    ({"data.sequences": 0}, r"data\.sequences=0 is not above 0"),
    ({"evaluation.sequences": 1}, r"evaluation\.sequences=1: a standard error needs at least 2"),
    ({"dtype": "float16"}, r"dtype=float16 is not one of float32, bfloat16, float64 \(did you mean"),
    ({"seed": -1}, r"seed_init=-1 is not in \[0, 2\^31\)"),
    ({"seed": 2**40}, r"is not in \[0, 2\^31\)"),
]


@pytest.mark.parametrize(("changes", "line"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_bad_input_is_one_clear_line(base: RunConfig, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        resolve(base, **{name.replace(".", "__"): value for name, value in changes.items()})
    assert "\n" not in str(caught.value)


def test_the_table_of_bad_inputs_is_long_enough() -> None:
    assert len(BAD) >= 40


def test_the_base_run_is_good(base: RunConfig) -> None:
    resolve(base)


def test_steps_tokens_and_fractions_resolve_alike(base: RunConfig) -> None:
    exact = resolve(base, schedule__steps=10, schedule__warmup_steps=2, schedule__decay_steps=4)
    tokens = resolve(base, schedule__tokens=650, schedule__warmup_tokens=128, schedule__decay_tokens=256)
    fraction = resolve(base, schedule__steps=10, schedule__warmup_fraction=0.2, schedule__decay_fraction=0.4)
    assert exact == tokens == fraction


def test_resolving_twice_changes_nothing(base: RunConfig) -> None:
    once = resolve(base)
    assert resolve(once) == once


def test_setting_an_alternative_clears_the_others(base: RunConfig) -> None:
    changed = apply(base, {"schedule.tokens": 64_000, "model.heads": 4})
    assert (changed.schedule.steps, changed.schedule.tokens) == (None, 64_000)
    assert (changed.model.heads, changed.model.head_dim) == (4, None)


def test_whole_numbers_become_floats_where_floats_belong() -> None:
    changed = apply(RunConfig(), {"optimizer.weight_decay": 1})
    assert isinstance(changed.optimizer.weight_decay, float)


def test_a_power_or_inverse_square_root_run_may_do_without_a_decay(base: RunConfig) -> None:
    for kind in ("power", "inverse_sqrt"):
        assert resolve(base, schedule__kind=kind, schedule__decay_steps=None).schedule.decay_steps == 0


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().model.width = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("model.width", "64,128", [64, 128]),
        ("optimizer.lr", "2**-6,1e-3, 1", [2.0**-6, 1e-3, 1.0]),
        ("optimizer.clip", "none,1", [None, 1.0]),
        ("model.tied", "true,False", [True, False]),
        ("parametrization.name", "sp,mup", ["sp", "mup"]),
        ("seed", "0,1", [0, 1]),
        ("schedule.tokens", "1e6", [1_000_000]),
        ("schedule.cycle_steps", "10:20,30,none", [(10, 20), (30,), None]),
        ("schedule.cycle_fractions", "0.25:1e-1", [(0.25, 0.1)]),
    ],
)
def test_command_line_values(name: str, text: str, values: list[Any]) -> None:
    assert parse(name, text) == values


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("model.width", "64,", "model.width='' is not a whole number"),
        ("model.width", "", "model.width= has no value"),
        ("model.width", "1.5", "is not a whole number"),
        ("optimizer.lr", "fast", "optimizer.lr='fast' is not a number"),
        ("optimizer.lr", "__import__('os')", "is not a number"),
        ("model.tied", "maybe", "is not true or false"),
        ("schedule.cycle_steps", "10:x", "schedule.cycle_steps[1]='x' is not a whole number"),
        ("model.wdth", "1", "did you mean model.width"),
    ],
)
def test_bad_command_line_values(name: str, text: str, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        parse(name, text)


def test_lanes_come_in_powers_of_two() -> None:
    with pytest.raises(ValueError, match="exec.lanes=3 is not a power of two"):
        ExecConfig(lanes=3)


def test_defaults_stand_alone() -> None:
    assert ModelConfig().resolve(vocab=256).heads == 4
    assert ScheduleConfig(steps=10, decay_steps=2).resolve(1).warmup_steps == 0
