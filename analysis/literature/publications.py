"""The published laws that give rate and batch from size, tokens or loss; `TABLE` has the others too.

Digits are the authors' own, in their units; `Product` converts.  What no source at hand confirms is left as unknown
rather than guessed.  `docs/published_laws.md` is the same for readers.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from analysis.literature.publication import STEP_TABLE, Conditions, Formula, Misprint, Product, Publication
from analysis.literature.publications_fixed_batch import FIXED_BATCH

_STEP_CONDITIONS = Conditions(
    params="non-embedding: attention and SwiGLU matrices, no embeddings, head, norms or biases",
    batch="tokens; runs have sequences of 2048",
    batch_rule="batch at its own optimum, D^0.571",
    optimizer="AdamW",
    schedule="cosine",
    final_lr="fixed at 1e-5",
    warmup="2000 steps, linear (second-hand)",
    parametrization="standard",
)
_STEP = Publication(
    name="step",
    aliases=("step_law", "steplaw", "step_rounded"),
    title="Step Law, constants as printed (rounded)",
    source="arXiv 2503.04715",
    formulas={
        "lr": Formula(
            "1.79 N^-0.713 D^0.307",
            Product(1.79, (("params", -0.713), ("tokens", 0.307))),
            "printed",
            "arXiv 2503.04715, abstract and README",
        ),
        "batch": Formula(
            "0.58 D^0.571 tokens", Product(0.58, (("tokens", 0.571),)), "printed", "arXiv 2503.04715, abstract"
        ),
    },
    conditions=_STEP_CONDITIONS,
    ranges={"params": (6e7, 1.073741824e9), "tokens": (2e9, 1e11), "batch": (16 * 2048.0, 2048 * 2048.0)},
    misprints=(
        Misprint('"optimal LR increases with N"', "it decreases, N^-0.713", "Step Law v7, sec. 3.4.1 (second-hand)"),
        Misprint("1,912 dense runs", "1,911: the header was counted", "Step Law project page"),
        Misprint("colours of the legend", "swapped", "Step Law, Figure 4 of early versions (repository issue #6)"),
    ),
    remarks=(
        "rounded and unrounded constants differ by 2 % in the rate: say which set a number comes from",
        "for a mixture of experts total and active N give different answers: choose one and say so",
        "a final rate of a tenth of the peak moves the optimum to lower rates and larger batches (second-hand)",
        "the CSV that the authors released does not give these constants back; the full set of runs does",
    ),
)
_STEP_UNROUNDED = replace(
    _STEP,
    name="step_unrounded",
    variant_of="step",
    aliases=("step_law_unrounded",),
    title="Step Law, unrounded: the mean of its authors' 1,000 bootstrap fits",
    formulas={
        "lr": Formula(
            "exp(0.5863078) N^-0.7129223 D^0.3074910",
            Product(math.exp(0.586307790740), (("params", -0.712922291187), ("tokens", 0.307490950412))),
            "verified",
            "step-law/steplaw, bootstrap coefficients: means",
        ),
        "batch": Formula(
            "exp(-0.5435422) D^0.5709444 tokens",
            Product(math.exp(-0.543542173610), (("tokens", 0.570944364690),)),
            "verified",
            "step-law/steplaw, bootstrap coefficients: means",
        ),
    },
    remarks=("coefficients are exp(mean of the log), not the mean of the coefficient", *_STEP.remarks),
)
_DEEPSEEK = Publication(
    name="deepseek",
    title="DeepSeek LLM",
    source="arXiv 2401.02954",
    formulas={
        "lr": Formula(
            "0.3118 C^-0.1250, C = M D",
            Product(0.3118, (("tokens", -0.125), ("flops_per_token", -0.125))),
            "printed",
            "arXiv 2401.02954, Eq. 1",
        ),
        "batch": Formula(
            "0.2920 C^0.3271 tokens, C = M D",
            Product(0.2920, (("tokens", 0.3271), ("flops_per_token", 0.3271))),
            "printed",
            "arXiv 2401.02954, Eq. 1",
        ),
    },
    conditions=Conditions(
        params="avoided: M, non-embedding FLOPs per token, is 72 L d^2 + 12 L d s",
        batch="tokens",
        batch_rule="batch at its own optimum, C^0.3271",
        schedule="multi-step: 0.316 of the peak at 80 %, 0.1 at 90 % of the tokens",
        final_lr="0.1 of the peak",
    ),
    ranges={"flops": (1e17, 2e19)},
    misprints=(Misprint("0.3188 C^-0.1250", "0.3118", STEP_TABLE),),
    remarks=(
        "fitted to runs within 0.25 % of the best",
        "the rate is the peak by every reading of the text; the authors have not said so",
    ),
)


def _kaplan(inputs: Mapping[str, float]) -> float:
    return 3.239e-3 - 1.395e-4 * math.log(inputs["params"])


_KAPLAN = Publication(
    name="kaplan",
    aliases=("openai",),
    title="OpenAI, Kaplan et al.",
    source="arXiv 2001.08361",
    formulas={
        "lr": Formula(
            "0.003239 - 0.0001395 ln N",
            _kaplan,
            "printed",
            "arXiv 2001.08361, App. D.6",
            other_needs=("params",),
            usable=("params", 1e10, math.exp(3.239e-3 / 1.395e-4)),
        ),
        "critical_batch": Formula(
            "2e8 L^(-1/0.21) tokens",
            Product(2e8, (("loss", -1 / 0.21),)),
            "printed",
            "arXiv 2001.08361: B* = 2e8 tokens, alpha_B = 0.21",
        ),
    },
    conditions=Conditions(
        params="non-embedding",
        batch="tokens",
        optimizer="Adam",
        schedule="cosine",
        final_lr="0 (second-hand)",
        warmup="yes; length not confirmed",
        parametrization="standard",
    ),
    misprints=(Misprint("batch 2e18 L^-4.7619", "2e8", STEP_TABLE),),
    remarks=("the critical batch trades time against compute; it is not the batch of lowest loss",),
)
_PORIAN = Publication(
    name="porian",
    title="Porian et al., constants of their plotting code",
    source="arXiv 2406.19146",
    formulas={
        "lr": Formula(
            "0.0047 (N/1.08e8)^(-1/3)",
            Product(0.0047, (("params", -1 / 3),), units=(("params", 1.08e8),)),
            "printed",
            "formll/resolving-scaling-law-discrepancies, plotting.py",
        ),
        "batch": Formula(
            "160 (N/1.08e8)^(2/3) sequences of 2048",
            Product(160.0, (("params", 2 / 3),), units=(("params", 1.08e8),), scale=2048.0),
            "second-hand",
            "formll/resolving-scaling-law-discrepancies, as quoted",
        ),
    },
    conditions=Conditions(
        params="kind not confirmed",
        tokens="about 20 N throughout, so the law has N only",
        batch="sequences of 2048",
        batch_rule="batch at its own optimum",
        optimizer="AdamW",
        schedule="constant, no decay",
        final_lr="the peak",
        beta2="tuned, 0.95 to 0.999",
    ),
    ranges={"params": (5e6, 9.01e8)},
    remarks=(
        "rates for runs without decay: under annealing schedules they are far too high (2 octaves on one set)",
        "the range of N is second-hand",
    ),
)
_PORIAN_TABLE = replace(
    _PORIAN,
    name="porian_table",
    variant_of="porian",
    title="Porian et al., as Step Law's table quotes them",
    formulas={
        "lr": Formula("3.7 N^-0.36", Product(3.7, (("params", -0.36),)), "second-hand", STEP_TABLE),
        "batch": Formula("0.7576 N^0.703 tokens", Product(0.7576, (("params", 0.703),)), "second-hand", STEP_TABLE),
    },
    remarks=("5 % below the other form at N = 1e9", *_PORIAN.remarks),
)
_MINICPM = Publication(
    name="minicpm",
    title="MiniCPM",
    source="arXiv 2404.06395",
    formulas={
        "lr": Formula("0.01 at every size", Product(0.01), "printed", "arXiv 2404.06395"),
        "batch": Formula(
            "1.21e9 / L^6.24 tokens, L the loss on C4",
            Product(1.21e9, (("loss", -6.24),)),
            "printed",
            "arXiv 2404.06395, sec. 3.2",
        ),
    },
    conditions=Conditions(
        params="does not enter",
        batch="tokens",
        batch_rule="rate: batch of 3.93e6 tokens; batch law: at its own optimum for a rate of 0.01",
        schedule="WSD, 10 % decay; the batch law's runs cosine",
        parametrization="muP, base width 256",
    ),
    ranges={"params": (4e7, 2.1e9)},
    misprints=(Misprint("batch 2e18 / L^6.24", "1.21e9 / L^6.24", STEP_TABLE),),
    remarks=(
        "the rate is that of the base width: muP divides it by width/256 in hidden matrices",
        "the batch law's models have 9M, 30M and 170M parameters",
    ),
)
_OPENEUROLLM = Publication(
    name="openeurollm",
    aliases=("open_euro_llm", "oellm", "openeurollm_unrounded"),
    title="OpenEuroLLM, unrounded least squares on the published optima of 45 cells",
    source="OpenEuroLLM/dense_english_scaling_laws",
    formulas={
        "lr": Formula(
            "exp(-0.9904877) N^-0.4170538 D^0.0862034",
            Product(math.exp(-0.990487680295), (("params", -0.417053848329), ("tokens", 0.086203375576))),
            "verified",
            "OpenEuroLLM/dense_english_scaling_laws, data/best_HPs refitted",
        ),
        "batch": Formula(
            "exp(-9.2202497) N^0.1451157 D^0.4599775 sequences of 4096",
            Product(math.exp(-9.220249716225), (("params", 0.145115706494), ("tokens", 0.459977494030)), scale=4096.0),
            "verified",
            "OpenEuroLLM/dense_english_scaling_laws, data/best_HPs refitted",
        ),
    },
    conditions=Conditions(
        params="as in the authors' files; whether embeddings count is not confirmed",
        batch="sequences of 4096",
        batch_rule="batch at its own optimum, D^0.46",
        schedule="WSD; loss after annealing",
        beta2="0.99 for the two smallest sizes, 0.95 for the others",
    ),
    ranges={"params": (4.7557632e7, 9.83138304e8), "tokens": (6e9, 3e11), "batch": (16 * 4096.0, 1024 * 4096.0)},
    remarks=(
        "beta2 changes with N, so the exponent of N has both in it",
        "intervals clustered by size: N -0.73 .. -0.15, D 0.01 .. 0.17; batch: N -0.14 .. 0.28, D 0.42 .. 0.52",
    ),
)
_OPENEUROLLM_ROUNDED = replace(
    _OPENEUROLLM,
    name="openeurollm_rounded",
    variant_of="openeurollm",
    aliases=("oellm_rounded",),
    title="OpenEuroLLM, rounded constants",
    formulas={
        "lr": Formula(
            "0.371396 N^-0.417 D^0.086",
            Product(0.371396, (("params", -0.417), ("tokens", 0.086))),
            "printed",
            "OpenEuroLLM/dense_english_scaling_laws, joint fit",
        ),
        "batch": Formula(
            "9.901e-5 N^0.145 D^0.460 sequences of 4096",
            Product(9.901e-5, (("params", 0.145), ("tokens", 0.460)), scale=4096.0),
            "printed",
            "OpenEuroLLM/dense_english_scaling_laws, joint fit",
        ),
    },
)

TABLE: tuple[Publication, ...] = (
    _STEP,
    _STEP_UNROUNDED,
    _OPENEUROLLM,
    _OPENEUROLLM_ROUNDED,
    _DEEPSEEK,
    _KAPLAN,
    _PORIAN,
    _PORIAN_TABLE,
    _MINICPM,
    *FIXED_BATCH,
)
