"""The table of rules: worked vectors, base identity, choices of alignment, decay, depth, horizon, tying, ablation."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import job_of, resolve, trained

from lab import train
from lab.config import RunConfig
from lab.model import leaves
from lab.parametrization import TABLE, names
from lab.role import Role
from lab.scale import Factors, Scales, betas, scales, setting_of

pytestmark = pytest.mark.stack

VARIANTS = [
    {},
    {"model__norm": "layernorm", "model__bias": True, "model__position": "learned"},
    {"model__mlp": "swiglu", "model__qk_norm": True, "model__kv_heads": 1, "parametrization__base_kv_width": 8},
    {"model__tied": True},
    {"model__placement": "post", "model__bias": True, "model__mlp": "swiglu"},
]
RELATIVE = [name for name in TABLE if not TABLE[name].absolute]
E, H, R, N, B = (
    "embedding/token",
    "blocks/mlp/up/kernel",
    "readout/kernel",
    "final_norm/gain",
    "blocks/mlp/up/bias",
)


def found(base: RunConfig, name: str, **changes: object) -> Scales:
    """Scales at m = 4: width 64 over 16."""
    settings = {"model__width": 64, "model__bias": True, "optimizer__weight_decay": 0.1} | changes
    run = resolve(base, parametrization__name=name, **settings)
    return scales(run, leaves(run))


def vector(factors: Factors) -> tuple[float, ...]:
    return (factors.init, factors.forward, factors.lr, factors.weight_decay, factors.eps)


# Full alignment, eta * lambda constant, AdamW: (std, multiplier, rate, decay, eps) of embedding, hidden, readout.
WORKED = {
    "mup": ((1, 1, 1, 1, 1 / 4), (1 / 2, 1, 1 / 4, 4, 1 / 4), (1, 1 / 4, 1, 1, 1 / 4)),
    "mup_table3": ((1, 1, 1, 1, 1 / 4), (1 / 2, 1, 1 / 4, 4, 1 / 4), (1 / 4, 1, 1 / 4, 4, 1)),
    "mup_tp4": ((1 / 2, 2, 1 / 2, 2, 1 / 2), (1 / 2, 1, 1 / 4, 4, 1 / 4), (1 / 2, 1 / 2, 1 / 2, 2, 1 / 2)),
    "mean_field": ((1, 1, 1, 1, 1 / 4), (1, 1 / 2, 1 / 2, 2, 1 / 8), (1, 1 / 4, 1, 1, 1 / 4)),
    "sp_per_layer": ((1, 1, 1, 1, 1 / 2), (1 / 2, 1, 1 / 4, 4, 1 / 2), (1 / 2, 1, 1 / 4, 4, 1)),
    "ntk": ((1, 1, 1, 1, 1 / 2), (1, 1 / 2, 1 / 2, 2, 1 / 4), (1, 1 / 2, 1 / 2, 2, 1 / 2)),
    "sp": ((1, 1, 1, 1, 1), (1 / 2, 1, 1, 1, 1), (1 / 2, 1, 1, 1, 1)),
    "sp_gpt2": ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", WORKED)
def test_worked_vector_at_four_times_the_width(base: RunConfig, name: str) -> None:
    table = found(base, name).factors
    assert tuple(vector(table[path]) for path in (E, H, R)) == WORKED[name]
    eps = {"mup": 1 / 4, "mup_table3": 1 / 4, "mup_tp4": 1 / 4, "mean_field": 1 / 4}.get(name)
    eps = eps or (1 / 2 if name in ("sp_per_layer", "ntk") else 1)
    assert vector(table[N]) == vector(table[B]) == (1, 1, 1, 0, eps)


# SGD: rates of embedding, gain, hidden, readout at m = 4 under full and no alignment, as powers of 4.
SGD = {
    "sp_per_layer": ((1 / 2, 1 / 2, -1 / 2, -1), (1 / 2, 1 / 2, 0, -1 / 2)),
    "ntk": ((1 / 2, 1 / 2, 1 / 2, 0), (1 / 2, 1 / 2, 1, 1 / 2)),
    "mup": ((1, 1, 0, 1), (1, 1, 1 / 2, 1)),
    "mup_table3": ((1, 1, 0, -1), (1, 1, 1 / 2, -1)),
    "mup_tp4": ((0, 1, 0, 0), (0, 1, 1 / 2, 0)),
    "mean_field": ((1, 1, 1, 1), (1, 1, 3 / 2, 1)),
}


@pytest.mark.parametrize("name", SGD)
def test_sgd_rates_at_four_times_the_width(base: RunConfig, name: str) -> None:
    for alignment, expected in zip(("full", "none"), SGD[name], strict=True):
        table = found(base, name, optimizer__kind="sgd", parametrization__alignment=alignment).factors
        assert tuple(table[path].lr for path in (E, N, H, R)) == tuple(4.0**e for e in expected)
        assert {table[path].eps for path in table} == {1.0}


def test_sgd_hidden_rate_follows_the_ratio_of_both_fans(base: RunConfig) -> None:
    """MuSGD: fan-out ratio over fan-in ratio; here 1 / 4 into the MLP of fixed width and 4 / 1 out of it."""
    table = found(base, "mup", optimizer__kind="sgd", model__mlp_width=64, parametrization__base_mlp_width=64).factors
    assert (table[H].lr, table["blocks/mlp/down/kernel"].lr) == (1 / 4, 4)


# Muon: rate of hidden matrices at m = 4; everything else is Adam's.
@pytest.mark.parametrize(
    ("name", "scale", "rate"),
    [
        ("mup", "keller", 1),
        ("mup", "spectral", 1),
        ("mup", "moonlight", 1 / 2),
        ("sp_per_layer", "moonlight", 1 / 2),
        ("ntk", "keller", 2),
        ("mean_field", "moonlight", 1),
        ("sp", "moonlight", 1),
    ],
)
def test_muon_rates(base: RunConfig, name: str, scale: str, rate: float) -> None:
    table = found(base, name, optimizer__kind="muon", optimizer__muon_scale=scale, optimizer__adam_ratio=0.5).factors
    adam = found(base, name).factors
    assert table[H].lr == rate
    assert table[H].eps == 1
    assert all(table[path].lr == adam[path].lr / 2 for path in (E, R, N, B))


def test_lion_has_adams_rates_and_no_eps(base: RunConfig) -> None:
    lion, adam = (found(base, "mup", optimizer__kind=kind).factors for kind in ("lion", "adamw"))
    assert {path: factors.lr for path, factors in lion.items()} == {path: f.lr for path, f in adam.items()}
    assert {factors.eps for factors in lion.values()} == {1.0}


def test_u_mup_is_absolute_and_differs_from_mean_field_in_the_embedding_rate_alone(base: RunConfig) -> None:
    """With base dimensions of 1 and the embedding's rule off, u-muP's rows are mean field's (a form of muP)."""
    u_mup = found(base, "u_mup", parametrization__zero_readout=False)
    assert vector(u_mup.factors[H])[:3] == (1, 64**-0.5, 64**-0.5)
    assert vector(u_mup.factors[R])[:3] == (1, 1 / 64, 1)
    assert u_mup.factors[E].lr == 64**-0.5
    assert u_mup.attention == pytest.approx(1 / 8)
    assert u_mup.init_std[H] == u_mup.init_std[E] == u_mup.init_std[R] == 1
    ablated = found(base, "u_mup", parametrization__ablate="embedding.lr").factors
    mean_field = found(
        base,
        "mean_field",
        parametrization__base_width=1,
        parametrization__base_mlp_width=1,
        parametrization__base_kv_width=1,
        parametrization__base_head_dim=1,
    ).factors
    assert ablated == mean_field


