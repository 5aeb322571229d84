"""Settings for every test."""

import os

import pytest
from hypothesis import settings

# Nothing here needs a model hub: timm then says so at once instead of after a minute. Kernels inherit it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shared or slow machine must not fail a test by its clock, and CI must see the same examples twice.
settings.register_profile("epimlib", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("epimlib")


@pytest.fixture(scope="module")
def one_thread():
    """Keep torch on one thread: where tensors are small, threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
