"""Bad input is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkit._check import check_inputs, check_same_features, format_bytes, parse_memory
from ntkit.errors import InputError


@pytest.mark.parametrize(
    "memory, size",
    [("1GiB", 1 << 30), ("512 MiB", 1 << 29), ("2GB", 2 * 10**9), ("1.5kib", 1536), ("100", 100), (7, 7), (None, None)],
)
def test_memory_is_read_in_both_families_of_units(memory, size):
    assert parse_memory(memory) == size


@pytest.mark.parametrize("memory", ["", "GiB", "1 parsec", "-1GiB", "1e9", 0, -5, "0GiB"])
def test_memory_that_means_nothing_is_refused(memory):
    with pytest.raises(InputError, match="`memory`"):
        parse_memory(memory)


@pytest.mark.parametrize("memory", ["9" * 400 + "GB", 10**400, "5000000TiB"])
def test_memory_beyond_all_machines_is_refused(memory):
    with pytest.raises(InputError, match=r"`memory` must be below 2\^62 bytes"):
        parse_memory(memory)


def test_a_masked_array_is_refused_where_something_is_masked():
    x = np.ma.array(np.ones((2, 2)), mask=[[False, True], [False, False]])
    with pytest.raises(InputError, match="`x1` is a masked array with 1 masked entry"):
        check_inputs("x1", x)
    whole = check_inputs("x1", np.ma.array(np.ones((2, 2)), mask=False))
    assert type(whole) is np.ndarray


@pytest.mark.parametrize("memory", [1.5, True, [1]])
def test_memory_of_another_type_is_refused(memory):
    with pytest.raises(InputError, match="`memory`"):
        parse_memory(memory)


def test_bytes_are_written_for_people():
    assert [format_bytes(n) for n in (12, 1536, 1 << 30, 5 << 40)] == ["12 B", "1.5 KiB", "1.0 GiB", "5.0 TiB"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_entry_that_is_not_finite_is_named(bad):
    x = np.zeros((5, 3), np.float32)
    x[3, 1] = bad
    with pytest.raises(InputError, match=r"`x1\[3, 1\]`"):
        check_inputs("x1", x)


def test_an_entry_that_is_not_finite_is_found_beyond_the_first_chunk():
    x = np.zeros((5000, 1000), np.float32)
    x[4999, 999] = np.nan
    with pytest.raises(InputError, match=r"`x\[4999, 999\]`"):
        check_inputs("x", x)


@pytest.mark.parametrize(
    "x, words",
    [
        (np.zeros((0, 3)), "at least one"),
        (np.zeros((3, 0)), "at least one"),
        (np.zeros(3), r"x\[None, :\]"),
        (np.float64(1.0), "2 or more axes"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
        (np.zeros((2, 2), int), r"astype\(np.float32\)"),
        (np.zeros((2, 2), bool), "floating point"),
        (np.zeros((2, 2), complex), "real"),
        (np.array([["a", "b"]]), "text columns"),
        (np.array([[None, 1.0]], dtype=object), "object"),
    ],
)
def test_bad_arrays_are_refused_with_the_way_out(x, words):
    with pytest.raises(InputError, match=words) as caught:
        check_inputs("x", x)
    assert "`x`" in str(caught.value)


def test_a_traced_array_is_sent_to_the_kernel():
    with pytest.raises(InputError, match="call the kernel itself"):
        jax.jit(lambda x: check_inputs("x", x))(jnp.zeros((2, 2)))


def test_good_arrays_pass_unchanged():
    for x in (np.zeros((2, 3), np.float32), jnp.zeros((2, 4, 4, 3), jnp.float32), jnp.zeros((2, 2), jnp.bfloat16)):
        assert check_inputs("x", x) is x
    assert check_inputs("x", [[1.0, 2.0]]).dtype == np.float64
    assert check_inputs("x", [[1, 2]], integers="convert").dtype == np.float64


def test_a_rank_above_the_limit_is_refused():
    with pytest.raises(InputError, match="1 to 2 axes"):
        check_inputs("y", np.zeros((2, 2, 2)), min_ndim=1, max_ndim=2)


def test_examples_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="one shape"):
        check_same_features("x1", np.zeros((2, 3)), "x2", np.zeros((2, 4)))
