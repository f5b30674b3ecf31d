"""The published experiments, one file each, with the published numbers beside ours.

`ntkit gallery list` lists them, `ntkit gallery run NAME` runs one. Those in `STUDIES` are judged: numbers in, a verdict
out, by criteria that each file states.
"""

import difflib

from ntkit.errors import InputError
from ntkit.gallery import (
    early_stopping,
    finite_vs_infinite,
    jacot2018_fig1,
    jacot2018_fig2,
    jacot2018_fig3,
    lazy_training,
    linearization_mnist,
    random_features,
    spectral_bias,
)
from ntkit.gallery._configuration import Configuration, configurations
from ntkit.gallery._folder import Folder
from ntkit.gallery._passes import families
from ntkit.gallery._report import COLUMNS, NOTE, cells, markdown, plain, write
from ntkit.gallery._study import REPRODUCED, Criterion, Outcome, Study, Table, judge, reproduce, verdict, with_images
from ntkit.gallery.cifar10 import Estimate, Experiment, Row, estimate, run, shrunk

STUDIES = {
    study.name: study
    for study in (
        jacot2018_fig1.STUDY,
        jacot2018_fig2.STUDY,
        jacot2018_fig3.STUDY,
        linearization_mnist.STUDY,
        random_features.STUDY,
        spectral_bias.STUDY,
        early_stopping.STUDY,
        finite_vs_infinite.STUDY,
        lazy_training.STUDY,
    )
}
EXPERIMENTS = {name: f"{study.words} ({study.source})" for name, study in STUDIES.items()}
EXPERIMENTS["cifar10"] = "Convolutional NTKs on CIFAR-10 (Arora et al. 2019; Li et al. 2019)"


def study(name: str) -> Study:
    """One of `STUDIES` by its name. **Raises:** `InputError` for any other name."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"`name` must be one of {', '.join(EXPERIMENTS)}, but is {name!r}.{meant}")
    return STUDIES[name]


__all__ = [
    "COLUMNS",
    "EXPERIMENTS",
    "NOTE",
    "REPRODUCED",
    "STUDIES",
    "Configuration",
    "Criterion",
    "Estimate",
    "Experiment",
    "Folder",
    "Outcome",
    "Row",
    "Study",
    "Table",
    "cells",
    "configurations",
    "estimate",
    "families",
    "judge",
    "markdown",
    "plain",
    "reproduce",
    "run",
    "shrunk",
    "study",
    "verdict",
    "with_images",
    "write",
]
