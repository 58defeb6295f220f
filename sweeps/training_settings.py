"""What a predicted run's optimizer and schedule are set to: what the law's runs had or a person chooses, no more.

What neither tells stays None and is named in `comments`: code leaves it out, and the library's own default holds.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from analysis.prediction import Prediction
from lab.check import nearest, require
from lab.config.schedule import DecayShape

KINDS = ("constant", "cosine", "inverse_sqrt", "linear", "wsd")
# Words that make a description of a schedule none of ours, whatever else it says.
_FOREIGN = re.compile(r"multi|restart|cycl|power|polynomial|plateau|\bwsd s\b|\bstep\b")
_WORDS = {
    "cosine": r"cosine",
    "linear": r"linear",
    "inverse_sqrt": r"inv(erse)? (sqrt|square)|rsqrt|noam",
    "constant": r"constant",
}
_SHAPES = {"cosine": r"cosine", "sqrt": r"sqrt", "linear": r"linear", "exponential": r"exponential"}
_RIVALS = re.compile(r"muon|scion|lion|sgd|shampoo|soap|adafactor|adagrad|rmsprop|sophia|lamb|adamax|nadam")
_DURATION = re.compile(
    r"([\d.]+(?:e[+-]?\d+)?) *(% of the run|% of the steps|%|of the run|updates?\b|steps?\b|tokens\b)"
)
_RATIO = re.compile(r"([\d.]+(?:e[+-]?\d+)?)( *%)?( of the peak)?")
_UNTOLD = ("", "not confirmed", "not told", "unknown")


@dataclass(frozen=True)
class Choice:
    """What a person decides, over what the law's runs had; None leaves it to them.

    `warmup` and `decay` are updates, or below 1 a share of the run; `clip` is a gradient norm, 0 for no clipping.

    Raises:
        InputError: a kind that code is not written for, or a number that cannot be.
    """

    schedule: str | None = None
    warmup: float | None = None
    decay: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        kind = self.kind
        require(
            kind is None or kind in KINDS,
            f"--schedule {self.schedule} is not one of {', '.join(KINDS)}{nearest(kind or '', KINDS)}; lrlab schedule "
            "export writes the others",
        )
        for name in ("warmup", "decay", "clip"):
            value = getattr(self, name)
            require(
                value is None or (math.isfinite(value) and value >= 0),
                f"--{name} {value} is not a number from 0 on",
            )
            require(
                value is None or name == "clip" or value < 1 or value == int(value),
                f"--{name} {value} is neither a whole number of updates nor, below 1, a share of the run",
            )

    @property
    def kind(self) -> str | None:
        return None if self.schedule is None else self.schedule.replace("-", "_")


@dataclass(frozen=True)
class Training:
    """What a run's optimizer needs; None is what nobody told.

    `schedule` are the fields of a `lab.config.ScheduleConfig` without its kind where that is not told; it has `floor`,
    `decay_shape` and `warmup_steps` only where they are. `clip` is 0 where the runs did not clip.
    """

    lr: float
    steps: int
    batch: float
    schedule: Mapping[str, Any]
    beta1: float | None
    beta2: float | None
    weight_decay: float | None
    clip: float | None
    comments: tuple[str, ...]


def training(found: Prediction, chosen: Choice | None = None) -> Training:
    """The settings of a predicted run.

    Raises:
        InputError: the prediction has no rate, no batch, or no tokens; the law's runs had an optimizer that is neither
            Adam nor AdamW; a choice does not go with the run.
    """
    chosen = chosen or Choice()
    require(found.lr is not None, f"law {found.law} gives no learning rate: there is nothing to set")
    require(found.batch_tokens is not None, "the number of updates needs the batch: add --batch, in tokens per update")
    require("tokens" in found.inputs, "the number of updates needs the tokens of the run: add --tokens")
    assert found.lr is not None and found.batch_tokens is not None
    steps = max(1, round(found.inputs["tokens"] / found.batch_tokens))
    notes = _optimizer(found)
    schedule, more = _schedule(found, chosen, steps)
    numbers = {name: _number(found.recipe.get(name)) for name in ("beta1", "beta2", "weight decay")}
    clip = _clip(found.recipe) if chosen.clip is None else chosen.clip
    notes += more + [f"{name} is not told: left out" for name, value in numbers.items() if value is None]
    notes += ["clipping is not told: left out, --clip sets it"] if clip is None else []
    decay = numbers["weight decay"]
    if decay and found.recipe.get("weight decay kind") == "independent":
        decay /= found.lr
        notes.append("its runs removed the weight decay whatever the rate: it is divided by the rate here")
    return Training(
        lr=found.lr,
        steps=steps,
        batch=found.batch_tokens,
        schedule=schedule,
        beta1=numbers["beta1"],
        beta2=numbers["beta2"],
        weight_decay=decay,
        clip=clip,
        comments=(*_header(found, steps), *notes, *_defaults(notes)),
    )


def _header(found: Prediction, steps: int) -> list[str]:
    told = [f"{name}: {value}" for name, value in found.recipe.items() if str(value) not in _UNTOLD]
    lines = [
        f"law {found.law} at {', '.join(f'{name} {value:.6g}' for name, value in found.inputs.items())}: "
        f"rate {found.lr:.6g}, {found.batch_tokens:.6g} tokens per update, {steps} updates"
    ]
    lines += [f"its runs had {'; '.join(told)}"] if told else []
    rule = str(found.conditions.get("parametrization", "sp"))
    if rule not in ("sp", "standard", *_UNTOLD):
        lines.append(f"its runs were parametrized by {rule}: a model that is not has another rate")
    return lines


def _defaults(notes: list[str]) -> list[str]:
    return (
        ["where something is left out, the library's own default holds"] if any("left out" in n for n in notes) else []
    )


def _optimizer(found: Prediction) -> list[str]:
    """What is to be said of the optimizer; code is for Adam with decoupled decay."""
    words = str(found.recipe.get("optimizer", ""))
    plain = re.sub(r"[^a-z]+", " ", words.lower())
    if words.lower() in _UNTOLD:
        return ["the optimizer is not told: AdamW"]
    require(
        "adam" in plain and not _RIVALS.search(plain),
        f"law {found.law} is of runs with {words}, and code is written for Adam and AdamW only: leave --format out and "
        "set the rate by hand",
    )
    return []


def _schedule(found: Prediction, chosen: Choice, steps: int) -> tuple[dict[str, Any], list[str]]:
    """(fields of the schedule, what is not told)."""
    recipe, batch, notes = found.recipe, found.batch_tokens, []
    assert batch is not None and found.lr is not None
    words = str(recipe.get("schedule", ""))
    fields: dict[str, Any] = {"steps": steps}
    warmup, how = _duration(recipe.get("warm-up"), steps, batch)
    if chosen.warmup is not None:
        warmup = _updates(chosen.warmup, steps)
        require(warmup <= steps, f"--warmup {chosen.warmup:g} is longer than the run of {steps} updates")
    elif warmup is None:
        notes.append("the warm-up is not told: left out, --warmup sets it")
    elif warmup > steps:
        notes.append(f"a warm-up of {warmup} updates is longer than the run of {steps}: left out, --warmup sets it")
        warmup = None
    elif how:
        notes.append(f"the warm-up {how}: --warmup says otherwise")
    if warmup is not None:
        fields["warmup_steps"] = warmup
    kind = chosen.kind or kind_of(words)
    if kind is None:
        what = f"the schedule ({words}) is none of ours" if words.lower() not in _UNTOLD else "the schedule is not told"
        return fields, [f"{what}: left out, --schedule sets it", *notes]
    require(
        kind == "wsd" or chosen.decay is None,
        f"--decay {chosen.decay} with the schedule {kind}: only wsd has a decay of a length of its own",
    )
    if kind == "wsd":
        decay, more = _decay(found, chosen, steps, warmup or 0)
        notes += more
        if decay is None:
            return fields, notes
        fields["decay_steps"] = decay
        shape = _shape(recipe)
        if shape is None:
            notes.append("the decay's shape is not told: left out")
        else:
            fields["decay_shape"] = shape
    if kind in ("wsd", "cosine", "linear"):
        floor = _floor(recipe, found.lr)
        if floor is None:
            notes.append("the final rate is not told: left out")
        else:
            fields["floor"] = floor
    return fields | {"kind": kind}, notes


def _decay(found: Prediction, chosen: Choice, steps: int, warmup: int) -> tuple[int | None, list[str]]:
    """(updates of a WSD's decay, what is to be said of it); None leaves the schedule out."""
    assert found.batch_tokens is not None
    told = found.recipe.get("decay")
    if told is None:  # as in "WSD, 10 % decay"
        matched = re.search(r"[\d.]+ *% *(linear |cosine |exponential )?decay", str(found.recipe.get("schedule", "")))
        told = matched and matched[0]
    decay, how = _duration(told, steps, found.batch_tokens)
    if chosen.decay is not None:
        decay, how = _updates(chosen.decay, steps), ""
    lacks = "" if decay is not None else "is not told"
    if decay is not None and warmup + decay > steps:
        lacks = f"of {decay} updates and a warm-up of {warmup} are longer than the run of {steps}"
    if lacks:
        require(chosen.kind is None and chosen.decay is None, f"--schedule wsd: a decay that {lacks}: set --decay")
        return None, [f"the schedule is wsd, with a decay that {lacks}: left out, --decay sets it"]
    return decay, [f"the decay {how}: --decay says otherwise"] if how else []


def _shape(recipe: Mapping[str, Any]) -> str | None:
    """The shape of a WSD's decay, told by itself or in the words of the schedule, as in "WSD with a linear decay"."""
    words = str(recipe.get("decay shape") or recipe.get("schedule")).lower().split(";")[0]
    if words in get_args(DecayShape):
        return words
    return next((name for name, form in _SHAPES.items() if re.search(form, words)), None)


def kind_of(words: str) -> str | None:
    """The kind of schedule that a description means; None where it is none of ours, or it is not clear which."""
    plain = re.sub(r"[^a-z]+", " ", words.lower().split(";")[0])
    plain = re.sub(r"linear(ly)? warm ?up|warm ?up linear(ly)?", "", plain)
    if _FOREIGN.search(plain):
        return None
    if re.search(r"\bwsd\b|stable|trapez", plain):
        return "wsd"
    named = [kind for kind, form in _WORDS.items() if re.search(form, plain)]
    return named[0] if len(named) == 1 else None


def _duration(value: Any, steps: int, batch: float) -> tuple[int | None, str]:
    """A duration in updates, and how a number without a unit was taken; None where it is not told."""
    bare = _number(value)
    if bare is not None and bare >= 0:
        if 0 < bare < 1:
            return round(bare * steps), f"{bare:g} has no unit and is taken as a share of the run"
        return round(bare), f"{bare:g} has no unit and is taken as updates" if bare else ""
    matched = _DURATION.search(str(value).replace(",", ""))
    if matched is None:
        return None, ""
    number, unit = float(matched[1]), matched[2]
    if unit.startswith("%"):
        return round(number / 100 * steps), ""
    return round(number * steps if unit == "of the run" else number / batch if unit == "tokens" else number), ""


def _updates(value: float, steps: int) -> int:
    return round(value * steps) if value < 1 else round(value)


def _floor(recipe: Mapping[str, Any], lr: float) -> float | None:
    """Final rate over the peak: told as a ratio, or as a rate, which depends on the peak."""
    ratio = _number(recipe.get("final rate / peak"))
    matched = _RATIO.search(str(recipe.get("final rate", "")))
    if ratio is None and matched is not None:
        number = float(matched[1])
        ratio = number / 100 if matched[2] else number if matched[3] else number / lr
    return ratio if ratio is not None and 0 <= ratio <= 1 else None


def _clip(recipe: Mapping[str, Any]) -> float | None:
    """The norm that the runs clipped at, 0 where they did not; None where it is not told."""
    if "clip" not in recipe:
        return None
    value = recipe["clip"]
    if value is None or str(value).lower() in ("none", "nan", "off"):
        return 0.0
    return _number(value)


def _number(value: Any) -> float | None:
    """A number, or the one that a text consists of."""
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
