"""Time of an update by a roofline: arithmetic, memory, links, and a fixed cost per operation that lanes share.

Nothing here was timed on an accelerator.  One update of K lanes on `chips` chips takes

    operations * OPERATION_SECONDS + max(arithmetic, memory, links)

- arithmetic: `K F / (chips * peak * efficiency.large)`, F the FLOPs of one lane's update in bfloat16;
- memory: `K (STATE_TRAFFIC P / chips + A / chips) / bandwidth`, P parameters and A the bytes of activations moved;
- links, where a run is split: gradients summed over its chips in float32, `8 P (chips - 1) / chips` bytes per chip at
  the one-way rate of all its links (a ring or torus; perfectly overlapped with arithmetic).

Lanes have weights of their own, so arithmetic and memory grow with K and only the first term is shared: a model whose
update is much longer than its operations' fixed cost gains nothing from a second lane on its chip.
"""

import math
from dataclasses import dataclass

from lab import count
from lab.check import require
from lab.config import ModelConfig
from sweeps.machine import Machine

# Assumed, not measured: the cost of starting an operation and of filling the chip with it.
OPERATION_SECONDS = {"tpu": 2e-6, "gpu": 5e-6, "cpu": 1e-6}
# Assumed: operations of one update after fusion, forward and backward, per block and besides.
BLOCK_OPERATIONS, OTHER_OPERATIONS = 60, 100
# AdamW with float32 master weights: bytes per parameter that an update reads and writes.  Weights, gradient and two
# moments read and three of them written, a gradient written (32), and bfloat16 weights read forward and backward (4).
STATE_TRAFFIC = 36
# Bytes per parameter that stay: float32 weights, gradients and two moments.
STATE_BYTES = 16


@dataclass(frozen=True)
class Work:
    """One update of one run: FLOPs, parameters, operations, sequences, and bytes of activations.

    `traffic_bytes` are moved per update; `kept_bytes` are held at once, for one sequence with rematerialised blocks.
    """

    flops: float
    parameters: float
    operations: int
    sequences: int
    traffic_bytes: float
    kept_bytes: float

    @property
    def lane_bytes(self) -> float:
        """Memory of one lane whose batch is taken a sequence at a time."""
        return STATE_BYTES * self.parameters + self.kept_bytes


def work(model: ModelConfig, length: int, sequences: int) -> Work:
    """One update of a resolved transformer on `sequences` sequences of `length` tokens, computed in bfloat16.

    Activations moved, per token: every product reads its input and writes its output (2 bytes), once forward and twice
    backward; scores of attention are written and read as often; logits are float32.
    """
    assert model.heads is not None and model.kv_heads is not None and model.head_dim is not None
    assert model.mlp_width is not None and model.vocab is not None
    tokens, d, f = sequences * length, model.width, model.mlp_width
    inner, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    wide = count.mlp_matrices(model)
    block = 3 * 2 * (2 * (d + inner) + 2 * (d + kv) + wide * (d + f)) + 3 * 2 * 2 * model.heads * length
    readout = 3 * (2 * d + 4 * model.vocab)
    return Work(
        flops=count.training_flops_per_token(model, length) * tokens,
        parameters=count.parameters(model, length).total,
        operations=BLOCK_OPERATIONS * model.depth + OTHER_OPERATIONS,
        sequences=sequences,
        traffic_bytes=float(tokens * (model.depth * block + readout)),
        kept_bytes=float(length * (2 * d * model.depth + 2 * (6 * d + wide * f) + 6 * model.vocab)),
    )


def update_seconds(work: Work, machine: Machine, *, lanes: int = 1, chips: int = 1) -> float:
    """Seconds of one update of `lanes` runs together on `chips` chips, each run split over all of them."""
    arithmetic = lanes * work.flops / (chips * machine.peak() / machine.chips * machine.efficiency.large)
    moved = STATE_TRAFFIC * work.parameters + work.traffic_bytes
    memory = lanes * moved / chips / machine.hbm_bytes_per_second
    links = 0.0
    if chips > 1:
        require(machine.interconnect is not None, f"{machine.name} has no links between its chips")
        assert machine.interconnect is not None
        links = lanes * 8 * work.parameters * (chips - 1) / chips / machine.interconnect.bytes_per_second
    return work.operations * OPERATION_SECONDS[machine.platform] + max(arithmetic, memory, links)


def chips_needed(work: Work, machine: Machine) -> int | None:
    """The fewest chips, a power of two, that hold one run, or None where the machine does not."""
    usable = machine.memory_bytes / machine.chips
    for power in range(machine.chips.bit_length()):
        if STATE_BYTES * work.parameters / 2**power + work.kept_bytes <= usable:
            return 2**power
    return None


def lanes_per_place(work: Work, machine: Machine, chips: int) -> int:
    """The most lanes, a power of two, that `chips` chips hold together; 1 where one is split over several."""
    if chips > 1:
        return 1
    return 1 << max(0, int(machine.memory_bytes / machine.chips // work.lane_bytes).bit_length() - 1)


def together(work: Work, machine: Machine, runs: int, *, chips: int | None = None) -> float:
    """Seconds of one update of each of `runs` runs, trained as lanes over `chips` chips (all of the machine's if None).

    Where there are fewer runs than places for one, every run is split by its batch over as many chips as there are for
    it; one run is a run alone.  Where there are more, lanes fill all places, with the remainder in lanes too or split.
    Runs one after another are taken where that is faster.

    Raises:
        InputError: the machine does not hold one run.
    """
    need = _needed(work, machine)
    places = max(1, (machine.chips if chips is None else chips) // need)
    if runs <= places:
        share = max(need, min(need * _power_below(places // runs), _power_below(work.sequences)))
        at_once = update_seconds(work, machine, chips=share)
        return at_once if runs == 1 else min(at_once, runs * together(work, machine, 1, chips=chips))
    most = lanes_per_place(work, machine, need)

    def lanes(count: int) -> float:
        each = min(math.ceil(count / places), most)
        return math.ceil(count / (places * each)) * update_seconds(work, machine, lanes=each, chips=need)

    rest = runs % places
    split = lanes(runs - rest) + together(work, machine, rest, chips=chips) if rest else math.inf
    return min(lanes(runs), split, runs * together(work, machine, 1, chips=chips))


def shared(work: Work, machine: Machine, runs: int) -> float:
    """Seconds of one update of each of `runs` runs where groups of hosts train such units beside each other.

    A group of g chips takes `together` and the machine has so many of them; the best g is a host or a power of two of
    hosts, at least what one run needs.  No group is ever idle: a lower bound, as for any schedule of jobs.

    Raises:
        InputError: the machine does not hold one run.
    """
    groups, size = [], max(_needed(work, machine), machine.chips_per_host)
    while size <= machine.chips:
        groups.append(size)
        size *= 2
    return min(together(work, machine, runs, chips=size) * size / machine.chips for size in groups)


def lane_gain(work: Work, machine: Machine, lanes: int) -> float:
    """How many times faster `lanes` runs are together on one chip than one after another."""
    return lanes * update_seconds(work, machine) / update_seconds(work, machine, lanes=lanes)


def _needed(work: Work, machine: Machine) -> int:
    need = chips_needed(work, machine)
    require(need is not None, f"{machine.name} does not hold a run of {work.parameters:.3g} parameters")
    assert need is not None
    return need


def _power_below(number: int) -> int:
    return 1 << (max(1, number).bit_length() - 1)
