"""Range checks that the settings of several optimizers share."""

from __future__ import annotations


def check_betas(betas: tuple[float, float]) -> None:
    """Raises ValueError where a decay is outside [0, 1)."""
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas is {list(betas)}: both lie in [0, 1)")


def check_not_negative(name: str, value: float) -> None:
    """Raises ValueError where the setting `name` is below 0."""
    if value < 0:
        raise ValueError(f"{name} is {value}: it is at least 0")
