"""The largest batch of a spec lies beside one that does not fit."""

from __future__ import annotations

from lrexp.methods.catalog import families
from lrexp.plan.fits import largest, sized
from lrexp.plan.plan import plan
from lrexp.spec.compose import compose


def test_a_batch_of_a_spec_fits_and_one_more_does_not() -> None:
    spec = compose(["method=full", "model=mlp", "hardware=cpu"], families())[0]
    size, found = largest(spec, 2_000_000)
    assert found.assumed["per_device_train_batch_size"] == size and found.peak <= 2_000_000
    assert plan(sized(spec, size + 1)).peak > 2_000_000
    assert largest(spec, 1000)[0] == 0
