"""Plots: what is drawn is what was given; nothing opens a window."""

import dataclasses

import numpy as np
import pytest

import ntkit
from ntkit import plots
from ntkit.diagnose import Distances, Rate, TrainingStudy, WidthStudy


@pytest.fixture
def ax():
    return plots.figure()[1]


def test_the_matrix_is_sorted_by_class_and_is_a_correlation(ax):
    labels = np.array([1, 0, 1, 0])
    features = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.3], [0.2, 4.0]])
    matrix = features @ features.T
    assert plots.gram_matrix(ax, matrix, labels=labels) is ax
    (image,) = ax.images
    order = [1, 3, 0, 2]
    root = np.sqrt(np.diag(matrix))
    np.testing.assert_allclose(image.get_array(), (matrix / np.outer(root, root))[np.ix_(order, order)])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1"]
    ax.figure.canvas.draw()


def test_the_matrix_of_a_regression_is_sorted_by_target(ax):
    matrix = np.diag(np.arange(1.0, 31.0))
    target = np.linspace(1, 0, 30)
    plots.gram_matrix(ax, matrix, labels=target, correlation=False)
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix[::-1, ::-1])
    assert "sorted by target" in ax.get_xlabel()


@pytest.mark.parametrize("matrix, labels", [(np.ones((2, 3)), None), (np.eye(3), np.zeros(2)), (np.ones((0, 0)), None)])
def test_wrong_matrices_are_refused(ax, matrix, labels):
    with pytest.raises(ntkit.InputError):
        plots.gram_matrix(ax, matrix, labels=labels)


def test_the_spectrum_falls_and_leaves_rounding_out(ax):
    plots.spectrum(ax, {"NTK": np.array([1e-20, 3.0, 1.0]), "NNGP": np.array([2.0])}, ridge={"NTK": 0.1})
    label = "NTK (1 of 3 are 0 within rounding)"
    ntk = next(line for line in ax.lines if line.get_label() == label)
    np.testing.assert_array_equal(ntk.get_ydata(), [3.0, 1.0])
    np.testing.assert_array_equal(ntk.get_xdata(), [1, 2])
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {label, "NNGP", "ridge, NTK"}
    ax.figure.canvas.draw()


def test_wrong_captions_stand_out(ax):
    plots.examples(ax, np.zeros((3, 4, 4)), ["a", "b", "c"], wrong=[False, True, False], columns=2)
    weights = {text.get_text(): text.get_fontweight() for text in ax.texts}
    assert weights == {"a": "normal", "b": "bold", "c": "normal"}
    assert len(ax.images) == 3
    with pytest.raises(ntkit.InputError):
        plots.examples(ax, np.zeros((3, 4, 4)), ["a"], wrong=[False])


def test_bars_of_probabilities_fill_the_row(ax):
    p = np.array([[0.2, 0.8], [0.5, 0.5]])
    plots.probabilities(ax, p, np.array(["x", "y"]), np.array(["y", "x"]), ["first", "second"])
    widths = [patch.get_width() for patch in ax.patches]
    np.testing.assert_allclose(sorted(widths), [0.2, 0.5, 0.5, 0.8])
    ax.figure.canvas.draw()


def test_predictions_count_what_lies_within_two_deviations(ax):
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    plots.predictions(ax, truth, truth + np.array([0.0, 0.1, 0.5, 0.0]), np.full(4, 0.1), unit="y")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["within two deviations: 75.0 %", "outside: 25.0 %"]
    ax.figure.canvas.draw()


def test_accuracies_stand_where_they_belong_in_percent(ax):
    known = [{2000: 0.5, 50_000: 0.7}, {}, {2000: 0.52}]
    assert plots.accuracies(ax, ["a", "b", "c"], [0.4, 0.41, 0.42], [0.01] * 3, known, name="ours") is ax
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines if not line.get_label().startswith("_")}
    assert drawn["published, 2000 images"] == [[50, 0], [52, 2]]
    assert drawn["published, 50000 images"] == [[70, 0]]
    (bars,) = ax.containers
    np.testing.assert_allclose(bars.lines[0].get_xdata(), [40, 41, 42])
    assert "%" in ax.get_xlabel()
    assert ax.figure.legends[0].get_texts()[0].get_text() == "ours"
    ax.figure.canvas.draw()
    with pytest.raises(ntkit.InputError, match="go together"):
        plots.accuracies(ax, ["a"], [0.4, 0.5], [0.1], [{}])


