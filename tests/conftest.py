"""Strict numerics for every test, and the fixtures that all rooms share.

ntkit must not be imported here at module level: jaxtyping's hook, which checks shapes and types, instruments it first.
"""

import gc
import itertools
import os
import sys
from pathlib import Path

# The workers of xdist share the cores. There the threads of OpenBLAS and of torch, which wait spinning, take three and
# up to forty times as long as one; those of XLA take a twentieth more. To be set before they are loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NPROC", "1")

# Most of a test's time is compilation, and a quarter of that LLVM's optimisation of programs that run once. As users
# have them they are compiled by `make test-all`.
if "NTKIT_TEST_OPTIMIZED" not in os.environ:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"

import jax
import jaxtyping
import pytest

# Traced programs are millions of objects that live as long as the tests do: not to be looked through at every turn.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# No window is opened, also where the machine has a display.
os.environ["MPLBACKEND"] = "Agg"
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Where in the source an operation stands is told to the compiler at a twentieth of all time, and not read there.
jax.config.update("jax_traceback_in_locations_limit", 0)


# A process may map some 65 000 pieces of memory, and every compiled program is seven: beyond that the compiler crashes.
MAPS, OFTEN = 30_000, 20
_tests = itertools.count(1)


def pytest_runtest_teardown():
    maps = Path("/proc/self/maps")
    if next(_tests) % OFTEN == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()


def pytest_collection_modifyitems(items):
    """Marks the cases of `exhaustive.txt`, a beginning of their names a line."""
    lines = (Path(__file__).parent / "exhaustive.txt").read_text().splitlines()
    known = tuple(line for line in lines if not line.startswith("#"))
    for item in items:
        if item.nodeid.startswith(known):
            item.add_marker(pytest.mark.exhaustive)


@pytest.fixture
def x64():
    """Runs the test in float64: inside, JAX keeps 64-bit arrays as they are."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def same_draws():
    """What a test draws does not hang on which tests ran before it; NumPy's and JAX's draws have seeds of their own."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def unchecked():
    """Runs the test without the type checker, as users do: for arguments of wrong types, which ntkit itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def run(capsys):
    """Runs the command line; gives the exit code, what was printed, and the errors."""
    from ntkit.cli import main

    def run(*argv):
        code = main([str(a) for a in argv])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run


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


def pytest_terminal_summary(terminalreporter):
    """The figures that tests measured (`record_property`), passed or not."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, []) if r.user_properties]
    for report in reports:
        figures = ", ".join(f"{name} = {value}" for name, value in report.user_properties)
        terminalreporter.write_line(f"measured in {report.nodeid}: {figures}")