@pytest.mark.parametrize("kind", ["sgd", "adafactor"])
def test_u_mup_refuses_optimizers_that_it_has_no_rates_for(base: RunConfig, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"optimizer.kind={kind} has no rates under parametrization.name=u_mup"):
        found(base, "u_mup", optimizer__kind=kind)


@pytest.mark.parametrize("name", ["sp", "sp_gpt2", "u_mup"])
def test_alignments_that_do_not_apply_are_refused(base: RunConfig, name: str) -> None:
    with pytest.raises(ValueError, match=rf"alignment=none does not apply to parametrization.name={name}"):
        found(base, name, parametrization__alignment="none")


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor", "lion", "muon"])
def test_everything_is_one_at_the_base_shape(base: RunConfig, name: str, kind: str) -> None:
    rules = {"parametrization__depth": "complete", "parametrization__base_depth": 2}
    for alignment in TABLE[name].alignments:
        table = found(base, name, model__width=16, optimizer__kind=kind, parametrization__alignment=alignment, **rules)
        for path, factors in table.factors.items():
            decayed = 0 if path.endswith(("bias", "gain")) else 1
            assert vector(factors) == (1, 1, 1, decayed, 1)
        assert table.attention == 8**-0.5
        assert table.logits == 1.0


@pytest.mark.exact
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_at_base_width_all_are_one_model_bitwise_and_not_elsewhere(base: RunConfig, kind: str) -> None:
    def losses(width: int) -> np.ndarray:
        runs = [
            resolve(
                base,
                parametrization__name=name,
                parametrization__zero_readout=False,
                model__width=width,
                optimizer__kind=kind,
                optimizer__weight_decay=0.1,
            )
            for name in RELATIVE
        ]
        return np.concatenate([trained(runs[:4])[1].loss, trained(runs[4:])[1].loss], axis=1)

    same, other = losses(16), losses(32)
    assert (same == same[:, :1]).all()
    assert np.abs(other[:, RELATIVE.index("sp")] - other[:, RELATIVE.index("mup")]).max() > 1e-4