def test_a_width_study_shows_draws_fits_layers_and_bounds(ax):
    widths = np.array([10.0, 40.0, 160.0])
    deviations = widths[:, None] ** -0.5 * np.array([0.5, 2.0])
    by_layer = np.stack([deviations, 0 * deviations], axis=1)  # the second one does not deviate
    matrix, rates = np.ones((1, 1)), (Rate(-0.5, 0.01, 1.0), Rate(*[float("nan")] * 3))
    drawn = np.broadcast_to(widths.astype(int)[:, None, None], (3, 2, 1))
    study = WidthStudy(
        widths, drawn, ("0 Dense", "2 Dense"), matrix, np.ones((2, 1, 1)), np.ones((3, 1, 1)), np.ones((3, 1, 1)),
        np.ones((3, 2, 1, 1)), deviations, by_layer, rates[0], rates, 1, 4,
    )  # fmt: skip
    assert plots.width_study(ax, study, delta=0.1) is ax
    lines = {line.get_label(): line for line in ax.lines}
    fitted = lines["whole kernel: $m^{-0.500 \\pm 0.010}$"]
    np.testing.assert_allclose(fitted.get_ydata(), widths[[0, -1]] ** -0.5)
    # The geometric mean of the two draws lies on the line.
    np.testing.assert_allclose(lines["layer 0 Dense: $m^{-0.500 \\pm 0.010}$"].get_ydata(), widths**-0.5)
    np.testing.assert_allclose(
        lines["bound, constants 1:\nArora et al. 2019"].get_ydata(), study.bounds(0.1)["Arora et al. 2019"]
    )
    assert np.isnan(lines["layer 2 Dense: no rate"].get_ydata()).all()
    dots = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 6]
    np.testing.assert_allclose(dots[0][:, 1], deviations.ravel())
    assert ax.get_xlabel() == "hidden width m"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "40", "160"]
    ax.figure.canvas.draw()


def test_agreement_shows_two_standard_errors_about_the_diagonal(ax):
    predicted, measured, error = np.array([0.01, 0.5]), np.array([0.02, 0.4]), np.array([0.03, 0.1])
    assert plots.agreement(ax, {"some": (predicted, measured, error)}) is ax
    (bars,) = ax.collections
    # The first bar would reach below zero, which the logarithm has no place for.
    np.testing.assert_allclose([path.vertices[:, 1] for path in bars.get_paths()], [[0.0002, 0.08], [0.2, 0.6]])
    (diagonal,) = (line for line in ax.lines if line.get_label() == "measured = predicted")
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    ax.figure.canvas.draw()


@pytest.fixture
def training():
    """Distances that fall as 1 / sqrt(width) to the infinite kernel; 0 to the linearization, which has no rate."""
    widths, steps = np.array([16, 64, 256]), np.array([0, 1, 10])
    scatter = np.array([0.5, 2.0])[None, None, :, None] * np.array([0.0, 1.0, 2.0])
    values = widths[None, :, None, None] ** -0.5 * scatter
    each = Distances(np.array([8]), widths, steps, values)
    return TrainingStudy(
        each, None, dataclasses.replace(each, values=0 * values), None, each, 0.5, None, scale=1.0, centred=False
    )


def test_a_training_study_shows_means_over_time(ax, training):
    assert plots.training_study(ax, training) is ax
    assert [line.get_label() for line in ax.lines] == ["width 16", "width 64", "width 256"]
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0.5, 5.0])  # step 0 has no logarithm
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 1.25 / 8 * np.array([1.0, 2.0]))
    assert ax.get_ylabel() == "distance to the infinite NTK\non training examples (units of y)"
    ax.figure.canvas.draw()
    with pytest.raises(ntkit.InputError, match="one of 'train', 'linear_train'; got 'test'"):
        plots.training_study(ax, training, "test")


def test_training_rates_show_networks_means_and_fits(ax, training):
    assert plots.training_rates(ax, training) is ax
    lines = {line.get_label(): line for line in ax.lines}
    slope, error, _ = training.train.rate()
    means = lines[f"infinite NTK, training examples: $m^{{{slope:.3f} \\pm {error:.3f}}}$"]
    assert slope == pytest.approx(-0.5)
    np.testing.assert_allclose(means.get_ydata(), 2 / np.sqrt([16, 64, 256]))
    assert np.isnan(lines["own linearization, training examples: no rate"].get_ydata()).all()
    dots, line = ax.lines[:2]
    np.testing.assert_allclose(dots.get_ydata(), training.train.values[0, :, :, -1].ravel())
    np.testing.assert_allclose(line.get_ydata(), 2 / np.sqrt([16, 256]))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["16", "64", "256"]
    assert "t = 5" in ax.get_ylabel()
    ax.figure.canvas.draw()


def test_powers_show_draws_their_means_and_the_fit(ax):
    sizes, values = np.array([10, 1000]), np.array([[0.3, 0.4], [0.03, 0.04]])
    groups = {"kernel": (values, Rate(-0.5, 0.01, 2.0))}
    assert plots.powers(ax, sizes, groups, of="P", squared=True, expected={"exact": values[:, 0]}) is ax
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["kernel: $P^{-0.500 \\pm 0.010}$"].get_ydata(), [0.125**0.5, 0.00125**0.5])
    np.testing.assert_array_equal(lines["exact"].get_ydata(), [0.3, 0.03])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values.ravel())
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [2 / 10**0.5, 2 / 1000**0.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "1000"]
    ax.figure.canvas.draw()
    plots.powers(ax, sizes, groups)
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [0.12**0.5, 0.0012**0.5])
