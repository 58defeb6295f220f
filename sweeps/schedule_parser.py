"""The words of `lrlab schedule`: what the options mean as fields of a schedule."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.check import require

if TYPE_CHECKING:
    from sweeps.schedules import Curve

# Names that other libraries have for a shape.
_SHAPES = {"1-sqrt": "sqrt", "minus_sqrt": "sqrt", "minus-sqrt": "sqrt", "exponential-megatron": "exponential_megatron"}


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `schedule` with its actions; `command` makes the parser of one action."""
    group = commands.add_parser(
        "schedule",
        help="a learning-rate schedule as numbers, a picture, or code for optax and PyTorch",
        description="A learning-rate schedule as numbers, a picture, or code for optax and PyTorch.",
    )
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    example = "wsd --steps 20 --warmup 4 --decay 5 --decay-shape linear --index hf"
    show = command(actions, "show", _show, "its phases, and the factor of every update", f"{example} --json")
    plot = command(actions, "plot", _plot, "a picture of it", f"{example} --out schedule.png")
    export = command(
        actions, "export", _export, "code or data that gives the same numbers", f"{example} --format torch"
    )
    for parser in (show, plot, export):
        _options(parser)
    show.add_argument("--json", action="store_true", help="print as JSON")
    plot.add_argument("--out", metavar="FILE.png", type=Path, required=True)
    export.add_argument("--format", metavar="FORMAT", required=True, help="optax, torch, json or csv")
    export.add_argument("--out", metavar="FILE", type=Path, help="write it there instead of printing it")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind", metavar="KIND", help="constant, linear, cosine, wsd, power, wsd-s, inverse-sqrt or one-cycle"
    )
    durations = parser.add_argument_group("durations, in updates unless the option says otherwise")
    durations.add_argument("--steps", metavar="N", type=_whole)
    durations.add_argument("--tokens", metavar="N", type=_whole)
    for phase in ("warmup", "decay"):
        durations.add_argument(f"--{phase}", metavar="N", type=_whole, dest=f"{phase}_steps")
        durations.add_argument(f"--{phase}-tokens", metavar="N", type=_whole)
        durations.add_argument(f"--{phase}-fraction", metavar="X", type=float)
    durations.add_argument("--cycles", metavar="N1,N2", help="ends of the earlier cycles of wsd-s")
    shape = parser.add_argument_group("shape")
    shape.add_argument("--decay-shape", help="linear (default), cosine, sqrt, exponential or exponential_megatron")
    shape.add_argument("--floor", metavar="X", type=float, help="final rate as a ratio to the peak (default 0)")
    shape.add_argument("--warmup-shape", help="linear (default), cosine or sqrt")
    shape.add_argument("--start", metavar="X", type=float, help="where the warm-up starts, as a ratio to its end")
    shape.add_argument(
        "--index",
        help="how updates are counted: lab (default), hf, torchtitan, megatron, dolomite, olmo_core, maxtext, levanter",
    )
    rates = parser.add_argument_group("rates and tokens")
    rates.add_argument("--lr", metavar="X", type=float, help="peak; the cap of power (default 0.02)")
    rates.add_argument("--a", metavar="X", type=float, help="coefficient of power (default 4)")
    rates.add_argument("--b", metavar="X", type=float, help="exponent of power (default -0.51)")
    rates.add_argument("--batch", metavar="N", type=_whole, help="tokens of an update, as in predict, suggest and laws")
    rates.add_argument("--sequences", metavar="N", type=_whole, help="sequences of an update, instead of --batch")
    rates.add_argument("--length", metavar="N", type=_whole, help="tokens of one of --sequences (default 4096)")


def _curve(options: argparse.Namespace) -> "Curve":
    from sweeps import schedules

    for name in ("batch", "sequences", "length"):
        value = getattr(options, name)
        require(value is None or value > 0, f"--{name}={value} is not above 0")
    require(
        options.batch is None or (options.sequences is None and options.length is None),
        f"--batch={options.batch} is in tokens per update: leave --sequences and --length out, or give only these",
    )
    fields: dict[str, Any] = {
        "kind": options.kind.replace("-", "_"),
        "steps": options.steps,
        "tokens": options.tokens,
        "decay_shape": _SHAPES.get(options.decay_shape, options.decay_shape),
        "floor": options.floor,
        "warmup_shape": _SHAPES.get(options.warmup_shape, options.warmup_shape),
        "warmup_start": options.start,
        "index": options.index and options.index.replace("-", "_"),
        "power_coefficient": options.a,
        "power_exponent": options.b,
        "cycle_steps": None if options.cycles is None else tuple(map(_whole_cycle, options.cycles.split(","))),
    }
    for phase in ("warmup", "decay"):
        for unit in ("steps", "tokens", "fraction"):
            fields[f"{phase}_{unit}"] = getattr(options, f"{phase}_{unit}")
    length = 4096 if options.length is None else options.length
    per_step = options.batch if options.sequences is None else options.sequences * length
    given = {name: value for name, value in fields.items() if value is not None}
    return schedules.curve(given, lr=options.lr, tokens_per_step=per_step)


def _show(options: argparse.Namespace) -> int:
    from sweeps import schedules

    found = _curve(options)
    print(json.dumps(schedules.summary(found)) if options.json else schedules.text(found))
    return 0


def _plot(options: argparse.Namespace) -> int:
    from sweeps import schedules

    schedules.plot(_curve(options), options.out)
    print(f"plot: {options.out}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from sweeps import schedules

    found = _curve(options)
    content = schedules.export(found, options.format)
    if options.format not in ("optax", "torch") and (missing := schedules.missing(found.schedule)):
        print(f"note: {missing}", file=sys.stderr)
    if options.out is None:
        print(content, end="")
    else:
        schedules.write(content, options.out)
        print(f"{options.format}: {options.out}")
    return 0


def _whole(text: str) -> int:
    """A whole number, also written as 1e9."""
    try:
        value = float(text)
        exact = int(text) if "e" not in text.lower() and "." not in text else int(value)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number") from None
    if exact != value and float(exact) != value:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return exact


def _whole_cycle(text: str) -> int:
    require(text.strip().isdigit(), f"--cycles has the part {text!r}: write the updates as in 10,20")
    return int(text)
