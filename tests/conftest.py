"""Strict numerics for every test, and the fixtures that all rooms share.

ntkit must not be imported here at module level: jaxtyping's hook, which checks shapes and types, instruments it first.
"""

import os
from pathlib import Path

import jax
import pytest

# No window is opened, also where the machine has a display.
os.environ["MPLBACKEND"] = "Agg"
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs the test in float64: inside, JAX keeps 64-bit arrays as they are."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(repo) -> Path:
    """Real data beside the repository (`../shared/data`); a test that asks for it is skipped where there is none."""
    folder = repo.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder
