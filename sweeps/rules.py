"""The numbers that a parametrization gives the laboratory's transformer, as a table or JSON; nothing is trained."""

from collections.abc import Mapping
from typing import Any

from lab.config import RunConfig
from lab.model import leaves
from lab.override import apply
from lab.recipe import rows
from lab.scale import scales
from sweeps.column import aligned

VOCAB = 256
_HEAD_DIMS = (64, 32, 16, 8, 4, 2)


def show(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Scales of the run that the settings describe, with a weight decay so that its kind matters.

    Raises:
        InputError: settings that do not go together.
    """
    width, base_width = settings["model.width"], settings["parametrization.base_width"]
    defaults: dict[str, Any] = {"optimizer.weight_decay": 0.0 if settings["optimizer.kind"] == "adam" else 0.1}
    if not {"model.head_dim", "model.heads"} & settings.keys():
        fits = [dim for dim in _HEAD_DIMS if width % dim == 0 and base_width % dim == 0]
        defaults["model.head_dim"] = fits[0] if fits else None
    config = apply(RunConfig(), defaults | dict(settings)).resolve(vocab=VOCAB, fingerprint="")
    parameters = leaves(config)
    found = scales(config, parameters)
    table = rows(parameters, found.factors)
    for row in table:
        row |= {"shape": list(parameters[row["path"]].shape), "std": found.init_std[row["path"]]}
    return {
        "parametrization": config.parametrization.name,
        "optimizer": config.optimizer.kind,
        "width": width,
        "base_width": base_width,
        "depth": config.model.depth,
        "attention": found.attention,
        "logits": found.logits,
        "leaves": table,
    }


def text(found: Mapping[str, Any]) -> str:
    """The same as a table; std is absolute, everything after it relative to the base shape."""
    header = ("parameter", "role", "shape", "std", "init x", "forward x", "lr x", "eps x", "decay x")
    keys = ("init_std", "forward", "lr", "eps", "weight_decay")
    lines = [
        (
            row["path"],
            row["role"],
            "x".join(map(str, row["shape"])),
            f"{row['std']:.4g}",
            *(f"{row[k]:.6g}" for k in keys),
        )
        for row in found["leaves"]
    ]
    title = (
        f"{found['parametrization']}, width {found['width']} over {found['base_width']}, depth {found['depth']}, "
        f"{found['optimizer']}; attention logits x {found['attention']:.6g}, logits x {found['logits']:.6g}"
    )
    note = "gains start at 1, biases at 0; x: factor relative to the base shape; decay: on a coupled coefficient"
    return "\n".join([title, *aligned([header, *lines], left=3), note])
