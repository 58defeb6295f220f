"""What a sharpness probe measures along a run, how often, and on which batch."""

from dataclasses import dataclass

from lab.check import check_fields, nearest, positive, require

# What a probe's records say they are.
KIND, SCHEMA = "sharpness", 1
# Eigenvalues by one Lanczos run each; all but the first in the metric of the optimizer's update (`lab.sharpness`).
SPECTRA = ("hessian", "preconditioned", "gauss_newton", "residual", "tangent_kernel")
QUANTITIES = (*SPECTRA, "trace", "density", "directional", "blocks")


@dataclass(frozen=True)
class SharpnessConfig:
    """A probe of sharpness.  It changes no run: results are records of their own, beside the run's.

    `quantities` are joined by `+`, as in `preconditioned+tangent_kernel` (`QUANTITIES`).  `top` eigenvalues of each
    spectrum come from `steps` Lanczos steps, and from `warm_steps` after the first point, where they start from its top
    vector (by default half as many if one eigenvalue is asked for, else all).  A trace and a density take `probes`
    random vectors.  The measurement batch is `sequences` windows of the training stream, drawn by `seed`: the
    largest eigenvalue of fewer is far above that of the training loss.  Points lie
    at 0, 1, 2, 4, ... updates and, from `every` on, at its multiples, and at the end of a run.
    """

    quantities: str = "preconditioned"
    top: int = 1
    steps: int = 12
    warm_steps: int | None = None
    probes: int = 16
    sequences: int = 64
    seed: int = 0
    every: int = 64

    def __post_init__(self) -> None:
        check_fields(self, "probe")
        positive(self, "probe", "top", "sequences", "every", "warm_steps")
        for name in self.names:
            known = f"{', '.join(QUANTITIES)}{nearest(name, QUANTITIES)}"
            require(name in QUANTITIES, f"probe.quantities={self.quantities}: {name!r} is not one of {known}")
        require(len(set(self.names)) == len(self.names), f"probe.quantities={self.quantities} names one of them twice")
        require(self.seed >= 0, f"probe.seed={self.seed} is negative")
        require(
            self.steps > self.top,
            f"probe.steps={self.steps} Lanczos steps find no {self.top} eigenvalues: use more than probe.top",
        )
        require(
            self.top < self.warm <= self.steps,
            f"probe.warm_steps={self.warm_steps} is not above probe.top={self.top} and up to probe.steps={self.steps}",
        )
        require(self.probes >= 2, f"probe.probes={self.probes}: an error needs at least 2 random vectors")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.quantities.split("+"))

    @property
    def warm(self) -> int:
        """Lanczos steps that start from the top vector of the point before."""
        if self.warm_steps is not None:
            return self.warm_steps
        return max(2, self.steps // 2) if self.top == 1 else self.steps

    def count(self, begin: int, end: int) -> int:
        """How many numbers `cadence` gives, without writing them down."""
        early = {0} | {1 << power for power in range(self.every.bit_length())}
        first = max(begin, self.every)
        regular = max(0, end // self.every - (first - 1) // self.every)
        return regular + sum(begin <= step <= end for step in early - {self.every})

    def cadence(self, begin: int, end: int) -> tuple[int, ...]:
        """The numbers of updates in begin..end after which to measure: geometric up to `every`, then regular."""
        early = {0} | {1 << power for power in range(self.every.bit_length())}
        regular = set(range(self.every, end + 1, self.every))
        return tuple(sorted(step for step in early | regular if begin <= step <= end))
