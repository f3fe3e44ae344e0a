"""What several optimizers share in their settings: the range checks, and all of Adam and its kin."""

from __future__ import annotations

from dataclasses import dataclass


def check_betas(betas: tuple[float, float]) -> None:
    """Raises ValueError where a decay is outside [0, 1)."""
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas is {list(betas)}: both lie in [0, 1)")


def check_not_negative(name: str, value: float) -> None:
    """Raises ValueError where the setting `name` is below 0."""
    if value < 0:
        raise ValueError(f"{name} is {value}: it is at least 0")


@dataclass(frozen=True)
class AdamSettings:
    """Settings of torch's Adam and AdamW, which differ in how weight decay acts."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        check_betas(self.betas)
        check_not_negative("eps", self.eps)
        check_not_negative("weight_decay", self.weight_decay)
