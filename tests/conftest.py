"""What every test shares: settings that give the same numbers in every run on any number of cores, and small runs."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Set before matplotlib is first imported, also in the commands that tests start.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

# Examples are drawn from the test's own name, so a red test is red again; time limits belong to benchmarks.
settings.register_profile("kakusan", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("kakusan")

# For `small_runs`.
sys.path.insert(0, str(Path(__file__).parent / "train"))


def pytest_configure() -> None:
    # One thread per worker: results do not depend on the machine, and workers do not fight over cores.
    torch.set_num_threads(1)
    # Collecting makes half a million objects that stay; looking for garbage among them takes a fifth of that time.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written into the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAKUSAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# Sessions that never train do not import what trains, so the fixtures import it themselves.
@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of pictures. Tests must not write into it."""
    import small_runs

    return small_runs.draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run that has learnt something. Tests must not write into it."""
    import small_runs

    out = tmp_path_factory.mktemp("runs") / "trained"
    length = {"steps": 60, "batch": 16, "measurements": 2, "previews": 1, "checkpoints": 2, "snapshots": 5}
    config = small_runs.settings(pictures, optim={"rate": 5e-3, "warmup": 5}, run=length)
    small_runs.start(config, out)
    return out
