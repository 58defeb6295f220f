"""How initialisation, multipliers, rates, eps and decay follow the shape."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from lab import ablation
from lab.check import check_fields, positive, require
from lab.config.field import added
from lab.config.model import ModelConfig

HORIZON_KINDS = ("adamw", "adam")

Name = Literal["sp_gpt2", "sp", "sp_per_layer", "ntk", "mup", "mup_table3", "mup_tp4", "mean_field", "u_mup"]
Alignment = Literal["full", "none", "classical"]
DepthRule = Literal["none", "sqrt", "complete"]

# Fields that mean nothing while their rule is off: cleared when a run is resolved, so that ids do not depend on them.
_UNUSED_WITHOUT: dict[tuple[str, str], tuple[str, ...]] = {
    ("depth", "none"): ("base_depth",),
    ("horizon", "none"): ("base_batch", "base_tokens"),
}


@dataclass(frozen=True)
class ParametrizationConfig:
    """Which rules apply (`lab.parametrization`) and the base shape at which they are the identity.

    The base widths of the MLP and of the keys and values default to values in proportion to the width, the base head
    dimension to that of the model.

    - `alignment`: how strongly updates are assumed to align with activations (Everett et al., arXiv 2407.05872).
    - `attention`: logits times `1/sqrt(d)` (sqrt) or `sqrt(d0)/d` (inverse); auto takes the parametrization's.
    - `scale_eps`: whether Adam's eps follows the gradient's scale.
    - `depth`: residual branches times 1, `(L/L0)^-1/2` (sqrt) or `(L/L0)^-1` (complete: CompleteP), with what follows
      for rates, eps and decay; `base_depth` is L0.
    - `residual_init`: gpt2 starts the matrices that end a branch smaller by `(2L)^-1/2`.
    - `matrix_std`: base standard deviation of hidden and readout matrices, `fan_in^-1/2` where it is None.
    - `horizon`: completed scales rate, eps, decay and betas with batch and token budget (Complete(d)P, 2512.22382);
      `base_batch` is in tokens per update.
    - `decay_exponent`: further factor m^e on the decay of matrices: -1/2 or -1 in some papers.
    - `ablate`: rules that are switched off, as in `hidden.lr` or `hidden.lr+attention` (`lab.ablation`).
    """

    name: Name = "mup"
    base_width: int = 32
    base_mlp_width: int | None = None
    base_kv_width: int | None = None
    base_head_dim: int | None = None
    init_scale: float = 1.0
    embedding_std: float = 1.0
    zero_readout: bool = True
    alignment: Alignment = added(schema=2, frozen="full")
    attention: Literal["auto", "sqrt", "inverse"] = added(schema=2, frozen="auto")
    scale_eps: bool = added(schema=2, frozen=True)
    depth: DepthRule = added(schema=2, frozen="none")
    base_depth: int | None = added(schema=2, frozen=None)
    residual_init: Literal["plain", "gpt2"] = added(schema=2, frozen="plain")
    matrix_std: float | None = added(schema=2, frozen=None)
    horizon: Literal["none", "completed"] = added(schema=2, frozen="none")
    base_batch: int | None = added(schema=2, frozen=None)
    base_tokens: int | None = added(schema=2, frozen=None)
    decay_exponent: float = added(schema=2, frozen=0.0)
    ablate: str | None = added(schema=2, frozen=None)

    def __post_init__(self) -> None:
        check_fields(self, "parametrization")
        positive(self, "parametrization", "base_width", "base_mlp_width", "base_kv_width", "base_head_dim")
        positive(self, "parametrization", "init_scale", "embedding_std", "matrix_std")
        positive(self, "parametrization", "base_depth", "base_batch", "base_tokens")
        ablation.parse(self.ablate)
        require(
            self.depth == "none" or self.base_depth is not None,
            f"parametrization.depth={self.depth} scales with the depth over parametrization.base_depth: set it to the "
            "depth at which you tune",
        )
        require(
            self.depth == "none" or self.residual_init == "plain",
            f"parametrization.depth={self.depth} with parametrization.residual_init=gpt2 would scale the residual "
            "branches twice: use residual_init=plain",
        )
        require(
            self.horizon == "none" or (self.base_batch is not None and self.base_tokens is not None),
            "parametrization.horizon=completed scales with batch and tokens over those of the tuned run: set "
            "parametrization.base_batch (tokens per update) and parametrization.base_tokens",
        )

    def resolve(self, model: ModelConfig) -> "ParametrizationConfig":
        """Fill in the base shape and clear what is not used; `model` is resolved."""
        unused: dict[str, Any] = {
            name: None for (rule, off), names in _UNUSED_WITHOUT.items() if getattr(self, rule) == off for name in names
        }
        if model.kind == "mlp":
            unused |= {"base_mlp_width": None, "base_kv_width": None, "base_head_dim": None, "attention": "auto"}
            return dataclasses.replace(self, **unused)
        assert model.mlp_width is not None and model.head_dim is not None and model.kv_heads is not None
        kv_width = model.kv_heads * model.head_dim
        return dataclasses.replace(
            self,
            base_mlp_width=self.base_mlp_width or self._in_proportion("mlp_width", model.mlp_width, model.width),
            base_kv_width=self.base_kv_width or self._in_proportion("kv_width", kv_width, model.width),
            base_head_dim=self.base_head_dim or model.head_dim,
            **unused,
        )

    def _in_proportion(self, name: str, value: int, width: int) -> int:
        scaled = value * self.base_width
        require(
            scaled % width == 0,
            f"{name} {value} at model.width={width} is not a whole number at "
            f"parametrization.base_width={self.base_width}: set parametrization.base_{name}",
        )
        return scaled // width


def check_horizon(parametrization: ParametrizationConfig, kind: str) -> None:
    """Refuse a horizon rule for an optimizer that it was not derived for.

    Complete(d)P's square root, its betas and its eps are those of Adam's stochastic differential equation (2512.22382);
    SGD's rate goes with the batch itself, and Lion, Muon and Adafactor have no published rule of this form.

    Raises:
        InputError: the rule does not hold for the optimizer.
    """
    require(
        parametrization.horizon == "none" or kind in HORIZON_KINDS,
        f"parametrization.horizon={parametrization.horizon} is derived for {' and '.join(HORIZON_KINDS)}, not for "
        f"optimizer.kind={kind}: use one of them, or parametrization.horizon=none and a rate tuned at the run's batch "
        "and tokens",
    )
