"""What a probe costs before it is paid: FLOPs and memory, from the number of products that it makes."""

from lab import count
from lab.config import RunConfig, SharpnessConfig
from lab.config.probe import SPECTRA
from lab.device import Execution
from lab.memory import memory_bytes

# FLOPs of one product, in gradients of the measurement batch (docs/performance.md).
PRODUCTS = {"hessian": 2.7, "preconditioned": 2.7, "gauss_newton": 1.7, "residual": 4.4, "tangent_kernel": 1.7}
# Memory of a product with a Hessian, in what a gradient keeps.
_ACTIVATIONS = 2.1
# Vectors of the parameters' size that a Lanczos step holds beside its basis.
_VECTORS = 6


def memory(config: SharpnessConfig, run: RunConfig, how: Execution) -> int:
    """Estimated bytes of one device that measuring a unit takes beyond training it.

    Warm vectors of all lanes; of the lanes at once the Lanczos basis and what a product keeps beyond a gradient.
    """
    vector = count.parameters(run.model, run.data.length).total * (8 if run.dtype == "float64" else 4)
    one = memory_bytes(run, lanes=1, strategy="map", group=1, accumulate=how.accumulate)
    activations = one - 4 * vector  # parameters, two moments and a gradient are the rest
    assert how.mesh.lane is not None
    lanes = how.lanes // how.mesh.lane
    at_once = {"vmap": lanes, "map": 1, "both": how.group}[how.strategy]
    spectra = sum(name in SPECTRA for name in config.names)
    working = vector * (config.steps + _VECTORS) + (_ACTIVATIONS - 1) * activations
    return int(lanes * spectra * vector + at_once * working)


def gradients(config: SharpnessConfig, layers: int, steps: int) -> float:
    """What a point costs, in gradients of the measurement batch: each spectrum takes `steps` Lanczos steps.

    `layers` is the number of blocks of a model.
    """
    found = 1.0 + sum(steps * PRODUCTS[name] for name in config.names if name in SPECTRA)
    density = config.probes * config.steps
    others = {"trace": config.probes, "density": density, "directional": 1, "blocks": config.steps * layers}
    return found + PRODUCTS["hessian"] * sum(others.get(name, 0) for name in config.names)


def flops(config: SharpnessConfig, run: RunConfig, points: int) -> float:
    """FLOPs of measuring a run so many times, the first time from a random start."""
    tokens = config.sequences * run.data.length
    layers = run.model.depth + 3  # embedding, final norm and readout are blocks too
    made = min(points, 1) * gradients(config, layers, config.steps)
    made += max(points - 1, 0) * gradients(config, layers, config.warm)
    return made * tokens * count.training_flops_per_token(run.model, run.data.length)
