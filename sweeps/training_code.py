"""A prediction as code: the optimizer and schedule of a run for optax, PyTorch or Hugging Face's Trainer.

What the law's runs did is taken over where it is told in a form that a schedule has; what is not told is said in a
comment, with what stands in for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.prediction import Prediction
from lab.check import require
from sweeps import schedules, snippet

FORMATS = ("optax", "torch", "hf")
# Words in the description of a schedule, and the kind that they mean; the first that occurs counts.
_KINDS = {
    "wsd": "wsd",
    "stable": "wsd",
    "cosine": "cosine",
    "linear decay": "linear",
    "linear": "linear",
    "inverse_sqrt": "inverse_sqrt",
    "constant": "constant",
}
_HF_KINDS = {
    "wsd": "warmup_stable_decay",
    "cosine": "cosine",
    "linear": "linear",
    "inverse_sqrt": "inverse_sqrt",
    "constant": "constant_with_warmup",
}
_DECAY = 0.2  # of the run, where a WSD law does not tell
_DURATION = re.compile(r"([\d.]+(?:e[+-]?\d+)?)[ -]*(of the run|updates?|steps?|tokens)")
_RATIO = re.compile(r"([\d.]+(?:e[+-]?\d+)?)( of the peak)?")


@dataclass(frozen=True)
class Training:
    """What a run's optimizer needs; the schedule as the fields of a `lab.config.ScheduleConfig`."""

    lr: float
    steps: int
    batch: float
    schedule: Mapping[str, Any]
    beta1: float
    beta2: float
    weight_decay: float
    clip: float | None
    comments: tuple[str, ...]


def code(found: Prediction, form: str) -> str:
    """Source text that sets optimizer and schedule at the predicted rate.

    Raises:
        InputError: an unknown format, or a prediction without rate, batch or tokens.
    """
    require(form in FORMATS, f"--format {form} is not one of {', '.join(FORMATS)}")
    made = training(found)
    text = {"optax": _optax, "torch": _torch, "hf": _hf}[form](made)
    return "\n".join([*(f"# {line}" for line in made.comments), text])


def training(found: Prediction) -> Training:
    """The settings of a predicted run.

    Raises:
        InputError: the prediction has no rate, no batch, or no tokens.
    """
    require(found.lr is not None, f"law {found.law} gives no learning rate: there is nothing to set")
    require(found.batch_tokens is not None, "the number of updates needs the batch: add --batch, in tokens per update")
    require("tokens" in found.inputs, "the number of updates needs the tokens of the run: add --tokens")
    assert found.lr is not None and found.batch_tokens is not None
    steps = max(1, round(found.inputs["tokens"] / found.batch_tokens))
    fields, untold = _schedule(found.recipe, found.lr, steps, found.batch_tokens)
    numbers = {name: _number(found.recipe.get(name)) for name in ("beta1", "beta2", "weight decay", "clip")}
    standing = {"beta1": 0.9, "beta2": 0.95, "weight decay": 0.0}
    untold += [f"{name} is not told: {value:g}" for name, value in standing.items() if numbers[name] is None]
    told = [f"{name}: {value}" for name, value in found.recipe.items() if str(value) != "not confirmed"]
    comments = (
        f"law {found.law} at {', '.join(f'{name} {value:.6g}' for name, value in found.inputs.items())}: "
        f"rate {found.lr:.6g}, {found.batch_tokens:.6g} tokens per update, {steps} updates",
        *((f"its runs had {'; '.join(told)}",) if told else ()),
        *untold,
    )
    kept = {name: standing.get(name, 0.0) if value is None else value for name, value in numbers.items()}
    return Training(
        lr=found.lr,
        steps=steps,
        batch=found.batch_tokens,
        schedule=fields,
        beta1=kept["beta1"],
        beta2=kept["beta2"],
        weight_decay=kept["weight decay"],
        clip=kept["clip"] or None,
        comments=comments,
    )


