"""Findings in, axes out: every function takes `ax`, draws, and returns `ax`. Matplotlib is imported here only.

figure, ax = plots.figure()
plots.gram_matrix(ax, ntkit.gram(ntkit.NTK(net), x), labels=y)
figure.savefig("gram.png")
"""

from ntkit.plots._figure import COLOURS, figure, panels
from ntkit.plots.accuracies import accuracies
from ntkit.plots.agreement import agreement
from ntkit.plots.circle import along_circle, band_on_circle
from ntkit.plots.distances import training_rates, training_study
from ntkit.plots.examples import examples, predictions, probabilities
from ntkit.plots.matrix import gram_matrix, spectrum
from ntkit.plots.powers import powers
from ntkit.plots.scatter import scattered
from ntkit.plots.trainings import trainings
from ntkit.plots.widths import width_study

__all__ = [
    "COLOURS",
    "accuracies",
    "agreement",
    "along_circle",
    "band_on_circle",
    "examples",
    "figure",
    "gram_matrix",
    "panels",
    "powers",
    "predictions",
    "probabilities",
    "scattered",
    "spectrum",
    "training_rates",
    "training_study",
    "trainings",
    "width_study",
]
