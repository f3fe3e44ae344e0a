"""The laws for every method of the catalogue. A method added later is tried here without a new line."""

from __future__ import annotations

import pytest

from lrexp.laws.models import *
from lrexp.laws.runs import *
from lrexp.methods import catalog

pytestmark = pytest.mark.parametrize("method", list(catalog.ENTRIES))
