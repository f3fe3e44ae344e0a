"""The largest batch is found by few looks, and lies beside one that does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lrexp.methods.catalog import families
from lrexp.plan.fits import MOST, largest, read_bytes, search, sized
from lrexp.plan.plan import plan
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError


@pytest.mark.parametrize(
    ("peak", "budget", "size", "looks"),
    [
        (lambda n: 100 + 7 * n, 1000, 128, 4),
        (lambda n: max(500, 100 + 7 * n), 1000, 128, 12),  # flat where the optimizer's step is the peak
        (lambda n: 100 + n * n, 1000, 30, 15),
        (lambda n: 100 + 7 * n, 107, 1, 2),
        (lambda n: 100 + 7 * n, 106, 0, 1),
        (lambda n: 5, 10, MOST, 21),
    ],
)
def test_the_largest_size_is_found(peak: Callable[[int], int], budget: int, size: int, looks: int) -> None:
    seen: set[int] = set()

    def looked(n: int) -> int:
        seen.add(n)
        return peak(n)

    assert search(looked, budget) == size
    assert len(seen) <= looks


def test_a_batch_of_a_spec_fits_and_one_more_does_not() -> None:
    spec = compose(["method=full", "model=mlp", "hardware=cpu"], families())[0]
    size, found = largest(spec, 2_000_000)
    assert found.assumed["per_device_train_batch_size"] == size and found.peak <= 2_000_000
    assert plan(sized(spec, size + 1)).peak > 2_000_000
    assert largest(spec, 1000)[0] == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GB", 24 * 10**9), ("80 GiB", 80 * 2**30), ("1.5gb", 1_500_000_000), ("123", 123), ("2kB", 2000)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert read_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "24 Gb/s", "-3GB", "0GB", "24XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="a size is needed, such as 24GB"):
        read_bytes(text)
