"""Campaigns on paper: limits of the roofline, the trunk arithmetic of the planner, and the documented tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lab.config import ModelConfig
from sweeps import campaign, campaign_table, cli, machine, roofline
from sweeps.campaign import Part
from sweeps.machine import Machine

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
V6E, H100 = machine.named("v6e-256"), machine.named("h100-8")


def small(width: int = 64, depth: int = 2, sequences: int = 16) -> roofline.Work:
    return roofline.work(ModelConfig(width, depth, heads=1, vocab=256).resolve(vocab=None), 64, sequences)


def heavy() -> roofline.Work:
    """An update that is arithmetic and nothing else."""
    return roofline.Work(1e18, 1e3, 1, 2**20, 0.0, 0.0)


@pytest.mark.parametrize("one", [V6E, H100], ids=lambda one: one.name)
def test_one_lane_is_a_run_alone(one: Machine) -> None:
    for update in (small(), small(512, 8, 64), heavy()):
        assert roofline.update_seconds(update, one, lanes=1) == roofline.update_seconds(update, one)
        assert roofline.lane_gain(update, one, 1) == 1
        part = Part(update, 1, 10)
        assert campaign.as_jobs(part, one) == campaign.as_lanes(part, one)
        assert campaign.one_by_one(part, one) == 10 * roofline.together(update, one, 1)


@pytest.mark.parametrize("one", [V6E, H100], ids=lambda one: one.name)
def test_a_run_that_fills_the_chip_gains_nothing_and_a_tiny_one_nearly_all(one: Machine) -> None:
    assert roofline.lane_gain(heavy(), one, 64) == pytest.approx(1, rel=1e-6)
    for runs in (2, 8, one.chips, 3 * one.chips):
        alone = runs * roofline.together(heavy(), one, 1)
        assert roofline.together(heavy(), one, runs) == pytest.approx(alone, rel=1e-6)
    idle = roofline.Work(1.0, 1.0, 100, 1, 0.0, 0.0)
    assert roofline.lane_gain(idle, one, 64) == pytest.approx(64, rel=1e-3)
    gains = [roofline.lane_gain(small(), one, lanes) for lanes in (1, 2, 4, 8, 16, 32)]
    assert gains == sorted(gains)
    assert 1 < gains[-1] < 32


def test_terms_of_the_roofline() -> None:
    update, peak, links = heavy(), H100.peak() / 8 * H100.efficiency.large, H100.interconnect
    assert links is not None
    assert roofline.update_seconds(update, H100) == pytest.approx(1e18 / peak, rel=1e-6)
    moving = roofline.Work(0.0, 1e9, 0, 8, 1e12, 0.0)
    bandwidth = H100.hbm_bytes_per_second
    assert roofline.update_seconds(moving, H100, lanes=3) == pytest.approx(3 * (36e9 + 1e12) / bandwidth)
    summing = roofline.Work(0.0, 1e9, 0, 8, 0.0, 0.0)
    assert roofline.update_seconds(summing, H100, chips=8) == pytest.approx(8e9 * 7 / 8 / links.bytes_per_second)
    with pytest.raises(ValueError, match="h200-1 has no links"):
        roofline.update_seconds(summing, machine.named("h200-1"), chips=2)


def test_memory_decides_what_fits() -> None:
    seventy = campaign.large_run().work
    assert seventy.parameters == pytest.approx(70.55e9, rel=1e-3)
    assert roofline.chips_needed(seventy, H100) is None
    need = roofline.chips_needed(seventy, V6E)
    assert need is not None
    usable = V6E.usable_hbm_gib * 2**30
    assert need * usable >= roofline.STATE_BYTES * seventy.parameters
    assert (need // 2) * usable < roofline.STATE_BYTES * seventy.parameters + (need // 2) * seventy.kept_bytes
    with pytest.raises(ValueError, match="h100-8 does not hold a run of 7.06e"):
        roofline.together(seventy, H100, 1)
    lanes = roofline.lanes_per_place(small(), H100, 1)
    assert lanes * small().lane_bytes <= H100.memory_bytes / 8 < 2 * lanes * small().lane_bytes


def test_lanes_never_lose_to_jobs_in_the_model() -> None:
    for runs in (3, 5, 8, 13, 100):
        for update in (small(), small(512, 8, 64), heavy()):
            part = Part(update, runs, 1)
            assert campaign.as_lanes(part, V6E) <= campaign.as_jobs(part, V6E) * (1 + 1e-9)
            assert campaign.as_jobs(part, V6E) <= campaign.one_by_one(part, V6E) * (1 + 1e-9)


@pytest.mark.slow
def test_trunks_save_what_the_formula_says() -> None:
    """Five budgets a factor 4 apart and a decay of a tenth: sum / (.9 max + .1 sum) = 1.29."""
    expected = sum(campaign.BUDGETS) / (0.9 * max(campaign.BUDGETS) + 0.1 * sum(campaign.BUDGETS))
    assert expected == pytest.approx(1.29, abs=0.005)
    for rules in campaign.GRIDS:
        assert len(campaign.grid(rules)) == 1000
        assert len({run.run_id for run in campaign.grid(rules)}) == 1000
        alone, shared = campaign.target(rules, trunks=False), campaign.target(rules, trunks=True)
        assert campaign.flops(alone) / campaign.flops(shared) == pytest.approx(expected, rel=1e-3)
        assert sum(part.runs for part in alone) == 1000


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tpu", "campaign"]) == 0
    printed = capsys.readouterr().out.strip()
    document = (ROOT / "docs" / "campaigns.md").read_text()
    for table in printed.split("\n\n"):
        assert table in document
    machines = [machine.named("v5e-256")]
    found = campaign_table.costs(machines)
    assert len(found) == 2 * 2 * 2 * len(campaign.WAYS)
    best = {(row["campaign"], row["parametrization"], row["trunks"]): row for row in found if row["way"] == "lanes"}
    assert best["70B", "mup", True]["flops"] < best["70B", "mup", False]["flops"] < best["70B", "sp", True]["flops"]


def test_sums_of_step_law_are_those_of_the_published_tables(shared: Path) -> None:
    names = ("steplaw_train.csv", "steplaw_heldout_1b_100b.csv")
    frame = pd.concat([pd.read_csv(shared / "laws" / name) for name in names])
    frame["node"] = np.round(2 * np.log2(frame["lr"])).astype(int)
    frame["updates"] = frame["data_size"] / (frame["bsz"] * campaign.STEP_LAW_LENGTH)
    groups = list(frame.groupby("non_embedding_param_size"))
    for (parameters, rows), size in zip(groups, campaign.STEP_LAW, strict=True):
        assert size.depth * (4 * size.width**2 + 3 * size.width * size.mlp_width) == parameters
        assert size.runs == len(rows)
        assert size.curves == rows.groupby(["data_size", "bsz"]).ngroups
        assert size.tokens == pytest.approx(rows["data_size"].sum(), rel=1e-3)
        assert size.updates == pytest.approx(rows["updates"].sum(), rel=1e-3)
        tokens = updates = 0.0
        for _, same in rows.groupby(["node", "bsz"]):
            sequences = float(same["bsz"].iloc[0])
            needed = (1 - campaign.DECAY) * same["data_size"].max() + campaign.DECAY * same["data_size"].sum()
            tokens += needed
            updates += needed / (sequences * campaign.STEP_LAW_LENGTH)
        assert size.trunk_tokens == pytest.approx(tokens, rel=1e-3)
        assert size.trunk_updates == pytest.approx(updates, rel=1e-3)


def test_step_law_s_parts_have_the_paper_s_tokens() -> None:
    parts = campaign.step_law(trunks=False, mup=False)
    tokens = sum(part.runs * part.updates * part.work.sequences * campaign.STEP_LAW_LENGTH for part in parts)
    assert tokens == pytest.approx(campaign.STEP_LAW_TOKENS, rel=1e-6)
    for trunks, mup in ((True, False), (False, True), (True, True)):
        assert campaign.flops(campaign.step_law(trunks=trunks, mup=mup)) < campaign.flops(parts)
