"""Settings that concepts must share to train in one forward. Plans group by them, and packs check them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models.sizes import Bucket
from training.config import TrainConfig

FORWARDS = {
    "dual": "dual",
    "motiondirector": "dual",
    "no-debias": "dual",
    "coupled": "coupled",
    "full": "full",
    "appearance": "appearance",
}


@dataclass(frozen=True, order=True)
class GroupKey:
    """Concepts with equal keys fit one pack. All other settings of its members may differ."""

    foundation: str  # fingerprint; it determines the adapters' layers
    frames: int
    height: int
    width: int
    forward: str  # dual (with or without debiasing, which only changes the loss), coupled, full, appearance
    rank: int  # 0: whole layers
    appearance_tokens: int
    appearance_preservation: float
    spatial_lora: bool
    dropout: float
    gradient_accumulation: int
    dtype: str
    quantize: str
    gradient_checkpointing: bool
    zero: int
    workers: str  # "2" or "1:4"

    @property
    def bucket(self) -> Bucket:
        """The size of the clips."""
        return Bucket(self.frames, self.height, self.width)

    @property
    def measured_as(self) -> str:
        """Key of this group in a profile: names everything that the cost of a step depends on."""
        parts = (self.foundation[:16], str(self.bucket), self.forward, f"rank{self.rank}", self.dtype)
        tokens = (f"tokens{self.appearance_tokens}",) if self.appearance_tokens else ()
        kept = ("preserving",) if self.appearance_preservation else ()
        alone = () if self.spatial_lora else ("no-spatial-lora",)
        saving: tuple[str, ...] = ("checkpointing",) if self.gradient_checkpointing else ()
        saving += (self.quantize,) if self.quantize != "none" else ()
        return "/".join(
            (*parts, *tokens, *kept, *alone, *saving, f"zero{self.zero}", f"workers{self.workers}")
        )

    def config(self) -> TrainConfig:
        """The settings of a step that all members share."""
        shared = {name: value for name, value in asdict(self).items() if name in TrainConfig.model_fields}
        return TrainConfig(**{**shared, "rank": self.rank or 1, "method": self.forward})

    def difference(self, other: GroupKey) -> str | None:
        """The first difference to another key, for an error: "rank 8, not 16". None if the keys are equal."""
        mine, theirs = asdict(self), asdict(other)
        return next(
            (f"{n} {_short(theirs[n])}, not {_short(v)}" for n, v in mine.items() if theirs[n] != v), None
        )


def group_key(fingerprint: str, config: TrainConfig) -> GroupKey:
    """The group of a concept that trains with these settings.

    Args:
        fingerprint: the foundation's.
        config: resolved: frames, height and width are set.
    """
    assert config.frames is not None, "resolve the size first"
    assert config.height is not None, "resolve the size first"
    assert config.width is not None, "resolve the size first"
    whole = config.method == "full"  # ignores rank and dropout
    return GroupKey(
        foundation=fingerprint,
        frames=config.frames,
        height=config.height,
        width=config.width,
        forward=FORWARDS[config.method],
        rank=0 if whole else config.rank,
        appearance_tokens=config.appearance_tokens,
        appearance_preservation=config.appearance_preservation,
        spatial_lora=config.spatial_lora,
        dropout=0.0 if whole else config.dropout,
        gradient_accumulation=config.gradient_accumulation,
        dtype=config.dtype,
        quantize=config.quantize,
        gradient_checkpointing=config.gradient_checkpointing,
        zero=config.zero,
        workers=str(config.workers),
    )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
