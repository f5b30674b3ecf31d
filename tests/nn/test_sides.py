"""A computation on a pair, in parts: of x, of y, and the rest; with what is read of y laid out for displacements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkit.nn._planes import Space
from ntkit.nn._sides import sides


def waves(x):
    return jnp.sin(x * np.array([1.0, 2.0, 3.0]))  # a new array of equal numbers at every call


def pair(x, y, both):
    return [(waves(x) * waves(y)).sum() * both, (waves(x) * waves(y) ** 2).sum() + both, x * x]


def test_what_is_read_of_either_is_one_array_however_often_it_is_computed():
    parts = sides(pair, 0.3, 0.7, 2.0)
    (of_x, values), (of_y, none) = parts.left(0.3), parts.right(0.7)
    # waves(y) as it is and squared.
    assert (len(of_x), len(values), len(of_y), len(none)) == (1, 1, 2, 0)
    np.testing.assert_allclose([*parts.rest(of_x, of_y, 2.0), values[0]], pair(0.3, 0.7, 2.0), rtol=1e-6)


def test_results_can_be_asked_for_one_by_one():
    parts = sides(pair, 0.3, 0.7, 2.0)
    of_x, of_y = parts.left(0.3)[0], parts.right(0.7)[0]
    (second,) = parts.rest(of_x, of_y, 2.0, (1,))
    assert second == pair(0.3, 0.7, 2.0)[1]
    steps = [str(jax.make_jaxpr(lambda *a, of=of: parts.rest(*a, of))(of_x, of_y, 2.0)) for of in ((0,), (0, 1))]
    assert steps[0].count("reduce_sum") < steps[1].count("reduce_sum")


@pytest.mark.parametrize("looped", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("several", [False, True])
def test_maps_that_are_laid_out_are_those_at_the_partners(looped, several):
    sizes, frames = (4, 8), (9, 16)
    known = (np.array([0, 3, 7]), np.array([15, 2]))
    maps = np.random.default_rng(0).standard_normal((3, *sizes)).astype(np.float32)

    def seen(maps, displacements):
        space = Space(sizes, frames, tuple(displacements))
        if several:
            return [space.seen(one) for one in space.one_by_one(space.laid_out(maps, several=True))]
        return [space.view(one) for one in maps]

    d = [jnp.asarray(d) if axis in looped else d for axis, d in enumerate(known)]
    # Known when traced are those that are not handed over.
    found = jax.jit(lambda maps, ds: seen(maps, [ds[a] if a in looped else known[a] for a in range(2)]))(maps, d)
    partners = Space(sizes, frames, known)
    rows, columns = (partners.partners(axis) for axis in range(2))
    for one, own in zip(found, maps, strict=True):
        for k, of_row in enumerate(rows):
            for m, of_column in enumerate(columns):
                inside = np.ix_(of_row < sizes[0], of_column < sizes[1])
                want = own[np.ix_(of_row[of_row < sizes[0]], of_column[of_column < sizes[1]])]
                np.testing.assert_array_equal(np.asarray(one)[k, m][inside], want)


def test_maps_that_are_read_together_do_not_begin_at_one_line_of_the_cache():
    space = Space((32, 32), (32, 32), (jnp.arange(1), np.arange(32)))
    laid_out = space.laid_out(jnp.zeros((5, 32, 32), jnp.float32), several=True)
    assert laid_out.shape[:2] == (32, 5)
    assert int(np.prod(laid_out.shape[2:])) * 4 % 4096
