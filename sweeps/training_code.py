"""A prediction as code: the optimizer and schedule of a run for optax, PyTorch or Hugging Face's Trainer.

An argument that nobody told is left out and named in a comment (`sweeps.training_settings`), never written as 0.
"""

from typing import Any

from analysis.prediction import Prediction
from lab.check import require
from sweeps import schedules, snippet
from sweeps.training_settings import Choice, Training, training

FORMATS = ("optax", "torch", "hf")
_HF_SHAPES = {"linear": "linear", "cosine": "cosine", "sqrt": "1-sqrt"}
_PYTORCH_BETAS = (0.9, 0.999)  # AdamW's own, where one of the two is told


def code(found: Prediction, form: str, chosen: Choice | None = None) -> str:
    """Source text that sets optimizer and schedule at the predicted rate.

    Raises:
        InputError: an unknown format, what `training` refuses, or a schedule that the format does not have.
    """
    require(form in FORMATS, f"--format {form} is not one of {', '.join(FORMATS)}")
    made = training(found, chosen)
    text = {"optax": _optax, "torch": _torch, "hf": _hf}[form](made)
    return "\n".join([*(f"# {line}" for line in made.comments), text])


def _optax(made: Training) -> str:
    curve = _curve(made)
    if curve is None:
        lines, rate = ["import optax", ""], repr(made.lr)
    else:
        schedule = snippet.optax(curve.parts, schedules.title(curve.schedule), scale=made.lr).rstrip()
        if "import optax" not in schedule:
            schedule = schedule.replace("\n", "\nimport optax\n", 1)
        lines, rate = [schedule], "schedule"
    given = {"b1": made.beta1, "b2": made.beta2, "weight_decay": made.weight_decay}
    update = f"optax.adamw({', '.join([rate, *_written(given)])})"
    if made.clip:
        update = f"optax.chain(optax.clip_by_global_norm({made.clip!r}), {update})"
    return "\n".join([*lines, f"optimizer = {update}", ""])


def _torch(made: Training) -> str:
    curve = _curve(made)
    betas = None
    if made.beta1 is not None or made.beta2 is not None:
        pairs = zip((made.beta1, made.beta2), _PYTORCH_BETAS, strict=True)
        betas = tuple(default if value is None else value for value, default in pairs)
    given = {"lr": made.lr, "betas": betas, "weight_decay": made.weight_decay}
    lines = ["import torch", ""]
    if curve is not None:
        lines = [snippet.torch(curve.parts, schedules.title(curve.schedule)).rstrip(), "", "", *lines]
    lines += ["optimizer = torch.optim.AdamW(", f"    {', '.join(['model.parameters()', *_written(given)])}", ")"]
    if curve is not None:
        lines.append("scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)")
    if made.clip:
        lines.append(
            f"# before each optimizer.step(): torch.nn.utils.clip_grad_norm_(model.parameters(), {made.clip!r})"
        )
    return "\n".join([*lines, ""])


def _hf(made: Training) -> str:
    kind, options = _hf_schedule(made)
    given = {
        "output_dir": "out",
        "learning_rate": made.lr,
        "lr_scheduler_type": kind,
        "lr_scheduler_kwargs": options or None,
        "warmup_steps": made.schedule.get("warmup_steps"),
        "max_steps": made.steps,
        "adam_beta1": made.beta1,
        "adam_beta2": made.beta2,
        "weight_decay": made.weight_decay,
        "max_grad_norm": made.clip,
    }
    lines = ["from transformers import TrainingArguments", "", "arguments = TrainingArguments("]
    lines += [f"    {one}," for one in _written(given)]
    lines += [
        f"    # tokens per update, devices x per_device_train_batch_size x accumulation x length: {made.batch:.6g}",
        ")",
        "",
    ]
    return "\n".join(lines)


def _hf_schedule(made: Training) -> tuple[str | None, dict[str, Any]]:
    """Transformers' name of the schedule, and its own arguments; None where none is told."""
    fields = made.schedule
    kind, floor = fields.get("kind"), fields.get("floor")
    if kind is None:
        return None, {}
    if kind == "wsd":
        shape = fields.get("decay_shape")
        require(
            shape is None or shape in _HF_SHAPES,
            f"--format hf has no decay of the shape {shape}: use --format torch or optax",
        )
        options = {"decay_type": None if shape is None else _HF_SHAPES[shape], "min_lr_ratio": floor}
        told = {name: value for name, value in options.items() if value is not None}
        return "warmup_stable_decay", {"num_decay_steps": fields["decay_steps"], **told}
    if kind == "cosine":
        return ("cosine_with_min_lr", {"min_lr_rate": floor}) if floor else ("cosine", {})
    if kind == "linear":  # transformers' linear has no final rate, a polynomial of power 1 has
        return ("polynomial", {"lr_end": floor * made.lr, "power": 1.0}) if floor else ("linear", {})
    if kind == "constant":
        return ("constant_with_warmup" if fields.get("warmup_steps") else "constant"), {}
    require(kind == "inverse_sqrt", f"--format hf has no schedule {kind}: use --format torch or optax")
    return "inverse_sqrt", {}


def _written(given: dict[str, Any]) -> list[str]:
    """Arguments as they are written, without those that nobody told."""
    told = {name: value for name, value in given.items() if value is not None}
    return [f'{name}="{value}"' if isinstance(value, str) else f"{name}={value!r}" for name, value in told.items()]


def _curve(made: Training) -> schedules.Curve | None:
    """The schedule to write; a rate alone where neither a kind nor a warm-up is told."""
    if "kind" not in made.schedule and not made.schedule.get("warmup_steps"):
        return None
    return schedules.curve({"kind": "constant", **made.schedule}, lr=made.lr, tokens_per_step=None)
