"""`ntkit fit`: a data set in, a saved model out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ntkit import data as sets
from ntkit._check import format_bytes
from ntkit.cli import _options as o
from ntkit.cli._architecture import Architecture
from ntkit.cli._choose import (
    ACTIVATIONS,
    ACTIVATIONS_OF_IMAGES,
    DEPTHS,
    DEPTHS_OF_IMAGES,
    MOST,
    RIDGES,
    Choice,
    Criterion,
    candidates,
    choose,
)
from ntkit.cli._console import Clock, Context, err, out, print_json, steps
from ntkit.cli._model import check_replaceable, fit_model
from ntkit.cli._own import Channels, Layout, OwnNetwork, check_options, is_own
from ntkit.cli._scaling import Scaling
from ntkit.errors import InputError
from ntkit.predict import one_hot


def fit(
    ctx: Context,
    data: o.Data,
    out_path: Annotated[
        Path, typer.Option("--out", help="Where the model goes.", parser=o.path, metavar="<path>")
    ] = Path("model.ntk"),
    target: o.Target = None,
    header: o.Header = None,
    task: o.TaskOption = None,
    image: o.Image = None,
    n: o.Examples = None,
    scale: Annotated[
        o.Scale | None,
        typer.Option(
            help="standard: every feature to mean 0 and deviation 1; sphere: every example to mean square 1. standard, "
            "with cntk sphere, and with a network of your own none, if not given.",
            rich_help_panel="Data",
        ),
    ] = None,
    network: o.NetworkOrOwn = "mlp",
    channels: o.ChannelsOption = Channels.none,
    tokens: o.TokensOption = False,
    pooling: o.PoolingOption = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=0, help="Hidden layers, of cntk layers with weights; chosen if not given.", rich_help_panel="Network"
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(help="Such as relu, erf; chosen if not given, of cntk relu.", rich_help_panel="Network"),
    ] = None,
    w_std: o.WStd = None,
    b_std: o.BStd = None,
    beta: o.Beta = None,
    fixed_layers: o.FixedLayers = 0,
    alpha: Annotated[
        float | None,
        typer.Option(help="Ridge, the variance of the noise; chosen if not given.", rich_help_panel="Network"),
    ] = None,
    kernel: Annotated[o.Kind, typer.Option(help="Which kernel.", rich_help_panel="Network")] = o.Kind.ntk,
    criterion: o.CriterionOption = Criterion.leave_one_out_error,
    memory: o.Memory = "1GiB",
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Fit a regressor or a classifier to a data set and save it.

    Depth, activation and ridge are chosen by --criterion where they are not given. A network of your own is not saved
    with the model: `ntkit predict` is told where it is.
    """
    clock = Clock()
    o.check_out(out_path)
    check_replaceable(out_path)
    o.check_memory(memory)
    if alpha is not None and not (0 < alpha < float("inf")):
        raise InputError(f"`--alpha` must be a positive number, but is {alpha}.")
    dataset = sets.load(data, target=o.column(target), header=header, kind=None if task is None else task.value)
    dataset = dataset if n is None else sets.sample(dataset, n, seed=seed)
    check_options(ctx, network)
    options: Sequence[Architecture | OwnNetwork]
    if is_own(network):
        if kernel != "ntk":
            raise InputError(f"`--kernel {kernel}` is of infinite networks; `{network}` is a finite one.")
        layout = Layout.of(dataset.shape, data, channels, image, tokens)
        own = OwnNetwork.load(ctx, network, layout, memory=memory)
        scaling = Scaling.of(dataset.x, (scale or o.Scale.none).value)
        own.try_on(scaling(dataset.x[:3]))
        options = [own]
    else:
        images, end = network == "cntk", None if pooling is None else pooling.value
        scaling = Scaling.of(dataset.x, (scale or (o.Scale.sphere if images else o.Scale.standard)).value)
        shallow = depth if depth is not None else 2 if images else fixed_layers
        scales = (w_std, b_std, beta, fixed_layers)
        base = Architecture.of_options(shallow, activation or "relu", *scales, kernel.value, network, end)
        options = _candidates(base.on(dataset.shape, data, image), depth, activation)
    _check_targets(dataset)
    labels = one_hot(dataset.y).y if dataset.kind == "classification" else _normal(dataset.y)
    if len(dataset.x) < 2:
        raise InputError(f"{dataset.source} has one example; a model is fitted to two or more.")
    criterion.check(dataset.kind, min(len(dataset.x), MOST))
    notes = o.notes_of(data, dataset, task)
    if not json:
        err.print("\n".join([str(dataset), *notes]), markup=False, soft_wrap=True)
    with steps("Fitting", len(options) + 2, quiet=json) as step:
        how: Any = {"criterion": criterion, "alpha": alpha, "seed": seed, "memory": memory}
        choice = choose(options, scaling(dataset.x), labels, step=step, **how)
        step(f"{choice.architecture} on {len(dataset.x)} examples")
        # With one network and one ridge there was nothing to choose.
        by = str(criterion) if len(options) > 1 or alpha is None else ""
        told: Any = {"memory": memory, "target": str(target) if target else "", "criterion": by}
        model = fit_model(dataset, scaling, choice.architecture, choice.alpha, **told)
    model.save(out_path)
    if json:
        found = {"model": str(out_path), "task": dataset.kind, "examples": len(dataset.x)} | choice.record()
        found |= {"notes": notes}
        print_json(found | _score(choice, dataset.kind) | {"seconds": round(clock.seconds, 3)})
        return
    out.print(f"{dataset.kind} of {data}: {choice.architecture}, ridge {choice.alpha:.2g}", markup=False)
    if by and not _is_constant(dataset):
        value = criterion.of(choice.best)
        among = f"{len(options)} networks" if len(options) > 1 else f"{len(RIDGES)} ridges"
        out.print(
            f"chosen among {among} by {criterion.words} on {choice.examples} examples: "
            f"{value:.4g}{criterion.unit(dataset.kind)}"
        )
    if dataset.kind == "classification":
        out.print(f"leave-one-out accuracy {choice.best.loo_accuracy:.4f}")
    elif not _is_constant(dataset):
        error = choice.best.loo_error**0.5
        out.print(f"root mean squared leave-one-out error {error:.4f} of the target's standard deviation")
    out.print(f"{out_path}: {format_bytes(out_path.stat().st_size)}, {clock.seconds:.1f} s", markup=False)


