"""Plots: what is drawn is what was given; nothing opens a window."""

import numpy as np
import pytest

import ntkit
from ntkit import plots


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
    ntk = next(line for line in ax.lines if line.get_label() == "NTK")
    np.testing.assert_array_equal(ntk.get_ydata(), [3.0, 1.0])
    np.testing.assert_array_equal(ntk.get_xdata(), [1, 2])
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"NTK", "NNGP", "ridge, NTK"}
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
