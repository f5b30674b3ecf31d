"""`ntkit predict`: a saved model and a data set in, a CSV of predictions out."""

import csv
import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ntkit import data as sets
from ntkit._files import atomically
from ntkit.cli import _options as o
from ntkit.cli._console import Clock, Context, err, out, print_json, steps
from ntkit.cli._model import BLOCK, Model, Predictions, load_model
from ntkit.cli._own import OwnNetwork
from ntkit.data._load import Split, has_test_inputs, inputs_of
from ntkit.errors import InputError


def predict(
    ctx: Context,
    model: Annotated[Path, typer.Argument(help="What `ntkit fit` saved.")],
    data: Annotated[str, typer.Argument(help="A .csv, .npy or .npz file; or a name.")],
    out_path: Annotated[
        Path, typer.Option("--out", help="Where the predictions go, as CSV.", parser=o.path, metavar="<path>")
    ] = Path("predictions.csv"),
    header: o.Header = None,
    split: Annotated[
        o.Split | None,
        typer.Option(help="Which examples of data that has both; its test examples if not given."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="module:attribute: where the network of your own is that the model was fitted with. Its code is run.",
        ),
    ] = None,
    memory: o.Memory = "1GiB",
    json: o.Json = False,
) -> None:
    """Predict with a saved model: values with standard deviations, or classes with probabilities.

    A .csv with a header is read by the names of its columns; others must have the features in the order of the fit.
    """
    clock = Clock()
    o.check_out(out_path, (".csv",))
    if out_path.exists() and Path(data).exists() and out_path.samefile(data):
        raise InputError(f"`--out` is {str(out_path)!r}, the data itself: choose another name.")
    o.check_memory(memory)
    fitted = load_model(model)
    own = fitted.architecture
    if network is not None:
        if not isinstance(own, OwnNetwork):
            raise InputError(f"`--network`, but {model.name} was fitted with a network that ntkit makes: {own}.")
        fitted = dataclasses.replace(fitted, architecture=own.bound(ctx, network, memory))
    fitted.architecture.as_kernel()  # refused before anything is read
    chosen = split_of(data, None if split is None else split.value)
    x = read_inputs(fitted, data, header, chosen)
    rows = {"train": "training examples of ", "test": "test examples of ", None: "examples of "}[chosen] + data
    if not json:
        err.print(f"Predicting the {len(x)} {rows}", markup=False)
    blocks = -(-len(x) // BLOCK)
    with steps("Predicting", blocks, quiet=json) as step:
        found = fitted(x, memory=memory, progress=lambda rows: step(f"{rows} of {len(x)}"))
    write(found, fitted, out_path)
    if json:
        print_json(
            {"predictions": str(out_path), "task": fitted.task, "examples": len(x), "split": chosen or "all"}
            | {"seconds": round(clock.seconds, 3)}
        )
    else:
        what = f"{len(x)} predictions ({fitted.task}) at the {rows}"
        out.print(f"{out_path}: {what}, {clock.seconds:.1f} s", markup=False)


def split_of(source: str, asked: Split | None) -> Split | None:
    """Which examples of a source are meant: its test examples, unless the others are asked for; None if it has none."""
    path = Path(source)
    is_file = path.suffix.lower() in (".csv", ".npy", ".npz")
    both = has_test_inputs(path) if is_file else sets.load(source).x_test is not None
    if both:
        return asked or "test"
    if asked is not None:
        raise InputError(f"`--split {asked}`, but {source} is one set, with no test examples of its own. Leave it out.")
    return None


def read_inputs(model: Model, source: str, header: bool | None = None, split: Split | None = None) -> np.ndarray:
    """The features that the model wants, found by name where both sides have names."""
    path = Path(source)
    if path.suffix.lower() not in (".csv", ".npy", ".npz"):
        dataset = sets.load(source)
        found = dataset.x_test if split == "test" else dataset.x
        assert found is not None
        o.check_image(model.architecture, dataset.shape, source)
        return found
    if path.suffix.lower() != ".csv" or not model.columns:
        inputs = inputs_of(path, header=header, split="test" if split == "test" else "train")
        o.check_image(model.architecture, inputs.shape, source)
        return inputs.x
    from ntkit.data._csv import read_table

    table = read_table(path, header)
    if not table.names:
        return sets.load_inputs(path, header=header)
    missing = [name for name in model.columns if name not in table.names]
    if missing:
        raise InputError(
            f"{path.name} has no column {', '.join(map(repr, missing[:5]))}{' ...' if len(missing) > 5 else ''}, "
            f"which the model was fitted to."
        )
    return table.numbers([table.names.index(name) for name in model.columns])


def write(found: Predictions, model: Model, path: Path) -> None:
    """One row for each example; numbers in full, so that they are read back exactly."""
    if found.probabilities is not None:
        head = ["prediction", *(f"p_{name}" for name in model.classes)]
        rows = ([value, *map(float, p)] for value, p in zip(found.values.tolist(), found.probabilities, strict=True))
    else:
        assert found.std is not None
        values, std = (np.reshape(a, (len(found.values), -1)) for a in (found.values, found.std))
        number = [""] if values.shape[1] == 1 else [f"_{i}" for i in range(values.shape[1])]
        head = [*(f"prediction{i}" for i in number), *(f"std{i}" for i in number)]
        rows = ([*map(float, v), *map(float, s)] for v, s in zip(values, std, strict=True))
    with atomically(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