def test_attention_scale_with_a_growing_head_dimension(base: RunConfig) -> None:
    def attention(name: str, **changes: object) -> float:
        return found(base, name, model__head_dim=32, parametrization__base_head_dim=8, **changes).attention

    for name in ("sp", "sp_gpt2", "sp_per_layer", "ntk"):
        assert attention(name) == pytest.approx(32**-0.5)
    for name in ("mup", "mup_table3", "mup_tp4", "mean_field"):
        assert attention(name) == pytest.approx(8**0.5 / 32)
    assert attention("u_mup") == pytest.approx(1 / 32)
    assert attention("mup", parametrization__attention="sqrt") == pytest.approx(32**-0.5)
    assert attention("sp", parametrization__attention="inverse") == pytest.approx(8**0.5 / 32)
    assert attention("mup", parametrization__ablate="attention") == pytest.approx(32**-0.5)


def test_fans_follow_each_matrix_and_not_the_width(base: RunConfig) -> None:
    """With a fixed MLP width, only what the model width feeds is rescaled."""
    table = found(base, "mup", model__mlp_width=64, parametrization__base_mlp_width=64).factors
    assert (table[H].lr, table["blocks/mlp/down/kernel"].lr) == (1 / 4, 1)


def test_eps_may_stay_unscaled(base: RunConfig) -> None:
    assert {f.eps for f in found(base, "mup", parametrization__scale_eps=False).factors.values()} == {1.0}


@pytest.mark.parametrize(
    ("decay", "removed"),
    [("constant-eta-lambda", 1), ("coupled", 1 / 4), ("independent", 1)],
)
def test_kinds_of_decay(base: RunConfig, decay: str, removed: float) -> None:
    table = found(base, "mup", optimizer__decay=decay).factors
    assert table[H].decay == removed
    assert table[N].decay == table[B].decay == 0
    table = found(base, "mup", optimizer__decay=decay, parametrization__decay_exponent=-0.5).factors
    assert table[H].decay == removed / 2


