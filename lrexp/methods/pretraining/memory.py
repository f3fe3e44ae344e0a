"""What pretraining a LLaMA takes by each method's count of numbers: weights, optimizer states and gradients in bf16.

The tables of SLTrain (arXiv 2406.02214, table 2) and GaLore (arXiv 2403.03507, table 2): 2 bytes a number, Adam with
two moments in bf16, indices in int64; gradients are not in those tables, activations in none. All exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass


def nonzeros(sp_ratio: float, m: int, n: int) -> int:
    """Entries of the sparse part of an (m, n) weight: floor(delta m n), in the floating point of the authors' code."""
    return int(sp_ratio * (m * n))


@dataclass(frozen=True)
class Sizes:
    """A LLaMA whose seven linears a block have a rank and a sparse part: d wide, f in the MLP, an untied head."""

    d: int
    f: int
    layers: int
    vocab: int
    rank: int
    sp_ratio: float

    @property
    def base(self) -> int:
        """Parameters that stay dense: embedding, head, norms."""
        return 2 * self.vocab * self.d + (2 * self.layers + 1) * self.d

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Shapes (out, in) of the linears of all blocks."""
        block = [(self.d, self.d)] * 4 + [(self.f, self.d)] * 2 + [(self.d, self.f)]
        return block * self.layers

    @property
    def lin(self) -> int:
        """Parameters of the dense linears."""
        return sum(m * n for m, n in self.linears)

    @property
    def lr(self) -> int:
        """Parameters of the factors in their place."""
        return sum(self.rank * (m + n) for m, n in self.linears)

    @property
    def nnz(self) -> int:
        """Entries of the sparse parts."""
        return sum(nonzeros(self.sp_ratio, m, n) for m, n in self.linears)

    @property
    def projected(self) -> int:
        """What GaLore's optimizer holds of the linears: two moments of the projected gradient, and the projector."""
        return sum(2 * max(m, n) * self.rank + min(m, n) * self.rank for m, n in self.linears)


@dataclass(frozen=True)
class Bytes:
    """Bytes by what they hold."""

    weights: int
    optimizer: int
    gradients: int


def estimate(method: str, sizes: Sizes) -> Bytes:
    """The bytes of `full`, `lowrank`, `lora` (ReLoRA too), `lora_published`, `galore` or `sltrain`.

    `lora_published` is as SLTrain's table has it: what stays dense is counted twice. Raises ValueError for another.
    """
    N, thin = sizes.base + sizes.lin, sizes.base + sizes.lr
    if method == "full":
        return Bytes(2 * N, 4 * N, 2 * N)
    if method == "lowrank":
        return Bytes(2 * thin, 4 * thin, 2 * thin)
    if method == "lora":
        return Bytes(2 * (N + sizes.lr), 4 * thin, 2 * thin)
    if method == "lora_published":
        return Bytes(2 * N + 2 * thin, 4 * thin, 2 * thin)
    if method == "galore":
        return Bytes(2 * N, 4 * sizes.base + 2 * sizes.projected, 2 * N)
    if method == "sltrain":
        trained = thin + sizes.nnz
        return Bytes(2 * trained + 8 * sizes.nnz, 4 * trained, 2 * trained)
    raise ValueError(f"no count for {method!r}: full, lowrank, lora, lora_published, galore or sltrain")
