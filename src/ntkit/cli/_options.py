"""The options that commands share, with one wording and one meaning each."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ntkit._check import parse_memory
from ntkit.cli._architecture import Architecture
from ntkit.cli._choose import Criterion
from ntkit.cli._own import Channels
from ntkit.data import NAMES, Dataset, image_shape
from ntkit.errors import InputError

_NET = "Network"
_DATA = "Data"
_RUN = "Run"


class Kind(StrEnum):
    """Which kernel."""

    ntk = "ntk"
    nngp = "nngp"


class KindOrBoth(StrEnum):
    """Which kernel, or both in one pass."""

    ntk = "ntk"
    nngp = "nngp"
    both = "both"


class Dtype(StrEnum):
    """The precision of the computation."""

    float64 = "float64"
    float32 = "float32"


class Network(StrEnum):
    """Which architecture."""

    mlp = "mlp"
    cntk = "cntk"


class Pooling(StrEnum):
    """How a network of images ends its pixels."""

    flatten = "flatten"
    local = "local"
    global_ = "global"


class Scale(StrEnum):
    """What is done to the features first."""

    standard = "standard"
    sphere = "sphere"
    none = "none"


class Split(StrEnum):
    """Which examples of data that has both."""

    train = "train"
    test = "test"


class Task(StrEnum):
    """What the target is."""

    classification = "classification"
    regression = "regression"


Data = Annotated[
    str, typer.Argument(help="digits, mnist, cifar10, iris, wine, breast_cancer, diabetes, or a .csv or .npz file.")
]
Target = Annotated[
    str | None, typer.Option(help="Column of a .csv to predict: name or number (from 0).", rich_help_panel=_DATA)
]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether the first row of a .csv holds names.", rich_help_panel=_DATA),
]
Examples = Annotated[
    int | None, typer.Option("--n", min=1, help="Use a random subset of this size.", rich_help_panel=_DATA)
]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is random.", rich_help_panel=_RUN)]
TaskOption = Annotated[
    Task | None, typer.Option("--task", help="Told from the target if not given.", rich_help_panel=_DATA)
]
ScaleOption = Annotated[
    Scale,
    typer.Option(
        help="standard: every feature to mean 0 and deviation 1; sphere: every example to mean square 1.",
        rich_help_panel=_DATA,
    ),
]
NetworkOption = Annotated[
    Network,
    typer.Option("--network", help="mlp: dense layers; cntk: convolutions of 3 x 3, for images.", rich_help_panel=_NET),
]


def _network(text: str) -> str:
    if ":" not in text and text not in list(Network):
        raise typer.BadParameter(f"it must be {', '.join(Network)} or module:attribute, but is {text!r}.")
    return text


NetworkOrOwn = Annotated[
    str,
    typer.Option(
        "--network",
        parser=_network,
        metavar="<mlp|cntk|module:attribute>",
        help="mlp: dense layers; cntk: convolutions of 3 x 3, for images; or a network of your own, as for `ntkit "
        "empirical`.",
        rich_help_panel=_NET,
    ),
]
ChannelsOption = Annotated[
    Channels,
    typer.Option(
        help="Where a network of your own wants the channels of images; rows: flattened; none: all as the data has it.",
        rich_help_panel=_NET,
    ),
]
TokensOption = Annotated[
    bool,
    typer.Option("--tokens", help="The network of your own takes whole numbers, such as tokens.", rich_help_panel=_NET),
]
PoolingOption = Annotated[
    Pooling | None, typer.Option("--pooling", help="Of cntk, at its end; flatten if not given.", rich_help_panel=_NET)
]
Image = Annotated[
    str | None,
    typer.Option(
        help="The image that a row is, such as 28x28x1, if the data is a table and the network takes images.",
        rich_help_panel=_DATA,
    ),
]
Depth = Annotated[int, typer.Option(min=0, help="Hidden layers; of cntk layers with weights.", rich_help_panel=_NET)]
Activation = Annotated[str, typer.Option(help="Such as relu, erf, gelu, tanh.", rich_help_panel=_NET)]
WStd = Annotated[float | None, typer.Option(min=0, help="Deviation of the weights; sqrt(2).", rich_help_panel=_NET)]
BStd = Annotated[float | None, typer.Option(min=0, help="Deviation of the biases; 0.1.", rich_help_panel=_NET)]
Beta = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Instead of both: w_std = sqrt(1 - beta^2), b_std = beta.", rich_help_panel=_NET),
]
FixedLayers = Annotated[int, typer.Option(min=0, help="The first layers that are not trained.", rich_help_panel=_NET)]
CriterionOption = Annotated[
    Criterion,
    typer.Option(
        "--criterion",
        metavar="<name>",
        help="By what depth, activation and ridge are chosen: leave-one-out-error, leave-one-out (log density), "
        "leave-one-out-accuracy (of classes), k-fold (error of 5 folds), or likelihood (marginal).",
        rich_help_panel=_NET,
    ),
]
Memory = Annotated[str, typer.Option(help='Budget beyond the result, such as "512MiB" or "2GB".', rich_help_panel=_RUN)]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Precision.", rich_help_panel=_RUN)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.", rich_help_panel=_RUN)]


def base_of(network: Network, pooling: Pooling | None) -> Architecture:
    """A network of that kind with all else as it is by default; the smallest that there is."""
    how = (network.value, None if pooling is None else pooling.value)
    return Architecture.of_options(2, "relu", None, None, None, 0, "ntk", *how)


def check_image(net: Any, shape: tuple[int, ...], source: str) -> None:
    """Refuses images of another shape than the network's; rows are images of its shape, if they are long enough."""
    if not net.image or len(shape) == 1:
        return
    found = image_shape(shape, source)
    if found != net.image:
        raise InputError(f"The network is for images of shape {net.image}, but those of {source} have shape {found}.")


