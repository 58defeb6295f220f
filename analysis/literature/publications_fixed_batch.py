"""Published laws in which the batch is given and not found: horizon laws, rules that move a measured rate, a schedule.

Also the law of AdamW's timescale, and a law whose constants are not known here.  Digits and units as in
`analysis.literature.publications`, which lists these laws with its own.
"""

from dataclasses import replace

from analysis.literature.publication import STEP_TABLE, Conditions, Formula, Misprint, Product, Publication

_WSD = Publication(
    name="power_wsd",
    aliases=("wsd", "wsd_law", "power"),
    title="WSD law of the Power paper: the best constant rate of a run of D tokens",
    source="arXiv 2408.13359",
    formulas={
        "lr": Formula(
            "4.6 (B/4096) D^-0.51",
            Product(4.6, (("batch", 1.0), ("tokens", -0.51)), units=(("batch", 4096.0),)),
            "verified",
            "arXiv 2408.13359, Eqs. 1, 5 and 6; 1.104e-3 at 1024 sequences and 1e13 tokens (0.0011 in print)",
        )
    },
    conditions=Conditions(
        params="does not enter",
        batch="sequences of 4096",
        batch_rule="batch fixed; the rate is proportional to it",
        schedule="WSD, 10 % decay",
        warmup="1e9 tokens, linear",
        parametrization="muP",
    ),
    ranges={"params": (1.2e7, 1.21e8), "tokens": (2e9, 2.56e11), "batch": (16 * 4096.0, 512 * 4096.0)},
    misprints=(
        Misprint('"optimal a"', "the axis is b", "arXiv 2408.13359, caption of Figure 6"),
        Misprint("a = 4.6 in the Power schedule", "4.6 is this law's; the schedule has 4", "levanter, optim/config.py"),
    ),
    remarks=("optimizer, betas, weight decay and clipping are not given in the paper",),
)
_SCHEDULE = replace(
    _WSD,
    name="power_schedule",
    aliases=("power_scheduler",),
    title="Power schedule: the rate after n tokens; a schedule, not a law of a run's horizon",
    formulas={
        "scheduled_lr": Formula(
            "min(0.02, 4 (B/4096) n^-0.51)",
            Product(4.0, (("batch", 1.0), ("trained", -0.51)), units=(("batch", 4096.0),), cap=0.02),
            "printed",
            "arXiv 2408.13359, Eqs. 7 and 8",
        )
    },
    misprints=(
        Misprint("a = 4.6", "4; 4.6 is the constant of the WSD law", "levanter, optim/config.py"),
        _WSD.misprints[0],
    ),
    ranges={},
    remarks=("train with it instead of asking it for a peak: lrlab schedule show power",),
)
_BJORCK = Publication(
    name="bjorck",
    aliases=("microsoft",),
    title="Microsoft, Bjorck et al.: a rule to move a measured rate to another horizon",
    source="arXiv 2409.19913",
    formulas={
        "lr": Formula(
            "eta1 (D2/D1)^-0.32",
            Product(1.0, (("base_lr", 1.0), ("tokens", -0.32), ("base_tokens", 0.32))),
            "second-hand",
            "arXiv 2409.19913, exponent as quoted",
        )
    },
    conditions=Conditions(
        params="the same at both horizons",
        batch="any; the same at both horizons",
        batch_rule="batch fixed",
        schedule="cosine",
        warmup="short",
        parametrization="standard, GPT-3 shapes",
    ),
    ranges={"tokens": (2.5e10, 8e11)},
    misprints=(
        Misprint(
            "1.3192e^-5 N^-0.23 D^-0.32, no units",
            "unresolved; 1.3192 exp(-5) with N in millions and D in billions is the only sane reading, as raw counts "
            "it gives 3e-11. The constant is not offered here",
            f"{STEP_TABLE}; copied into public calculators as raw counts",
        ),
    ),
    remarks=(
        "the exponent depends on N: measured rates of the 125M model alone fall as D^-0.59",
        "the full form is K N^-0.23 D^-0.32",
    ),
)
_ZHOU = Publication(
    name="zhou",
    title="Zhou et al.: exponents only, to move a measured rate",
    source="arXiv 2601.05049",
    formulas={
        "lr": Formula(
            "eta1 (N2/N1)^-0.2219 (D2/D1)^-0.3509",
            Product(
                1.0,
                (
                    ("base_lr", 1.0),
                    ("params", -0.2219),
                    ("base_params", 0.2219),
                    ("tokens", -0.3509),
                    ("base_tokens", 0.3509),
                ),
            ),
            "second-hand",
            "arXiv 2601.05049, Eq. 6",
        )
    },
    conditions=Conditions(params="units not confirmed", tokens="units not confirmed", schedule="WSD"),
    remarks=(
        "printed as 38.4588 N^-0.2219 D^-0.3509; with raw counts that is a tenth of every other law, so its units "
        "are unknown and the constant is not offered",
    ),
)
_SCION = Publication(
    name="scion",
    title="Scion: exponents only, to move a measured rate and batch",
    source="arXiv 2510.03871",
    formulas={
        "lr": Formula(
            "eta1 (B2/B1)^0.62 (D2/D1)^-0.56",
            Product(
                1.0,
                (
                    ("base_lr", 1.0),
                    ("batch", 0.62),
                    ("base_batch", -0.62),
                    ("tokens", -0.56),
                    ("base_tokens", 0.56),
                ),
            ),
            "second-hand",
            "arXiv 2510.03871",
        ),
        "batch": Formula(
            "B1 (D2/D1)^0.45",
            Product(1.0, (("base_batch", 1.0), ("tokens", 0.45), ("base_tokens", -0.45))),
            "second-hand",
            "arXiv 2510.03871",
        ),
    },
    conditions=Conditions(
        params="does not enter",
        batch_rule="both: D^-0.56 at a fixed batch, D^-0.28 along the best one",
        optimizer="Scion",
    ),
)
_MARIN = Publication(
    name="marin_muonh",
    aliases=("marin", "muonh"),
    title="Marin, MuonH (corrected fit)",
    source="marin-community/marin, issues #5951 and #6044",
    formulas={
        "lr": Formula(
            "18.31 D^-0.395 d^-0.150 sqrt(B/4096), at most 0.05",
            Product(
                18.31,
                (("tokens", -0.395), ("width", -0.150), ("batch", 0.5)),
                units=(("batch", 4096.0),),
                cap=0.05,
            ),
            "printed",
            "marin issue #5951 (corrected), #6044",
        ),
        "adam_lr": Formula(
            "(3/13) 18.31 D^-0.395 d^-0.150 sqrt(B/4096), at most 0.05 * 3/13",
            Product(
                18.31,
                (("tokens", -0.395), ("width", -0.150), ("batch", 0.5)),
                units=(("batch", 4096.0),),
                scale=3 / 13,
                cap=0.05 * 3 / 13,
            ),
            "printed",
            "marin issue #5951 (corrected), #6044",
        ),
    },
    conditions=Conditions(
        params="does not enter; d is the hidden width",
        batch="sequences of 4096",
        batch_rule="batch fixed; a separate sqrt(B)",
        optimizer="MuonH (updates on a hypersphere), Adam for the other leaves",
        schedule="linear",
        final_lr="0",
        warmup="1 % of the run",
        parametrization="a mixture-of-experts recipe",
    ),
    misprints=(
        Misprint(
            "26.9 D^-0.395 d^-0.121", "18.31, d^-0.150: tokens were about 4 times too large", "issue #5951, first"
        ),
        Misprint("0.06602 as the MuonH coefficient", "it is the Adam one, 18.31/((13/3) 64)", "issue #6044"),
    ),
    remarks=(
        "17 cells, R2 0.996",
        "an earlier AdamH law, adam rate 1.63 D^-0.2813 d^-0.3678 sqrt(B), is superseded (second-hand)",
    ),
)
_LINES = Publication(
    name="power_lines",
    title="Power Lines: AdamW's timescale, and the batch, under muP",
    source="arXiv 2505.13738",
    formulas={
        "tau": Formula(
            "1.084 (D/N)^-0.527, tau = B/(eta lambda D)",
            Product(1.084, (("tokens", -0.527), ("params", 0.527))),
            "second-hand",
            "arXiv 2505.13738",
        ),
        "weight_decay": Formula(
            "B/(eta D tau)",
            Product(1 / 1.084, (("batch", 1.0), ("lr", -1.0), ("tokens", 0.527 - 1), ("params", -0.527))),
            "second-hand",
            "arXiv 2505.13738",
        ),
        "batch": Formula(
            "0.0306 D^0.383 sequences of 2048",
            Product(0.0306, (("tokens", 0.383),), scale=2048.0),
            "inferred",
            "arXiv 2505.13738; exponent second-hand, unit inferred",
        ),
        "critical_batch": Formula(
            "0.0471 D^0.462 sequences of 2048, D the least tokens that reach the loss",
            Product(0.0471, (("tokens", 0.462),), scale=2048.0),
            "inferred",
            "arXiv 2505.13738; exponent second-hand, unit inferred",
        ),
    },
    conditions=Conditions(
        params="kind not confirmed",
        batch="unit inferred: sequences of 2048",
        batch_rule="rate by muP, decay tuned",
        optimizer="AdamW",
        weight_decay="coupled to the rate: eta lambda per step",
        parametrization="muP",
    ),
    ranges={"params": (1.11e8, 3.3e9)},
    remarks=(
        "no law of the rate: muP sets it, and this law the decay",
        "a rate law at fixed decay and one at fixed tau are two laws: record the decay and its kind",
    ),
)
_MEITUAN = Publication(
    name="meituan",
    title="MeiTuan: unresolved, its constants are not known here",
    source="arXiv 2410.05661",
    formulas={},
    conditions=Conditions(params="does not enter; laws of the loss L"),
    remarks=("form: rate lambda L^-alpha, batch lambda_B L^(-1/alpha_B)",),
)

FIXED_BATCH: tuple[Publication, ...] = (_WSD, _SCHEDULE, _BJORCK, _ZHOU, _SCION, _MARIN, _LINES, _MEITUAN)
