"""What a run reads: corpus, batch shape, and the final validation."""

from dataclasses import dataclass, field

from lab.check import check_fields, positive, require
from lab.config.field import NOT_HASHED


@dataclass(frozen=True)
class DataConfig:
    """Corpus, tokenizer and batch shape (`sequences` x `length` tokens per update).

    `corpus` and `tokenizer` say where the text comes from and are not part of the identity: the `fingerprint` of
    the token streams is.
    """

    corpus: str = field(default="python-stdlib", metadata=NOT_HASHED)
    tokenizer: str = field(default="bytes", metadata=NOT_HASHED)
    fingerprint: str | None = None
    validation_fraction: float = 0.05
    sequences: int = 16
    length: int = 64

    def __post_init__(self) -> None:
        check_fields(self, "data")
        positive(self, "data", "sequences", "length")
        require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction={self.validation_fraction} is not between 0 and 1",
        )

    @property
    def tokens_per_step(self) -> int:
        return self.sequences * self.length


@dataclass(frozen=True)
class EvaluationConfig:
    """Final validation: mean loss over `sequences` fixed sequences of the validation split."""

    sequences: int = 512

    def __post_init__(self) -> None:
        check_fields(self, "evaluation")
        require(
            self.sequences >= 2,
            f"evaluation.sequences={self.sequences}: a standard error needs at least 2",
        )
