"""Settings for every test."""

import os

from hypothesis import settings

# Nothing here needs a model hub: timm then says so at once instead of after a minute. Kernels inherit it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shared or slow machine must not fail a test by its clock, and CI must see the same examples twice.
settings.register_profile("epimlib", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("epimlib")
