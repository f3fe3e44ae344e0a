"""All laws and the fixtures that they are tried on, to be imported whole into a test file of a package."""

from lrexp.laws.models import *
from lrexp.laws.runs import *
from lrexp.laws.tiny import own_cache, run, settings, tiny, tiny_data, tiny_model  # noqa: F401
