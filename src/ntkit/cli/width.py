"""`ntkit width`: how fast the kernels of finite networks come to the infinite one."""

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.table import Table

import ntkit
from ntkit._files import atomically
from ntkit.cli import _options as o
from ntkit.cli._architecture import Architecture
from ntkit.cli._console import Clock, err, out, print_json
from ntkit.cli.kernel import examples_of, scaled
from ntkit.diagnose import Rate, WidthStudy
from ntkit.errors import InputError
from ntkit.nn.widths import changed, map_weighted

DEPTH, WIDTHS, N = 2, "64,128,256,512,1024", 16
# A network of images has pixels besides.
CHANNELS = "8,16,32,64"


class Law(StrEnum):
    """The law of weights and biases."""

    normal = "normal"
    uniform = "uniform"
    rademacher = "rademacher"
    laplace = "laplace"


def width(
    data: o.Data = "digits",
    out_path: Annotated[
        Path, typer.Option("--out", help="Folder for picture and numbers.", parser=o.path, metavar="<path>")
    ] = Path("ntkit-width"),
    widths: Annotated[
        str | None,
        typer.Option(help=f"Hidden widths; {WIDTHS}, of cntk {CHANNELS}.", show_default=False, rich_help_panel="Draws"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks of each width.", min=2, rich_help_panel="Draws")] = 20,
    init: Annotated[
        Law, typer.Option("--init", help="Law of weights and biases.", rich_help_panel="Draws")
    ] = Law.normal,
    spread: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            rich_help_panel="Draws",
            help="Random widths, one for each hidden layer: evenly from 1 - spread to 1 + spread times --widths.",
        ),
    ] = 0.0,
    delta: Annotated[
        float, typer.Option(help="Probability that the drawn bound of Arora et al. fails.", rich_help_panel="Draws")
    ] = 0.05,
    network: o.NetworkOption = o.Network.mlp,
    pooling: o.PoolingOption = None,
    depth: o.Depth = DEPTH,
    activation: o.Activation = "relu",
    w_std: o.WStd = None,
    b_std: o.BStd = None,
    beta: o.Beta = None,
    fixed_layers: o.FixedLayers = 0,
    target: o.Target = None,
    header: o.Header = None,
    image: o.Image = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Examples, a random subset.", rich_help_panel="Data")] = N,
    scale: o.ScaleOption = o.Scale.sphere,
    dtype: o.DtypeOption = o.Dtype.float32,
    memory: o.Memory = "1GiB",
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Draw networks of growing width, and measure how far their NTK is from the infinite one.

    Prints the deviation |K - K_inf| / |K_inf| at each width and the fitted rate, -1/2 in theory, for the whole kernel
    and layer by layer; writes width.png and width.json into --out.
    """
    clock = Clock()
    o.check_memory(memory)
    default = CHANNELS if network is o.Network.cntk else WIDTHS
    laws = _widths(default if widths is None else widths, spread)
    if not 0 < delta < 1:
        raise InputError(f"`--delta` must lie between 0 and 1; got {delta:g}.")
    how = (network.value, None if pooling is None else pooling.value)
    net = Architecture.of_options(depth, activation, w_std, b_std, beta, fixed_layers, "ntk", *how)
    x, shape = examples_of(data, target, header, n, seed)
    net = net.on(shape, data, image)
    x, _ = scaled(x, None, scale)
    o.make_folder(out_path)
    drawn_by = map_weighted(lambda _, layer: changed(layer, law=init.value), net.network())
    if not json:
        err.print(f"{len(x)} examples of {data}, {seeds} networks of each width, {init} weights: {net}", markup=False)
    exact = dtype is o.Dtype.float64
    with jax.enable_x64(True) if exact else contextlib.nullcontext():
        rows = net.examples(x).astype(dtype.value)
        found = ntkit.width_study(drawn_by, rows, laws, range(seed, seed + seeds), memory=memory, progress=not json)
    settings = vars(net) | {"init": init.value, "spread": spread, "seeds": seeds, "seed": seed, "dtype": dtype.value}
    numbers = {"data": data, "examples": len(x), "network": settings} | plain(found, delta)
    files = _write(found, numbers, out_path, f"{net}, {init} weights", delta)
    if json:
        print_json(numbers | {"files": files, "seconds": round(clock.seconds, 3)})
        return
    for table in _tables(found):
        out.print(table)
    out.print(f"Rate: deviation ~ width^({_written(found.rate)}); theory: -1/2.", markup=False)
    out.print(f"{', '.join(map(str, files))}: {clock.seconds:.0f} s in all.", markup=False)


def _widths(text: str, spread: float) -> list[Any]:
    """Numbers, or the uniform laws around them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise InputError(
            f"`--widths` must be positive whole numbers with commas between, such as 64,128, not {text!r}."
        )
    numbers = list(map(int, words))
    if len(set(numbers)) < 2:
        raise InputError(f"`--widths` must hold at least two different widths, or there is no rate; got {text!r}.")
    if not spread:
        return numbers
    from scipy.stats import randint  # half a second

    return [randint(max(1, round((1 - spread) * m)), round((1 + spread) * m) + 1) for m in numbers]


def plain(found: WidthStudy, delta: float) -> dict[str, Any]:
    """The numbers of a study without its matrices."""
    errors = found.deviations.std(axis=1, ddof=1) / np.sqrt(found.deviations.shape[1])
    biases = np.linalg.norm(found.mean - found.infinite, axis=(1, 2)) / np.linalg.norm(found.infinite)
    layers = [
        {"layer": name, "rate": _rate(rate), "deviations": own.mean(axis=1)}
        for name, rate, own in zip(
            found.layers, found.rate_by_layer, found.deviations_by_layer.swapaxes(0, 1), strict=True
        )
    ]
    return {
        "rate": _rate(found.rate),
        "widths": found.widths,
        "deviations": found.deviations,
        "mean_deviation": found.deviations.mean(axis=1),
        "standard_error": errors,
        "deviation_of_the_mean": biases,
        "layers": layers,
        "drawn_widths": found.drawn,
        "bounds": found.bounds(delta) | {"delta": delta, "constants": 1},
    }


def _rate(rate: Rate) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in rate._asdict().items()}


