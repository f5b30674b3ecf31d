"""`BatchNorm`: centring over a reference, against centred matrices, Monte Carlo and Jacot's constant mode."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import scipy.linalg

import ntkit
from ntkit import InputError, nn
from ntkit.kernels import Unflattened, settled
from ntkit.nn.batch import same_examples

RNG = np.random.default_rng(10)
X = RNG.standard_normal((6, 5))
SIGNALS = RNG.standard_normal((4, 5, 2))
relu, BETA = nn.Relu(), 0.3
FRONT = [nn.Dense(8, 1.2, 0.3), relu]
LAST = nn.Dense(1, 0.9, BETA)


def centring(n):
    return np.eye(n) - 1 / n


def test_the_finite_reading_normalises_each_channel_over_examples_and_pixels(x64):
    x = 3 + 2 * SIGNALS
    mean, std = x.mean((0, 1)), x.std((0, 1))
    eps, divided, centred = 0.1, nn.BatchNorm(eps=0.1), nn.BatchNorm(divide=False)
    np.testing.assert_allclose(divided.apply((), jnp.asarray(x)), (x - mean) / np.sqrt(std**2 + eps), rtol=1e-12)
    np.testing.assert_allclose(centred.apply((), jnp.asarray(x)), x - mean, rtol=1e-12)


def test_the_infinite_reading_is_the_centred_matrix(x64):
    x, h = jnp.asarray(X), centring(6)
    without = ntkit.kernels(nn.Sequential(*FRONT), x)
    for got, k in zip(ntkit.kernels(nn.Sequential(*FRONT, nn.BatchNorm()), x), without, strict=True):
        np.testing.assert_allclose(got, h @ np.asarray(k) @ h, rtol=1e-12, atol=1e-14)


def test_of_few_examples_those_of_the_reference_are_taken_off(x64):
    # Mean over the reference alone, which shares no example with the rows and the columns.
    x, y, r = X[:2], X[2:3], X[3:]
    every = np.asarray(ntkit.NTK(nn.Sequential(*FRONT))(jnp.asarray(X)))
    off = np.zeros((6, 6))
    off[:, 3:] = 1 / 3
    want = (np.eye(6) - off) @ every @ (np.eye(6) - off).T
    kernel = ntkit.NTK(nn.Sequential(*FRONT, nn.BatchNorm(r)))
    np.testing.assert_allclose(kernel(jnp.asarray(x), jnp.asarray(y)), want[:2, 2:3], rtol=1e-12)
    np.testing.assert_allclose(kernel.diagonal(jnp.asarray(x)), np.diag(want)[:2], rtol=1e-12)


@pytest.mark.parametrize("between", [[], [nn.BatchNorm(), nn.Dense(8, 1.1, 0.2), relu]], ids=["one", "two"])
def test_the_constant_mode_of_the_ntk_is_the_last_bias(between, x64):
    # Jacot et al. 2019: 1/N^2 sum_ij Theta(x_i, x_j) = beta^2 with the reference equal to the inputs.
    theta = np.asarray(ntkit.NTK(nn.Sequential(*FRONT, *between, nn.BatchNorm(), LAST))(jnp.asarray(X)))
    np.testing.assert_allclose(theta.mean(), BETA**2, rtol=1e-10)
    np.testing.assert_allclose(theta.mean(1), BETA**2, rtol=1e-10)  # the constant vector is an eigenvector
    assert np.linalg.eigvalsh(theta)[0] > 0


def test_centring_is_the_limit_of_its_finite_networks():
    # One before the kink, one behind it; with `divide=False` the readings agree.
    off = nn.BatchNorm(divide=False)
    laws.is_limit_of_finite(nn.Sequential(nn.Dense(16, 1.2, 0.3), off, relu, off, nn.Dense(8, 1.1, 0.4)), X, 2000)


CONV = [nn.Conv(8, (3,), 1.3, 0.2, padding="VALID"), relu]


def test_images_are_centred_over_the_pixels_of_the_batch(x64):
    # A convolution is a dense layer on patches; all patches of all images are then the batch.
    patches = np.stack([SIGNALS[:, i : i + 3] for i in range(3)], 2).reshape(12, 6)
    hidden = ntkit.kernels(nn.Sequential(nn.Dense(8, 1.3, 0.2), relu), jnp.asarray(patches))
    h = centring(12)
    both = sum((h @ np.asarray(k) @ h).reshape(4, 3, 4, 3).mean((1, 3)) for k in hidden)
    theta = ntkit.NTK(nn.Sequential(*CONV, nn.BatchNorm(), nn.GlobalAvgPool(), LAST))(jnp.asarray(SIGNALS))
    np.testing.assert_allclose(theta, 0.9**2 * both + BETA**2, rtol=1e-12)
    np.testing.assert_allclose(np.mean(theta), BETA**2, rtol=1e-10)


def test_a_stated_reference_is_that_of_all_and_of_every_batch(x64):
    x = jnp.asarray(X)
    between = nn.Dense(8, 1.2, 0.1), relu
    free, stated = (nn.Sequential(*FRONT, nn.BatchNorm(r), *between, nn.BatchNorm()) for r in (None, X))
    whole, part = np.asarray(ntkit.NTK(free)(x)), ntkit.NTK(stated)(x[:1], x[1:])
    np.testing.assert_allclose(part, whole[:1, 1:], rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_centred_images_are_the_limit_of_their_finite_networks():
    # Two between pixels, behind a padless convolution and behind pooling, and a reference that is the inputs.
    conv, off = nn.Conv(16, (3,), 1.2, 0.3, padding="VALID"), nn.BatchNorm(SIGNALS, divide=False)
    laws.is_limit_of_finite(
        nn.Sequential(conv, off, relu, nn.AvgPool((2,), 1), off, nn.Flatten(), nn.Dense(16, 0.9, 0.3)), SIGNALS, 2500
    )


# Masked images: an oracle of matrices between all pixels of all truncated images

CONVS = nn.Conv(8, (2,), 1.3, 0.2, padding="VALID"), nn.Conv(8, (3,), 1.1, 0.1)


def several_centred(reference=None):
    """Centred between pixels, before a kink and behind one, and between rows."""
    off = nn.BatchNorm(reference)
    pixels = CONVS[0], off, relu, CONVS[1], relu, off, nn.GlobalAvgPool()
    return nn.Sequential(*pixels, nn.Dense(8, 1.2, 0.2), relu, off, LAST)


quick = laws.quickly(ntkit.Both(several_centred()))  # one program for several tests


def signals(*lengths):
    return [RNG.standard_normal((length, 2)) for length in lengths]


def garbled(*images):
    """Padded to 5 pixels, with garbage where none exist."""
    masked = ntkit.pad(images, (5,))
    return ntkit.Masked(np.where(masked.mask[..., None], masked.x, np.nan), masked.mask)


def taps(lengths, count, pad):
    """For each tap of a convolution the matrix of what it reads of signals of these lengths, from pixels to pixels."""
    each = []
    for f in range(count):
        blocks = [np.eye(n + 2 * pad)[f : n + 2 * pad - count + 1 + f, pad : n + pad] for n in lengths]
        each.append(scipy.linalg.block_diag(*blocks))
    return each


def weighted(k, theta, reads, w_std, b_std):
    """Both matrices behind weights on what is read."""
    k, t = (w_std**2 * sum(r @ a @ r.T for r in reads) / len(reads) for a in (k, theta))
    return k + b_std**2, k + b_std**2 + t


def kinked(k, theta):
    """Behind a ReLU (Cho and Saul 2009, eqs. 3 to 6)."""
    s = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    angle = np.arccos(np.clip(np.where(np.eye(len(k)), 1, k / s), -1, 1))
    return s * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi), theta * (np.pi - angle) / (2 * np.pi)


def minus_mean(k, theta, lengths, n):
    """Behind a `BatchNorm` over the pixels of the first n."""
    off = np.arange(sum(lengths)) < sum(lengths[:n])
    h = np.eye(len(off)) - off / off.sum()
    return h @ k @ h.T, h @ theta @ h.T


def by_hand(images, n):
    """K and Theta of truncated signals behind `several_centred`, the first n being the reference."""
    lengths, x, alone = [len(image) for image in images], np.concatenate(images), [np.eye(len(images))]
    shorter = [length - 1 for length in lengths]
    law = weighted(x @ x.T / 2, 0 * x @ x.T, taps(lengths, 2, 0), 1.3, 0.2)
    law = weighted(*kinked(*minus_mean(*law, shorter, n)), taps(shorter, 3, 1), 1.1, 0.1)
    mean = scipy.linalg.block_diag(*[np.full((1, length), 1 / length) for length in shorter])
    law = [mean @ a @ mean.T for a in minus_mean(*kinked(*law), shorter, n)]
    law = kinked(*weighted(*law, alone, 1.2, 0.2))
    return weighted(*minus_mean(*law, [1] * len(images), n), alone, 0.9, BETA)


@pytest.mark.parametrize("lengths", [(4, 2, 5, 3), (3, 3, 3, 3)], ids=["several", "one size"])
def test_masked_images_are_centred_over_the_pixels_that_exist(lengths, x64):
    images = signals(*lengths)
    got = quick(garbled(*images))
    for g, want in zip(got, by_hand(images, 4), strict=True):
        np.testing.assert_allclose(g, want, rtol=1e-10)
    np.testing.assert_allclose(np.mean(got.ntk), BETA**2, rtol=1e-10)  # the constant mode


def test_a_mask_that_is_true_everywhere_changes_nothing(x64):
    x = np.stack(signals(5, 5, 5, 5))
    without = laws.quickly(lambda x: ntkit.Both(several_centred())(x))(x)
    for got, want in zip(quick(garbled(*x)), without, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_masked_and_other_images_meet_over_a_masked_reference(x64):
    # One of them is in the reference, too.
    images = signals(4, 2, 5, 5, 5, 3)
    kernel = ntkit.Both(several_centred(garbled(*images[:3])))
    got = laws.quickly(lambda *x: kernel(*x))(np.stack(images[3:5]), garbled(images[1], images[5]))
    for g, want in zip(got, by_hand(images, 3), strict=True):
        np.testing.assert_allclose(g, want[3:5][:, [1, 5]], rtol=1e-10)


@pytest.mark.parametrize("lengths", [(5, 5, 4, 2), (3, 4, 5, 5)], ids=["images", "reference"])
def test_the_diagonal_is_centred_over_a_reference_masked_or_not(lengths, x64):
    # Either the reference is masked or the images are.
    images = signals(*lengths)
    reference, x = (
        garbled(*some) if len(some[0]) != len(some[1]) else np.stack(some) for some in (images[:2], images[2:])
    )
    kernel = ntkit.NTK(several_centred(reference))
    got = laws.quickly(lambda x: kernel.diagonal(x))(x)
    np.testing.assert_allclose(got, np.diag(by_hand(images, 2)[1])[2:], rtol=1e-10)


# In branches

SUMS = nn.SumPool((3,), 1, "SAME")


def blocks(reference=None):
    """Residual blocks that centre: between pixels behind a kink and behind pooling, between rows."""
    off = nn.BatchNorm(reference)
    near = nn.Sequential(relu, off, CONVS[1])
    far = nn.Sequential(relu, CONVS[1], SUMS, off, relu, CONVS[1])
    rows = nn.Sequential(relu, off, nn.Dense(8, 1.2, 0.2))
    pixels = CONVS[0], nn.Residual(near), nn.Residual(far), nn.GlobalAvgPool()
    return nn.Sequential(*pixels, nn.Residual(rows), LAST)


def blocks_by_hand(images, n):
    """K and Theta of truncated signals behind `blocks`, the first n being the reference."""
    lengths, x, alone = [len(image) for image in images], np.concatenate(images), [np.eye(len(images))]
    shorter = [length - 1 for length in lengths]
    reads = taps(shorter, 3, 1)

    def conv(law):
        return weighted(*law, reads, 1.1, 0.1)

    def off(law):
        return minus_mean(*law, shorter, n)

    def between(r, law):
        return [r @ a @ r.T for a in law]

    def plus(law, other):
        return [a + b for a, b in zip(law, other, strict=True)]

    law = weighted(x @ x.T / 2, 0 * x @ x.T, taps(lengths, 2, 0), 1.3, 0.2)
    law = plus(law, conv(off(kinked(*law))))
    law = plus(law, conv(kinked(*off(between(sum(reads), conv(kinked(*law)))))))
    law = between(scipy.linalg.block_diag(*[np.full((1, length), 1 / length) for length in shorter]), law)
    law = plus(law, weighted(*minus_mean(*kinked(*law), [1] * len(images), n), alone, 1.2, 0.2))
    return weighted(*law, alone, 0.9, BETA)


@pytest.mark.parametrize("lengths", [(4, 2, 5, 4), (4, 4, 4, 4)], ids=["masked", "whole"])
def test_residual_blocks_of_images_centre(lengths, x64):
    # None has two pixels behind the first layer: sums over three would make copies of them, whose angle is rounding.
    images = signals(*lengths)
    got = laws.quickly(ntkit.Both(blocks()))(garbled(*images) if len(set(lengths)) > 1 else np.stack(images))
    for g, want in zip(got, blocks_by_hand(images, 4), strict=True):
        np.testing.assert_allclose(g, want, rtol=1e-10)


def test_residual_blocks_centre_over_a_stated_reference(x64):
    # Of two batches, one of which shares an image with the reference.
    images = signals(5, 5, 5, 5, 5)
    kernel = ntkit.Both(blocks(np.stack(images[:3])))
    x, y = np.stack(images[3:4]), np.stack([images[1], images[4]])
    want = blocks_by_hand(images, 3)
    for g, w in zip(laws.quickly(lambda *x: kernel(*x))(x, y), want, strict=True):
        np.testing.assert_allclose(g, w[3:4][:, [1, 4]], rtol=1e-10)


@pytest.mark.parametrize("joined", ["Product", "Concat"])
def test_branches_of_rows_centre_each_by_itself(joined, x64):
    # The first branch is that of a network without branches; the second centres behind a kink, and again in a block.
    inner = nn.Residual(nn.Sequential(nn.Dense(8, 1.2, 0.3), BN(), relu, nn.Dense(8, 0.8)))
    branches = [relu, BN()], [nn.Dense(8, 1.1), relu, BN(), nn.Dense(8, 0.7), inner]
    front = nn.Dense(8, 1.2, 0.3)
    layer = getattr(nn, joined)(*(nn.Sequential(*layers) for layers in branches))
    got = ntkit.kernels(nn.Sequential(front, layer), jnp.asarray(X))
    (k1, t1), (k2, t2) = _both(front, *branches[0]), by_hand_of_rows()
    want = (k1 * k2, t1 * k2 + k1 * t2) if joined == "Product" else ((k1 + k2) / 2, (t1 + t2) / 2)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-11, atol=1e-14)


def _both(*layers):
    return [np.asarray(k) for k in ntkit.kernels(nn.Sequential(*layers), jnp.asarray(X))]


def by_hand_of_rows():
    one, none = [np.eye(6)], np.zeros((6, 6))
    law = weighted(*weighted(X @ X.T / 5, none, one, 1.2, 0.3), one, 1.1, 0)
    law = weighted(*minus_mean(*kinked(*law), [1] * 6, 6), one, 0.7, 0)
    inner = kinked(*minus_mean(*weighted(*law, one, 1.2, 0.3), [1] * 6, 6))
    return [a + b for a, b in zip(law, weighted(*inner, one, 0.8, 0), strict=True)]


@pytest.mark.slow
def test_a_centred_block_is_the_limit_of_its_finite_networks():
    conv, off = nn.Conv(16, (3,), 1.2, 0.3, padding="VALID"), nn.BatchNorm(divide=False)
    block = nn.Residual(nn.Sequential(off, relu, SUMS, off, nn.Conv(16, (3,), 0.7, 0.2)))
    laws.is_limit_of_finite(nn.Sequential(conv, block, nn.Flatten(), nn.Dense(16, 0.9, 0.3)), SIGNALS, 2500)


def test_an_image_and_one_with_more_black_pixels_are_two():
    black = np.array([1, 1, 0, 0, 0], np.float32)[:, None]
    images, every = ntkit.pad([black[:2], black[:3], black]), np.stack([black, 0 * black])
    np.testing.assert_array_equal(same_examples(images, images), np.eye(3))
    np.testing.assert_array_equal(same_examples(images, jnp.asarray(every)), [[0, 0], [0, 0], [1, 0]])


def test_tiles_of_masked_images_are_centred_over_all_of_them(x64):
    kernel = 0.5 * ntkit.NTK(nn.Sequential(*CONV, nn.BatchNorm(), nn.GlobalAvgPool(), LAST))
    masked = garbled(*signals(4, 3, 5))
    tiles = ntkit.gram(kernel, masked, tile=2, progress=False)
    np.testing.assert_allclose(tiles, laws.quickly(lambda x: kernel(x))(masked), rtol=1e-10)
    # Where only pixels are centred, images count by those that they have: behind the padless convolution 2, 1 and 3.
    pixels = np.array([2, 1, 3]) / 6
    np.testing.assert_allclose(pixels @ tiles @ pixels, 0.5 * BETA**2, rtol=1e-10)


def test_the_finite_reading_normalises_over_the_pixels_that_exist(x64):
    images = signals(4, 2, 5)
    masked, every, eps = garbled(*images), np.concatenate(images), 0.1
    want = np.zeros((3, 5, 2))
    want[masked.mask] = (every - every.mean(0)) / np.sqrt(every.var(0) + eps)
    got = nn.BatchNorm(eps=eps).apply((), jax.tree.map(jnp.asarray, masked))
    np.testing.assert_allclose(got.x, want, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(got.mask, masked.mask)


def test_gradients_of_masked_images_are_finite_and_zero_at_missing_pixels(x64):
    # An image, its copy and their antipodes, whose mean is zero; zero images of two sizes.
    one, other = signals(3, 5)
    masked = garbled(one, one, -one, -one, 0 * one, 0 * other)
    kernel = ntkit.NTK(nn.Sequential(nn.Conv(8, (2,)), nn.BatchNorm(), relu, nn.GlobalAvgPool()))
    slope = laws.quickly(jax.grad(lambda x: jnp.sum(jnp.cos(kernel(ntkit.Masked(x, masked.mask))))))(masked.x)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(np.asarray(slope)[~masked.mask], 0)
    assert (np.asarray(slope)[masked.mask] != 0).mean() > 0.5


def test_images_that_come_as_rows_are_the_reference_as_images():
    rows = SIGNALS.reshape(4, 10).astype(np.float32)
    kernel = Unflattened(ntkit.NTK(nn.Sequential(*CONV, nn.BatchNorm(), nn.GlobalAvgPool())), (5, 2))
    assert jax.eval_shape(settled(kernel, rows), rows[:1], rows[1:]).shape == (1, 3)


def test_tiles_are_centred_over_all_inputs(x64):
    # Also those of a scaled kernel, and where `Dropout` tells an example from its copy in the reference.
    kernel = 0.5 * ntkit.NTK(nn.Sequential(*FRONT, nn.Dropout(0.3), nn.BatchNorm(), LAST))
    tiles = ntkit.gram(kernel, X, tile=3, progress=False)
    np.testing.assert_allclose(tiles, kernel(jnp.asarray(X)), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.mean(tiles), 0.5 * BETA**2, rtol=1e-10)


def test_predictors_centre_over_the_training_data(x64):
    y = X[:4, 0]
    nets = [nn.Sequential(*FRONT, nn.BatchNorm(reference), LAST) for reference in (None, X[:4])]
    free, stated = (ntkit.ridge(ntkit.NTK(net), X[:4], y, alpha=0.1)(X[4:]) for net in nets)
    np.testing.assert_allclose(free, stated, rtol=1e-12)


def test_float32_keeps_the_angles_of_neighbours():
    # Rows 1e-4 apart behind a BatchNorm: from rounded covariances the NTK of the next kink would be off by 1e-4.
    close = np.concatenate([X, X + 1e-4 * RNG.standard_normal(X.shape)]).astype(np.float32)
    net = nn.Sequential(*FRONT, nn.Dense(8, 0.6, 0.8), relu, nn.BatchNorm(), nn.Dense(8), relu, nn.Dense(1))
    single = ntkit.kernels(net, jnp.asarray(close))
    with jax.enable_x64(True):
        double = [np.asarray(k) for k in ntkit.kernels(net, jnp.asarray(close, jnp.float64))]
    for s, d in zip(single, double, strict=True):
        laws.close(np.asarray(s, np.float64), d, 2e-6, scale=laws.natural(d))


def test_gradients_are_finite_at_hard_rows(x64):
    net = nn.Sequential(nn.Dense(8, 1.1, 0.2), nn.BatchNorm(), relu, nn.Dense(1))
    laws.has_finite_gradients(net, laws.hard_rows(), ntkit.NTK)


BN = nn.BatchNorm


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: ntkit.NTK(nn.Sequential(BN(), LAST)), "`BatchNorm` has no infinite reading on the raw input"),
        (lambda x: ntkit.NTK(nn.Sequential(*FRONT, BN()))(x, x), "two batches.*reference=x_train"),
        (lambda x: ntkit.gram(ntkit.NTK(nn.Sequential(*FRONT, BN())), x, x), "two batches.*reference=x_train"),
        (lambda x: ntkit.NTK(nn.Sequential(*FRONT, BN()))(x[:1]), "only one example.*reference=x_train"),
        (lambda x: ntkit.NTK(nn.Sequential(*FRONT, BN())).diagonal(x[:1]), "only one example"),
        (lambda x: ntkit.NTK(nn.Sequential(*FRONT, BN(x)))(x[:, :3]), r"like the inputs, of shape \(3,\)"),
        (lambda x: ntkit.NTK(nn.Sequential(*FRONT, BN(x), LAST, BN(x + 1))), "one reference, but here two different"),
        (lambda x: BN(x[:1]), r"`reference` of `BatchNorm`.*at least two.*\(1, 5\)"),
        (lambda x: BN(x[0]), r"`reference` of `BatchNorm`.*at least two.*\(5,\)"),
        (lambda x: BN(np.arange(6).reshape(2, 3)), "`reference` must be floating point"),
        (lambda x: BN(x * np.nan), "`reference`"),
        (lambda x: BN(divide=1), "`divide` of `BatchNorm`"),
        (lambda x: BN(eps=-1.0), "`eps` of `BatchNorm`"),
        (lambda x: BN().apply((), x[:1]), "`BatchNorm` normalises over the batch, which here is a single example"),
        (lambda x: BN().propagate(nn.Covariance.of_one(jnp.ones(()), 1)), "one pair.*`ntkit.NTK"),
    ],
)
def test_what_cannot_be_centred_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(X.astype(np.float32))


def masked_net(*layers):
    return ntkit.NTK(nn.Sequential(nn.Conv(4, (2,)), *layers, nn.GlobalAvgPool()))


def two(*lengths):
    return ntkit.pad([np.ones((length, 2), np.float32) for length in lengths])


# A branch that ends the pixels by itself.
POOLED = nn.Sequential(relu, nn.GlobalAvgPool(), BN(), nn.Dense(4))
BEHIND_POOLING = ntkit.NTK(nn.Sequential(nn.Conv(4, (2,)), nn.Sum(nn.GlobalAvgPool(), POOLED)))
EMPTY = ntkit.Masked(two(2, 4).x, np.arange(2)[:, None] < np.ones((2, 4)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BN(two(3, 4)[:1]), r"`reference` of `BatchNorm`.*at least two.*\(1, 4, 2\)"),
        (lambda: masked_net(BN(EMPTY)), "Image 1 of `reference` has no pixels: its mask"),
        (
            lambda: masked_net(nn.Conv(4, (3,), padding="VALID"), BN(two(2, 4))),
            "Image 0 of `reference` has no pixels behind `Conv`",
        ),
        (lambda: masked_net(BN(ntkit.Masked(EMPTY.x[..., 0], np.arange(2) < 1))), "`reference` is `Masked` and must"),
        (lambda: masked_net(BN(two(2, 4)), BN(two(4, 2))), "one reference, but here two different"),
        (lambda: masked_net(BN(two(2, 4)))(two(3, 5)), r"like the inputs, of shape \(5, 2\)"),
        (lambda: masked_net(BN())(two(3, 4), two(2, 4)), "two batches.*reference=x_train"),
        (lambda: masked_net(BN())(two(3, 4)[:1]), "only one example"),
        (lambda: BEHIND_POOLING(np.ones((3, 4, 2), np.float32)), "in a branch, behind the layer that ends the pixels"),
        (lambda: BN(ntkit.Masked(two(2, 4).x * np.nan, two(2, 4).mask)), r"`reference\[0, 0, 0\]` is nan"),
        (lambda: BN().apply((), two(3, 4)[:1]), "here is a single example"),
    ],
)
def test_masked_images_that_cannot_be_centred_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
