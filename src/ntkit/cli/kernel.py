"""`ntkit kernel`: data in, a Gram matrix on disk out."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import ntkit
from ntkit import data as sets
from ntkit.cli import _options as o
from ntkit.cli._architecture import Architecture
from ntkit.cli._console import Clock, Context, err, out, print_json
from ntkit.cli._own import Channels, Layout, OwnNetwork, check_options, is_own
from ntkit.data._load import inputs_of
from ntkit.errors import ComputationError, InputError
from ntkit.gram.run import NotFiniteError


def kernel(
    ctx: Context,
    data: o.Data,
    out_path: Annotated[
        Path, typer.Option("--out", help="Where it goes: .npy or .zarr.", parser=o.path, metavar="<path>")
    ],
    data2: Annotated[str | None, typer.Option(help="Other examples: the columns of the matrix.")] = None,
    kind: Annotated[o.KindOrBoth, typer.Option(help="Which kernel; both in one pass.")] = o.KindOrBoth.ntk,
    network: o.NetworkOrOwn = "mlp",
    channels: o.ChannelsOption = Channels.none,
    tokens: o.TokensOption = False,
    pooling: o.PoolingOption = None,
    depth: o.Depth = 3,
    activation: o.Activation = "relu",
    w_std: o.WStd = None,
    b_std: o.BStd = None,
    beta: o.Beta = None,
    fixed_layers: o.FixedLayers = 0,
    target: o.Target = None,
    header: o.Header = None,
    image: o.Image = None,
    n: o.Examples = None,
    scale: o.ScaleOption = o.Scale.none,
    dtype: o.DtypeOption = o.Dtype.float64,
    memory: o.Memory = "1GiB",
    overwrite: Annotated[bool, typer.Option(help="Replace what stands at --out.", rich_help_panel="Run")] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Compute the kernel matrix of a data set, tile by tile, into a file.

    Stopped in any way, the same command goes on where it was. Every column of a .csv is a feature but --target.
    """
    clock = Clock()
    o.check_out(out_path, (".npy", ".zarr"))
    o.check_memory(memory)
    check_options(ctx, network)
    x1, shape = examples_of(data, target, header, n, seed)
    if is_own(network):
        layout = Layout.of(shape, data, channels, image, tokens)
        net = OwnNetwork.load(ctx, network, layout, dtype.value, memory)
    else:
        which, end = kind.value if kind != "both" else "ntk", None if pooling is None else pooling.value
        net = Architecture.of_options(depth, activation, w_std, b_std, beta, fixed_layers, which, network, end)
        net = net.on(shape, data, image)
    computed = net.of_kind(kind)
    x2 = None
    if data2 is not None:
        x2, shape = examples_of(data2, target, header, None, seed, maybe=True)
        o.check_image(net, shape, data2)
    x1, x2 = scaled(x1, x2, scale)
    if isinstance(net, OwnNetwork):
        net.try_on(x1)
    where = _places(out_path, kind)
    if not json:
        shape = f"{len(x1)} x {len(x1 if x2 is None else x2)}"
        err.print(f"{kind.upper() if kind != 'both' else 'NTK and NNGP'} of {data}, {shape}, {dtype}: {net}")
        if target is None and data.lower().endswith(".csv"):
            err.print(f"Every column of {data} is a feature; name one that is not with --target.", markup=False)
    options: dict[str, Any] = {"memory": memory, "progress": not json, "dtype": dtype.value, "overwrite": overwrite}
    try:
        result = ntkit.gram(computed, x1, x2, out=where, **options)
    except NotFiniteError as error:
        _remove(where)
        raise ComputationError(
            f"The kernel of examples {error.pair[0]} and {error.pair[1]} (from 0) is not finite: they are too large "
            "for the precision. Scale the features (`--scale standard`), or work in float64. Nothing was kept."
        ) from error
    shape = list((result if kind != "both" else result[0]).shape)
    paths = {k: str(p) for k, p in where.items()} if isinstance(where, dict) else {kind.value: str(where)}
    if json:
        print_json(
            {"kind": kind.value, "files": paths, "shape": shape, "dtype": dtype.value}
            | {"network": net.record() | {"kernel": kind.value}, "seconds": round(clock.seconds, 3)}
        )
    else:
        for path in dict.fromkeys(paths.values()):
            out.print(f"{path}: {shape[0]} x {shape[1]}, {dtype}, {clock.seconds:.1f} s", markup=False)


def _places(path: Path, kind: o.KindOrBoth) -> Any:
    """One path, or for both kernels as .npy one each."""
    if kind != "both" or path.suffix == ".zarr":
        return path
    return {name: path.with_name(f"{path.stem}-{name}{path.suffix}") for name in ("nngp", "ntk")}


def _remove(where: Any) -> None:
    for path in where.values() if isinstance(where, dict) else [where]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.with_name(path.name + ".journal").unlink(missing_ok=True)


def examples_of(
    source: str, target: str | None, header: bool | None, n: int | None, seed: int, maybe: bool = False
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The inputs of a data set, and the shape that an example had; a .csv and an .npy need no targets, nor, if `maybe`,
    the column `target`."""
    if source.lower().endswith((".csv", ".npy", ".npz")):
        found = inputs_of(source, header=header, drop=o.column(target), maybe=maybe)
    else:
        found = sets.load(source, header=header, target=o.column(target))
    x = found.x
    if n is None or n >= len(x):
        return x, found.shape
    return x[np.sort(np.random.default_rng(seed).permutation(len(x))[:n])], found.shape


def scaled(x1: np.ndarray, x2: np.ndarray | None, scale: o.Scale) -> tuple[np.ndarray, np.ndarray | None]:
    """Both by the first one's mean and deviation, or each example to mean square 1."""
    if x2 is not None and x2.shape[1] != x1.shape[1]:
        raise InputError(f"`data` has {x1.shape[1]} features, but `--data2` has {x2.shape[1]}.")
    if scale == "none":
        return x1, x2
    from ntkit.cli._scaling import Scaling

    scaling = Scaling.of(x1, scale.value)
    return scaling(x1), None if x2 is None else scaling(x2)