def test_without_decay_its_kind_is_not_part_of_the_identity(base: RunConfig) -> None:
    kinds = ("constant-eta-lambda", "coupled", "independent")
    assert len({resolve(base, optimizer__decay=kind) for kind in kinds}) == 1
    assert len({resolve(base, optimizer__decay=kind, optimizer__weight_decay=0.1) for kind in kinds}) == 3


# (branch multiplier, rate, eps, decay) of in-block matrices at four times the base depth.
@pytest.mark.parametrize(
    ("rule", "kind", "expected"),
    [
        ("none", "adamw", (1, 1, 1, 1)),
        ("sqrt", "adamw", (1 / 2, 1 / 2, 1 / 2, 1 / 2)),
        ("complete", "adamw", (1 / 4, 1, 1 / 4, 1)),
        ("sqrt", "sgd", (1 / 2, 1, 1, 1)),
        ("complete", "sgd", (1 / 4, 4, 1, 4)),
    ],
)
def test_depth_rules_at_four_times_the_depth(base: RunConfig, rule: str, kind: str, expected: tuple) -> None:
    changes = {"model__width": 16, "model__depth": 8, "parametrization__depth": rule, "optimizer__kind": kind}
    table = found(base, "mup", parametrization__base_depth=2, **changes).factors
    ends, inside = table["blocks/mlp/down/kernel"], table[H]
    assert (ends.forward, ends.lr, ends.eps, ends.decay) == expected
    assert (inside.forward, inside.lr, inside.eps, inside.decay) == (1, *expected[1:])
    assert table["blocks/attention/output/bias"].forward == expected[0]
    for path in (E, R, N):
        assert vector(table[path]) == (1, 1, 1, 0 if path == N else 1, 1)


def test_depth_rules_need_their_base_and_exclude_the_other_way(base: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"parametrization.depth=sqrt scales with the depth over .*base_depth"):
        resolve(base, parametrization__depth="sqrt")
    with pytest.raises(ValueError, match="would scale the residual branches twice"):
        resolve(
            base,
            parametrization__depth="sqrt",
            parametrization__base_depth=2,
            parametrization__residual_init="gpt2",
        )


def test_gpt2_initialisation(base: RunConfig) -> None:
    table = found(base, "sp_gpt2", parametrization__matrix_std=0.02, parametrization__residual_init="gpt2")
    assert table.init_std[H] == 0.02
    assert table.init_std["blocks/mlp/down/kernel"] == 0.02 * 4**-0.5


def test_horizon_rules_for_the_betas(base: RunConfig) -> None:
    setting = setting_of(
        resolve(
            base,
            parametrization__horizon="completed",
            **{
                "parametrization__base_batch": 4 * 16,
                "parametrization__base_tokens": 4 * 16 * 12,
            },
        )
    )
    beta1, beta2 = betas(dataclasses.replace(setting, batch=2, data=8))
    assert (beta1, beta2) == (pytest.approx(1 - 0.1 / 4), pytest.approx(1 - 0.05 / 4))
    with pytest.raises(ValueError, match="turns optimizer.beta1 into -"):
        betas(dataclasses.replace(setting, batch=32, data=1))


def test_horizon_rules(base: RunConfig) -> None:
    """Twice the batch and eight times the tokens: rates halve and eps doubles."""
    tokens = 4 * 16
    run = found(
        base,
        "mup_table3",
        data__sequences=8,
        schedule__steps=48,
        parametrization__horizon="completed",
        parametrization__base_batch=tokens,
        parametrization__base_tokens=tokens * 12,
    )
    plain = found(base, "mup_table3")
    for path, factors in run.factors.items():
        assert factors.lr == plain.factors[path].lr / 2
        assert factors.eps == plain.factors[path].eps * 2
        assert factors.weight_decay == plain.factors[path].weight_decay / 2
    with pytest.raises(ValueError, match="parametrization.base_batch"):
        found(base, "mup", parametrization__horizon="completed")


