"""The published experiments, one file each, with the published numbers beside ours.

`ntkit gallery` lists them, `ntkit gallery cifar10` runs one.
"""

from ntkit.gallery._folder import Folder
from ntkit.gallery._report import COLUMNS, NOTE, cells, markdown, plain, write
from ntkit.gallery.cifar10 import Configuration, Estimate, Experiment, Row, configurations, estimate, run, shrunk

EXPERIMENTS = {"cifar10": "Convolutional NTKs on CIFAR-10 (Arora et al. 2019; Li et al. 2019)"}

__all__ = [
    "COLUMNS",
    "EXPERIMENTS",
    "NOTE",
    "Configuration",
    "Estimate",
    "Experiment",
    "Folder",
    "Row",
    "cells",
    "configurations",
    "estimate",
    "markdown",
    "plain",
    "run",
    "shrunk",
    "write",
]
