"""How y = x (W + s B A)^T and its gradients take the fewest operations: by products of rank width or of full size.

Counted are multiplications and additions of all products beside x W^T and its transpose, which every form has. With t
rows of x, A (r, n) and B (m, r):

    narrow              6 t r (m + n)                       x A^T and its product with B; four like them for gradients
    dense weight        4 r m n + 4 t r (m + n)             W + s B A, formed for each of the two passes
    dense both          4 r m n + 4 r m n + 2 t m n         and A's and B's gradients out of that of the weight
"""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """What is formed densely, for as long as one product takes."""

    weight: bool = False  # W + s B A, in place of two products with x
    gradient: bool = False  # the weight's gradient, in place of four products of rank width


NARROW = Form()


def form(rows: int, n: int, size_A: int, size_B: int, m: int, trains: tuple[bool, bool] | None) -> Form:
    """The cheapest form for `rows` rows of x, an A and a B of so many entries, and m adapted outputs in n inputs.

    `trains` says whether the factors and whether anything (a diagonal between them) gets a gradient; None: nothing is
    differentiated, so that the forward pass counts alone.
    """
    forming, narrow = 2 * n * size_B, 2 * rows * (size_A + size_B)  # B A; the products with x or with its gradient
    if trains is None:
        return Form(weight=forming < narrow)
    factors, anything = trains
    for_gradients = narrow * (factors + anything)
    out_of_dense = 2 * rows * n * m + forming * (2 if factors else 1)
    costs = {
        NARROW: 2 * narrow + narrow * factors,
        Form(weight=True): 2 * forming + for_gradients,
        Form(weight=True, gradient=True): 2 * forming + out_of_dense,
    }
    return min(costs, key=lambda each: costs[each])