@pytest.mark.parametrize("kind", ["sgd", "lion", "muon", "adafactor"])
def test_horizon_rules_are_refused_for_optimizers_that_they_are_not_derived_for(base: RunConfig, kind: str) -> None:
    """0.1.0 gave all of them AdamW's square root."""
    rules = {"parametrization__base_batch": 64, "parametrization__base_tokens": 640, "optimizer__kind": kind}
    with pytest.raises(
        ValueError, match=rf"horizon=completed is derived for adamw and adam, not for optimizer\.kind={kind}"
    ):
        resolve(base, parametrization__horizon="completed", **rules)
    resolve(base, optimizer__kind=kind)
    resolve(base, parametrization__horizon="completed", **(rules | {"optimizer__kind": "adam"}))


# Which forms allow one tensor for embedding and readout, and the factor on the logits at m = 4 where they do.
@pytest.mark.parametrize(
    ("name", "alignment", "kind", "logits"),
    [
        ("mup", "full", "adamw", 1 / 4),
        ("mup", "full", "sgd", 1 / 4),
        ("mup", "none", "adamw", "lr goes as m"),
        ("mup_table3", "full", "adamw", r"init goes as m\^0 for the embedding and as m\^-1 for the readout"),
        ("mup_tp4", "full", "adamw", 1 / 4),
        ("mup_tp4", "none", "adamw", "lr goes as m"),
        ("mean_field", "full", "adamw", 1 / 4),
        ("ntk", "none", "adamw", 1 / 2),
        ("ntk", "full", "adamw", "lr goes as m"),
        ("sp", "full", "adamw", "init goes as m"),
        ("sp_per_layer", "full", "adamw", "init goes as m"),
        ("sp_gpt2", "full", "adamw", 1),
        ("u_mup", "full", "adamw", "lr goes as m"),
    ],
)
def test_tied_readouts_where_the_rules_allow_them(
    base: RunConfig, name: str, alignment: str, kind: str, logits: float | str
) -> None:
    changes = {"model__tied": True, "parametrization__alignment": alignment, "optimizer__kind": kind}
    if isinstance(logits, str):
        with pytest.raises(ValueError, match=rf"model.tied=true contradicts parametrization.name={name}.*{logits}"):
            found(base, name, **changes)
    else:
        assert found(base, name, **changes).logits == logits


def test_each_rule_can_be_switched_off_alone(base: RunConfig) -> None:
    whole = found(base, "mup_tp4").factors
    for quantity in ("init", "forward", "lr", "eps"):
        ablated = found(base, "mup_tp4", parametrization__ablate=f"embedding.{quantity}").factors
        assert getattr(ablated[E], quantity) == 1 != getattr(whole[E], quantity)
        assert {path: f for path, f in ablated.items() if path != E} == {p: f for p, f in whole.items() if p != E}
        everywhere = found(base, "mup_tp4", parametrization__ablate=quantity).factors
        assert {getattr(f, quantity) for f in everywhere.values()} == {1}
    two = found(base, "mup", parametrization__ablate="hidden.lr+hidden.decay").factors
    assert (two[H].lr, two[H].decay) == (1, 1)
    with pytest.raises(ValueError, match=r"ablate=hidden.rate: hidden.rate is not a rule \(did you mean "):
        found(base, "mup", parametrization__ablate="hidden.rate")


def test_initial_values_have_the_std_of_the_table(base: RunConfig) -> None:
    run = resolve(base, model__width=64, parametrization__init_scale=2.0)
    job = job_of([run])
    params = train.start(job).state.params
    table = scales(run, leaves(run))
    for path, leaf in leaves(run).items():
        values = np.asarray(params[path][0])
        if leaf.role == Role.GAIN:
            assert (values == 1).all()
        elif table.init_std[path] == 0:
            assert (values == 0).all()
        else:
            assert values.std() == pytest.approx(table.init_std[path], rel=0.1)
    assert jnp.all(params["readout/kernel"] == 0)


def test_every_parametrization_has_a_line_about_it() -> None:
    assert list(names()) == list(TABLE)