def _written(rate: Rate) -> str:
    if not np.isfinite(rate.slope):
        return "none, as some networks do not deviate"
    return f"{rate.slope:.3f} ± {rate.standard_error:.3f}"


def _tables(found: WidthStudy) -> list[Table]:
    """The whole kernel at each width, and each layer at the last one."""
    whole, layers = Table(), Table()
    for table, names in (
        (whole, ("width", "deviation", "standard error")),
        (layers, ("layer", f"deviation at {found.widths[-1]:.5g}", "rate")),
    ):
        for name in names:
            table.add_column(name, justify="left" if name == "layer" else "right")
    for m, own in zip(found.widths, found.deviations, strict=True):
        whole.add_row(f"{m:.5g}", f"{own.mean():.4f}", f"{own.std(ddof=1) / np.sqrt(len(own)):.4f}")
    for name, own, rate in zip(found.layers, found.deviations_by_layer[-1], found.rate_by_layer, strict=True):
        layers.add_row(name, f"{own.mean():.4f}", _written(rate))
    return [whole, layers]


def _write(found: WidthStudy, numbers: dict[str, Any], folder: Path, title: str, delta: float) -> list[Path]:
    from ntkit import plots
    from ntkit.cli._console import as_json

    figure, ax = plots.figure(8.4, 4.6)
    plots.width_study(ax, found, delta=delta)
    ax.set_title(title)
    files = [folder / "width.png", folder / "width.json"]
    with atomically(files[0]) as draft:
        figure.savefig(draft)
    with atomically(files[1]) as draft:
        draft.write_text(as_json(numbers) + "\n")
    return files