def _is_constant(dataset: sets.Dataset) -> bool:
    """Then every error is one in units of nothing."""
    return dataset.kind == "regression" and not np.ptp(dataset.y, axis=0).any()


def _check_targets(dataset: sets.Dataset) -> None:
    """Refuses targets whose squares are beyond the range of numbers."""
    if dataset.kind != "regression":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        good = np.isfinite(np.sum(np.abs(np.reshape(dataset.y, (len(dataset.y), -1))) ** 2, axis=1))
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"The target of example {row} (from 0) is too large: {dataset.y[row]}. Rescale the targets.")


def _candidates(base: Architecture, depth: int | None, activation: str | None) -> list[Architecture]:
    """Like `base`, with the depths and activations that are not given open."""
    images = base.network_name == "cntk"
    depths = (DEPTHS_OF_IMAGES if images else DEPTHS) if depth is None else (depth,)
    activations = (ACTIVATIONS_OF_IMAGES if images else ACTIVATIONS) if activation is None else (activation,)
    return candidates(base, depths, activations)


def _score(choice: Choice, kind: str) -> dict[str, float | None]:
    best = choice.best
    return {"loo_accuracy": best.loo_accuracy} if kind == "classification" else {"loo_rmse": best.loo_error**0.5}


def _normal(y):
    """Targets of mean 0 and deviation 1: what the ridge is measured in."""
    std = y.std(axis=0)
    return (y - y.mean(axis=0)) / (std + (std == 0))