def _schedule(recipe: Mapping[str, Any], lr: float, steps: int, batch: float) -> tuple[dict[str, Any], list[str]]:
    """(fields of the schedule, what is not told)."""
    words = str(recipe.get("schedule", "")).lower()
    kind = next((kind for word, kind in _KINDS.items() if word in words), "constant")
    known = any(word in words for word in _KINDS)
    untold = [] if known else [f"the schedule ({words or 'not told'}) is none of ours: constant after the warm-up"]
    warmup = _steps(recipe.get("warm-up"), steps, batch)
    if warmup is None:
        untold.append("the warm-up is not told: none")
    fields: dict[str, Any] = {"kind": kind, "steps": steps, "warmup_steps": min(warmup or 0, steps // 2)}
    if kind == "wsd":
        decay = _steps(recipe.get("decay"), steps, batch)
        if decay is None:
            untold.append(f"the decay is not told: linear over {_DECAY:.0%} of the run")
        fields["decay_steps"] = min(round(_DECAY * steps) if decay is None else decay, steps - fields["warmup_steps"])
        fields["decay_shape"] = recipe.get("decay shape", "linear")
    if kind in ("wsd", "cosine", "linear"):
        fields["floor"] = _floor(recipe, lr)
    return fields, untold


def _optax(made: Training) -> str:
    curve = _curve(made)
    schedule = snippet.optax(curve.parts, schedules.title(curve.schedule), scale=made.lr).rstrip()
    if "import optax" not in schedule:
        schedule = schedule.replace("\n", "\nimport optax\n", 1)
    update = f"optax.adamw(schedule, b1={made.beta1!r}, b2={made.beta2!r}, weight_decay={made.weight_decay!r})"
    if made.clip:
        update = f"optax.chain(optax.clip_by_global_norm({made.clip!r}), {update})"
    return f"{schedule}\noptimizer = {update}\n"


def _torch(made: Training) -> str:
    curve = _curve(made)
    factor = snippet.torch(curve.parts, schedules.title(curve.schedule)).rstrip()
    lines = [
        "import torch",
        "",
        "optimizer = torch.optim.AdamW(",
        f"    model.parameters(), lr={made.lr!r}, betas=({made.beta1!r}, {made.beta2!r}), "
        f"weight_decay={made.weight_decay!r}",
        ")",
        "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)",
    ]
    if made.clip:
        lines.append(
            f"# before each optimizer.step(): torch.nn.utils.clip_grad_norm_(model.parameters(), {made.clip!r})"
        )
    return "\n".join([factor, "", "", *lines, ""])


def _hf(made: Training) -> str:
    fields = made.schedule
    kind, more = _HF_KINDS[fields["kind"]], []
    if kind == "warmup_stable_decay":
        shape = {"sqrt": "1-sqrt"}.get(fields["decay_shape"], fields["decay_shape"])
        options = {"num_decay_steps": fields["decay_steps"], "decay_type": shape, "min_lr_ratio": fields["floor"]}
        more = [f"    lr_scheduler_kwargs={options!r},"]
    elif fields.get("floor") and kind == "cosine":
        kind, more = "cosine_with_min_lr", [f"    lr_scheduler_kwargs={{'min_lr_rate': {fields['floor']!r}}},"]
    return "\n".join(
        [
            "from transformers import TrainingArguments",
            "",
            "arguments = TrainingArguments(",
            '    output_dir="out",',
            f"    learning_rate={made.lr!r},",
            f'    lr_scheduler_type="{kind}",',
            *more,
            f"    warmup_steps={fields['warmup_steps']},",
            f"    max_steps={made.steps},",
            f"    adam_beta1={made.beta1!r},",
            f"    adam_beta2={made.beta2!r},",
            f"    weight_decay={made.weight_decay!r},",
            f"    max_grad_norm={made.clip or 0.0!r},",
            f"    # tokens per update, devices x per_device_train_batch_size x accumulation x length: {made.batch:.6g}",
            ")",
            "",
        ]
    )


def _curve(made: Training) -> schedules.Curve:
    return schedules.curve(made.schedule, lr=made.lr, tokens_per_step=None)


def _steps(value: Any, steps: int, batch: float) -> int | None:
    """A duration as told in words, in updates; None where it is not told."""
    matched = _DURATION.search(str(value).replace(",", ""))
    if matched is None:
        return None
    number, unit = float(matched[1]), matched[2]
    return round(number * steps if unit == "of the run" else number / batch if unit == "tokens" else number)


def _floor(recipe: Mapping[str, Any], lr: float) -> float:
    """Final rate over the peak: told as a ratio, or as a rate, which depends on the peak."""
    if (ratio := _number(recipe.get("final rate / peak"))) is not None:
        return ratio
    matched = _RATIO.search(str(recipe.get("final rate", "")))
    if matched is None:
        return 0.0
    return float(matched[1]) if matched[2] else float(matched[1]) / lr


def _number(value: Any) -> float | None:
    """A number, or the one that a text consists of."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
