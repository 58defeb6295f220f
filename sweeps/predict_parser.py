"""The words of `lrlab predict`: a law's answer for one run, as text, JSON or code."""

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lab.check import require
from sweeps import options as shared

if TYPE_CHECKING:
    from analysis.prediction import Prediction

_ROUNDED = 1.02  # times outside a range that rounding to whole updates explains


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `predict`; `command` makes its parser."""
    does = "learning rate and batch of a run by a law, with prediction intervals and the expected regret"
    parser = command(commands, "predict", _predict, does, "--law law.json --params 7e9 --tokens 1.4e12")
    parser.add_argument("--law", metavar="FILE_OR_NAME", required=True, help="a file of lrlab fit, or a published law")
    shared.add_inputs(parser)
    parser.add_argument("--format", metavar="FORMAT", help="code that sets optimizer and schedule: optax, torch or hf")
    code = parser.add_argument_group("for --format, over what the law's runs had")
    code.add_argument("--schedule", metavar="KIND", help="constant, cosine, inverse-sqrt, linear or wsd")
    code.add_argument("--warmup", metavar="N", type=float, help="updates, or below 1 a share of the run")
    code.add_argument("--decay", metavar="N", type=float, help="the same of wsd's decay")
    code.add_argument("--clip", metavar="X", type=float, help="norm that gradients are clipped at; 0 for no clipping")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _predict(options: argparse.Namespace) -> int:
    from analysis.prediction import predict

    require(not (options.json and options.format), f"--json and --format {options.format}: choose one")
    choices = {name: getattr(options, name) for name in ("schedule", "warmup", "decay", "clip")}
    given = [f"--{name}" for name, value in choices.items() if value is not None]
    require(options.format or not given, f"{' and '.join(given)} shape code: add --format optax, torch or hf")
    found = predict(options.law, **shared.inputs(options))
    if options.format:
        from sweeps.training_code import code
        from sweeps.training_settings import Choice

        print(code(found, options.format, Choice(**choices)), end="")
    elif options.json:
        print(json.dumps(summary(found), indent=1, allow_nan=False))
    else:
        print(text(found))
    return 0


def summary(found: "Prediction") -> dict[str, Any]:
    """A prediction as plain data; null where the law does not say."""
    return dict(vars(found)) | {"warnings": list(found.warnings)}


def text(found: "Prediction") -> str:
    """A prediction in lines."""
    at = ", ".join(f"{name} {value:.6g}" for name, value in found.inputs.items())
    lines = [f"{found.law} at {at}"]
    told = list(dict.fromkeys(found.fitted.values()))
    if told:
        parts = told if len(told) == 1 else [f"{name} {counts}" for name, counts in found.fitted.items()]
        lines.append(f"fitted to      {'; '.join(parts)}")
    if found.lr is not None:
        lines.append(f"learning rate  {found.lr:.4g}{_limits(found.lr_low, found.lr_high)}")
    if found.batch_tokens is not None:
        given = " (given)" if "batch" in found.inputs else ""
        limits = given or _limits(found.batch_low, found.batch_high)
        lines.append(f"batch          {found.batch_tokens:.6g} tokens per update{limits}")
    if found.loss is not None:
        lines.append(f"loss           {found.loss:.4f} nats per token{_limits(found.loss_low, found.loss_high)}")
    if found.regret is not None:
        told = f"regret         {found.regret:.3%} of the loss is to be expected above the best setting"
        if found.regret_low is not None and found.regret_high is not None:
            told += f"  (90 % of such runs {found.regret_low:.3%} .. {found.regret_high:.3%})"
        lines.append(told)
    if found.diverge is not None:
        edge = ""
        if found.edge is not None:
            edge = f"; runs begin to diverge at {found.edge:.4g}{_limits(found.edge_low, found.edge_high)}"
        lines.append(f"divergence     {found.diverge:.1%} probable at this rate{edge}")
    lines += [
        f"{times:.3g} times outside the runs in {name}" for name, times in found.beyond.items() if times > _ROUNDED
    ]
    if found.recipe:
        lines.append("the runs behind the law: " + "; ".join(f"{name} {value}" for name, value in found.recipe.items()))
    if found.conditions:
        told = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.conditions.items())
        lines.append(f"what the law means: {told}")
    return "\n".join([*lines, *(f"warning: {line}" for line in found.warnings)])


def _limits(low: float | None, high: float | None) -> str:
    """The prediction interval; open where the runs do not bound it."""
    if low is None and high is None:
        return ""
    first = "-" if low is None else f"{low:.4g}"
    last = "-" if high is None else f"{high:.4g}"
    return f"  (95 % prediction interval {first} .. {last})"