def column(target: str | None) -> str | int | None:
    """A column by name, or by number where it is one."""
    return int(target) if target is not None and target.lstrip("-").isdigit() else target


def notes_of(data: str, dataset: Dataset, asked: Task | None = None) -> list[str]:
    """What is taken for granted about a data set, in sentences."""
    notes = []
    if asked is None and data not in NAMES:
        notes.append(f"The task, {dataset.kind}, is told from the target; `ntkit fit --task` sets it.")
    if dataset.kind == "regression" and (dataset.y == dataset.y[0]).all():
        notes.append(f"The target is constant, {dataset.y.flat[0]:g} in every example: there is nothing to learn.")
    if (dataset.x == dataset.x[0]).all():
        notes.append("All features are constant: nothing can be learned from them.")
    return notes


def path(text: str | Path) -> Path:
    """An output's path; `Path("")` would be the current folder."""
    if not str(text):
        raise typer.BadParameter("it is empty.")
    return Path(text)


def check_out(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Refuses, before anything is computed, a file that could not be written."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"`--out` must end in {' or '.join(suffixes)}, but is {str(path)!r}.")
    if path.is_dir() and path.suffix != ".zarr":
        raise InputError(f"`--out` must be a file, but {str(path)!r} is a folder.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"`--out` must be a file, but {str(path)!r} is a device or a pipe.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"`--out` is {str(path)!r}, but there is no folder {str(folder)!r}.")
    check_writable(folder)


def check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"`--out`: the folder {str(folder)!r} is not writable.")


def make_folder(path: Path) -> None:
    """The folder for results, refused before anything is computed if it cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"`--out` must be a folder, but {str(path)!r} is a file.") from None
    except OSError as error:
        raise InputError(f"`--out`: the folder {str(path)!r} cannot be made: {error.strerror}.") from error
    check_writable(path)


def check_memory(memory: str) -> None:
    """Refuses, before anything is read or computed, what is no budget."""
    parse_memory(memory, name="--memory")
