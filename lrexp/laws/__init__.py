"""What holds for every method, as tests for pytest: tried on ours here, and on a package's own in its tests.

    import pytest
    from lrexp.laws.every import *

    pytestmark = pytest.mark.parametrize("method", ["mymethod"])

Needs pytest. Imported before torch: it sets how threads wait, and that nothing is fetched.
"""

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for each process of the tests

pytest.register_assert_rewrite("lrexp.laws.models", "lrexp.laws.runs")
