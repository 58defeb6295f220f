"""A schedule as code for other libraries: a PyTorch function or an optax expression, plain and self-contained."""

from collections.abc import Sequence

from lab.check import entry, require
from lab.piece import Hold, Law, Piece, Ramp


def torch(parts: Sequence[Piece], note: str) -> str:
    """`factor(step)` for `torch.optim.lr_scheduler.LambdaLR`, in float64."""
    body: list[str] = []
    for part in parts:
        lines = _torch_lines(part, last=part is parts[-1])
        if part is parts[-1]:
            body += [f"    {line}" for line in lines]
        else:
            body += [f"    if step < {part.end}:", *(f"        {line}" for line in lines)]
    imports = ["import math"] if any("math." in line for line in body) else []
    return "\n".join(
        [
            f"# {note}",
            "# Use: torch.optim.lr_scheduler.LambdaLR(optimizer, factor), one scheduler.step() after each update.",
            *imports,
            "",
            "",
            "def factor(step: int) -> float:",
            *body,
            "",
        ]
    )


def optax(parts: Sequence[Piece], note: str, *, scale: float = 1.0) -> str:
    """`schedule`, an optax schedule: optax's own pieces where they are exact, lambdas of the piece's step otherwise."""
    pieces = [_optax_piece(part, scale, last=part is parts[-1]) for part in parts]
    imports = ["import jax.numpy as jnp"] if any("jnp." in piece for piece in pieces) else []
    imports += ["import optax"] if any("optax." in piece for piece in pieces) or len(pieces) > 1 else []
    if len(pieces) == 1:
        body = [f"schedule = {pieces[0]}"]
    else:
        ends = ", ".join(str(part.end) for part in parts[:-1])
        body = ["schedule = optax.join_schedules("]
        body += ["    [", *(f"        {piece}," for piece in pieces), "    ],", f"    [{ends}],", ")"]
    return "\n".join([f"# {note}", *imports, "", *body, ""])


def _torch_lines(part: Piece, *, last: bool) -> list[str]:
    """The statements of one piece; the last one stands still after its end."""
    if isinstance(part, Hold):
        return [f"return {part.value!r}"]
    if isinstance(part, Ramp):
        x = f"{_shifted('step', part.offset - part.begin)} / {part.length}"
        x = f"min({x}, 1.0)" if last else x
        curve = _ramp(part, "math", "x", part.scale)
        return [f"return {x}"] if curve == "x" else [f"x = {x}", f"return {curve}"]
    _require_law(part)
    k = f"min(step, {part.end})" if last else "step"
    k = f"{k} + {part.shift}" if part.shift else k
    k = f"max({k}, 1)" if part.begin + part.shift < 1 else k
    return [f"k = {k}", f"return {_law(part, ('min', 'max'), 'k', 1.0)}"]


def _optax_piece(part: Piece, scale: float, *, last: bool) -> str:
    """One piece as a schedule of its own step, 0 at its begin.

    `join_schedules` evaluates all of them at every step: what is not a number would be harmless, but is avoided.
    """
    if isinstance(part, Hold):
        return f"optax.constant_schedule({scale * part.value!r})"
    if isinstance(part, Ramp):
        remaining = part.length - part.offset
        first, end = (scale * part.scale * (part.low + (1.0 - part.low) * s) for s in _ends(part))
        if part.shape == "linear" and remaining:
            return f"optax.linear_schedule({first!r}, {end!r}, {remaining})"
        if part.shape == "linear":  # with no transition optax stays at the first value
            return f"optax.constant_schedule({end!r})"
        if part.shape == "cosine" and part.offset == 0 and not part.rising:
            return f"optax.cosine_decay_schedule({scale * part.scale!r}, {part.length}, {part.low!r})"
        x = f"jnp.clip({_shifted('k', part.offset)} / {part.length}, 0.0, 1.0)"
        return f"lambda k: {_ramp(part, 'jnp', x, scale * part.scale)}"
    _require_law(part)
    k = f"jnp.minimum(k, {part.end - part.begin})" if last else "k"
    k = f"jnp.maximum({k} + {float(part.begin + part.shift)!r}, 1.0)"
    return f"lambda k: {_law(part, ('jnp.minimum', 'jnp.maximum'), k, scale)}"


def _ends(part: Ramp) -> tuple[float, float]:
    """s at the first update of a linear ramp, and where it ends."""
    first = part.offset / part.length
    return (first, 1.0) if part.rising else (1.0 - first, 0.0)


def _ramp(part: Ramp, module: str, x: str, scale: float) -> str:
    """`lab.piece.Ramp` with the functions of a module, x being an expression of its progress."""
    curve = _curve(part.shape, module, x, rising=part.rising)
    if not part.low:
        return curve if scale == 1.0 else f"{scale!r} * {curve}"
    curve = f"{part.low!r} + {1.0 - part.low!r} * {curve}"
    return curve if scale == 1.0 else f"{scale!r} * ({curve})"


def _curve(shape: str, module: str, x: str, *, rising: bool) -> str:
    """The rise or fall of a shape (`lab.piece`) as an expression that can stand in a product."""
    falling = {
        "linear": f"(1.0 - {x})",
        "cosine": f"0.5 * (1.0 + {module}.cos({module}.pi * {x}))",
        "sqrt": f"(1.0 - {module}.sqrt({x}))",
        "exponential": f"({module}.exp(1.0 - {x}) - 1.0) / ({module}.e - 1.0)",
        "exponential_megatron": f"(2.0 * 0.5 ** {x} - 1.0)",
    }
    mirrored = {
        "linear": x,
        "cosine": f"0.5 * (1.0 - {module}.cos({module}.pi * {x}))",
        "sqrt": f"(1.0 - {module}.sqrt(1.0 - {x}))",
    }
    what = "as code, the shape of a warm-up" if rising else "as code, the shape of a decay"
    return entry(mirrored if rising else falling, shape, what)


def _require_law(part: Piece) -> None:
    require(isinstance(part, Law), f"a piece {type(part).__name__} of a schedule has no code here")


def _law(part: Law, names: tuple[str, str], k: str, scale: float) -> str:
    """`lab.piece.Law` of k; `names` are the functions for the smaller and the larger of two numbers."""
    least, most = names
    law = f"{least}(1.0, {part.coefficient!r} * {k} ** {part.exponent!r})"
    if part.level and part.floor:
        law = f"({part.floor!r} + {1.0 - part.floor!r} * {law})"
    elif part.floor:
        law = f"{most}({part.floor!r}, {law})"
    return law if scale == 1.0 else f"{scale!r} * {law}"


def _shifted(name: str, by: int) -> str:
    """`name` plus a whole number, ready to be divided."""
    return f"({name} {'+' if by > 0 else '-'} {abs(by)})" if by else name
