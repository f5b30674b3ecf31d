"""`ntkit empirical`: a network of the user's own and a data set in, its NTK with plan and spectrum out."""

import json as formats
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ntkit import data as sets
from ntkit._files import atomically
from ntkit.cli import _options as o
from ntkit.cli._console import Clock, err, out, print_json
from ntkit.cli._empirical import Method, Outputs, engine_of
from ntkit.cli._network import importable_here, load_network
from ntkit.cli._own import Channels, Layout
from ntkit.cli._scaling import Scaling
from ntkit.cli._summary import alignment, eigenvalues, mean_of_outputs
from ntkit.cli.kernel import examples_of
from ntkit.data._load import pixels
from ntkit.errors import InputError
from ntkit.predict import one_hot

_NET = "Network"


class Format(StrEnum):
    """Of the file of the kernel."""

    npy = "npy"
    zarr = "zarr"


def empirical(
    network: Annotated[
        str, typer.Argument(help="module:attribute: a torch module, a pair (fn, params), or what returns one.")
    ],
    data: o.Data,
    folder: Annotated[
        Path, typer.Option("--out", help="The folder for all files.", parser=o.path, metavar="<path>")
    ] = Path("ntkit-empirical"),
    outputs: Annotated[
        Outputs, typer.Option(help="Of several outputs: their mean, each with itself, or all pairs.")
    ] = Outputs.mean,
    only: Annotated[
        list[str] | None, typer.Option(help="Parameters that count: a name, or its beginning up to a dot; repeatable.")
    ] = None,
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Also what each parameter adds.")] = False,
    file: Annotated[Format, typer.Option("--format", help="Of the kernel's file.")] = Format.npy,
    method: Annotated[
        Method, typer.Option(help="How a kernel of JAX is computed; auto counts.", rich_help_panel=_NET)
    ] = Method.auto,
    channels: o.ChannelsOption = Channels.none,
    tokens: o.TokensOption = False,
    dtype: Annotated[
        o.Dtype | None, typer.Option(help="The network's own if not given.", rich_help_panel="Run")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also the alignment with the targets.", rich_help_panel="Data")
    ] = False,
    target: o.Target = None,
    header: o.Header = None,
    image: o.Image = None,
    n: o.Examples = None,
    scale: o.ScaleOption = o.Scale.none,
    memory: o.Memory = "1GiB",
    overwrite: Annotated[bool, typer.Option(help="Replace the kernel in --out.", rich_help_panel="Run")] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Compute the NTK of a network that exists, of JAX or torch, with its plan and its spectrum.

    Stopped in any way, the same command goes on where it was.
    """
    clock = Clock()
    o.check_memory(memory)
    x, y, kind = _read(data, labels, target, header, n, seed, (channels, image), scale, tokens)
    with importable_here():
        loaded = load_network(network)
        engine = engine_of(
            loaded, x, tokens=tokens, dtype=dtype, outputs=outputs.value, only=only or [], method=method.value,
            memory=memory,
        )  # fmt: skip
        o.make_folder(folder)
        places = _places(folder, file.value, engine.names if by_layer else [])
        if not json:
            what = f"{outputs} of the outputs" if outputs != "full" else "all outputs"
            err.print(
                f"NTK of {network} ({loaded.library}) at {len(x)} examples of {data}, {what}",
                markup=False,
                soft_wrap=True,
            )
            if pixels(data):
                err.print(f"The 8-bit integers of {data} are taken for pixels: divided by 255.", markup=False)
            for note in engine.notes:
                err.print(note, markup=False, soft_wrap=True)
        plan, record = engine.plan()
        written = engine.write(places, progress=not json, overwrite=overwrite)
    values = eigenvalues(written[""], memory)
    files = _write(folder, network, plan, record, values)
    found = {
        "network": network, "library": loaded.library, "outputs": outputs.value, "shape": list(written[""].shape),
        "dtype": engine.dtype, "files": {"kernel": places[""], **files},
        "layers": {name: path for name, path in places.items() if name},
        "operations": record["operations"], "eigenvalues": _figures(values),
    }  # fmt: skip
    if y is not None:
        found["alignment"] = alignment(mean_of_outputs(written[""]), y)
    found["seconds"] = round(clock.seconds, 3)
    if json:
        print_json(found)
    else:
        _show(found, kind)


def _read(
    data: str, labels: bool, target: str | None, header: bool | None, n: int | None, seed: int,
    layout: tuple[Channels, str | None], scale: o.Scale, tokens: bool,
) -> tuple[np.ndarray, np.ndarray | None, str]:  # fmt: skip
    """Examples as the network takes them, the targets as columns if asked for, and of which kind they are."""
    y, kind = None, ""
    if labels:
        if data.lower().endswith(".npy"):
            raise InputError(f"`--labels` needs targets, but {data} is one array of inputs. Take an .npz with x and y.")
        dataset = sets.load(data, target=o.column(target), header=header)
        dataset = dataset if n is None else sets.sample(dataset, n, seed=seed)
        x, shape, kind = dataset.x, dataset.shape, dataset.kind
        y = np.asarray(one_hot(dataset.y).y if kind == "classification" else dataset.y, np.float64)
        y = y.reshape(len(y), -1)
    else:
        x, shape = examples_of(data, target, header, n, seed)
    if tokens and not np.array_equal(x, np.round(x)):
        raise InputError(
            f"`--tokens`, but {data} has numbers that are not whole (8-bit ones are taken for pixels): save int32."
        )
    x = x if scale == "none" else Scaling.of(x, scale.value)(x)
    return Layout.of(shape, data, *layout)(x), y, kind


def _places(folder: Path, suffix: str, names: list[str]) -> dict[str, Path]:
    if not names:
        return {"": folder / f"kernel.{suffix}"}
    o.make_folder(folder / "layers")
    safe = {name: "".join(c if c.isalnum() or c in "._-" else "_" for c in name) for name in names}
    twice = len(set(safe.values())) < len(names)
    layers = {
        name: folder / "layers" / f"{f'{i}-' if twice else ''}{safe[name]}.{suffix}" for i, name in enumerate(names)
    }
    return {"": folder / f"kernel.{suffix}", **layers}


def _write(folder: Path, network: str, plan: str, record: dict[str, Any], values: np.ndarray) -> dict[str, Path]:
    """Plan and spectrum, each as numbers and for the eye."""
    from ntkit import plots

    names = ("plan.txt", "plan.json", "eigenvalues.npy", "spectrum.png")
    files = {name.partition(".")[0] + ("_table" if name == "plan.txt" else ""): folder / name for name in names}
    with atomically(files["plan_table"]) as draft:
        draft.write_text(plan + "\n", encoding="utf-8")
    with atomically(files["plan"]) as draft:
        draft.write_text(formats.dumps(record, indent=1) + "\n", encoding="utf-8")
    with atomically(files["eigenvalues"]) as draft:
        np.save(draft, values)
    figure, ax = plots.figure(6.0, 4.2)
    rows = {"NTK": values} if values.ndim == 1 else {f"output {i}": row for i, row in enumerate(values[:8])}
    if all(row[0] > 0 for row in rows.values()):
        plots.spectrum(ax, rows)
    ax.set_title(f"Spectrum of the NTK of {network}\n({values.shape[-1]} eigenvalues)")
    with atomically(files["spectrum"]) as draft:
        figure.savefig(draft)
    return files


def _figures(values: np.ndarray) -> dict[str, Any]:
    """Of all eigenvalues together; `effective_rank` is (sum)^2 / sum of squares."""
    largest, total = float(values.max()), float(values.sum())
    rank = total**2 / float(np.sum(values**2)) if largest > 0 else 0.0
    return {"count": int(values.size), "largest": largest, "smallest": float(values.min()), "effective_rank": rank}


def _show(found: dict[str, Any], kind: str) -> None:
    some = found["eigenvalues"]
    shape = " x ".join(map(str, found["shape"]))
    out.print(
        f"eigenvalues {some['largest']:.4g} to {some['smallest']:.3g} ({some['count']}), effective rank "
        f"{some['effective_rank']:.3g}"
    )
    if "alignment" in found:
        what = "classes" if kind == "classification" else "targets"
        out.print(f"alignment with the {what} {found['alignment']:.4f} (centred; 1 is the most)")
    if found["layers"]:
        out.print(f"{len(found['layers'])} parameters, each alone, in {found['files']['kernel'].parent / 'layers'}")
    for name, path in found["files"].items():
        out.print(f"{path}" + (f": {shape}, {found['dtype']}" if name == "kernel" else ""), markup=False)
    out.print(f"{found['seconds']:.1f} s")
