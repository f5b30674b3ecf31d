"""Real data: the sets that scikit-learn ships, MNIST, CIFAR-10, and your own .npz and .csv files.

dataset = ntkit.data.load("digits")                 # or "mnist", "table.csv", "arrays.npz"
dataset = ntkit.data.split(ntkit.data.standardise(dataset), 0.25, seed=0)
"""

from ntkit.data._dataset import Dataset
from ntkit.data._images import image_shape, images
from ntkit.data._load import NAMES, load, load_inputs
from ntkit.data._prepare import balanced, sample, split, standardise, standardise_channels, unit_sphere, zca

__all__ = [
    "NAMES",
    "Dataset",
    "balanced",
    "image_shape",
    "images",
    "load",
    "load_inputs",
    "sample",
    "split",
    "standardise",
    "standardise_channels",
    "unit_sphere",
    "zca",
]
