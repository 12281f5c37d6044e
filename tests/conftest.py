"""Settings that every test shares: the same numbers in every run, on any number of cores."""

import os

# Set before matplotlib is first imported, also in the commands that tests start.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

# Examples are drawn from the test's own name, so a red test is red again; time limits belong to benchmarks.
settings.register_profile("kakusan", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("kakusan")


def pytest_configure() -> None:
    # One thread per worker: results do not depend on the machine, and workers do not fight over cores.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fresh networks take their first weights from torch's global generator: fix it, so test order does not matter."""
    torch.manual_seed(0)
