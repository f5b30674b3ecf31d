"""`ntkit gallery`: the published experiments, listed and run; and CIFAR-10 with options of its own."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from ntkit import data as sets
from ntkit import gallery as room
from ntkit.cli import _options as o
from ntkit.cli._console import Clock, Context, err, out, print_json, steps
from ntkit.cli._run import FAILURE
from ntkit.errors import InputError

TRAIN, TEST = 2000, 1000

gallery = typer.Typer(
    name="gallery",
    help="Published experiments, with the published numbers beside ours. Without a name: list them.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@gallery.callback()
def list_experiments(context: Context, json: o.Json = False) -> None:
    """List the experiments."""
    if not context.invoked_subcommand:
        show(json)


@gallery.command("list")
def show(json: o.Json = False) -> None:
    """List the experiments: their names, what they are, and where they were published."""
    if json:
        print_json(room.EXPERIMENTS)
        return
    for name, words in room.EXPERIMENTS.items():
        out.print(f"{name:<20} {words}", markup=False)
    out.print("\nRun one: ntkit gallery run NAME; in seconds: ntkit gallery run NAME --quick.", markup=False)


@gallery.command("run")
def run_experiment(
    name: Annotated[str, typer.Argument(help="A name of `ntkit gallery list`.", metavar="NAME", show_default=False)],
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for figure and numbers; ntkit-gallery/NAME, NAME-quick.",
            parser=o.path,
            metavar="<path>",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller, in seconds; images are scikit-learn's digits.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Images in place of the experiment's own: mnist, digits, an .npz.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run with other settings at --out.")] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Run a published experiment: a figure like the paper's, the numbers, and a verdict computed from them.

    Writes figure.png and results.json into --out. Ends with 1 where a criterion does not hold. Stopped in any way, the
    same command goes on where it was. `run cifar10` is `ntkit gallery cifar10`, which has more options.
    """
    folder = Path("ntkit-gallery") / (f"{name}-quick" if quick else name) if out_path is None else out_path
    if name == "cifar10":
        small: Any = {"train": 100, "test": 100, "poolings": "flatten", "depths": "3"} if quick else {}
        cifar10(data=data or "cifar10", out_path=folder, overwrite=overwrite, seed=seed, json=json, **small)
        return
    study = room.study(name)
    settings = study.settings(quick=quick, data=data, seed=seed)
    if not json:
        size = "quick" if quick else f"full size: {study.cost}. --quick is smaller, Ctrl-C stops"
        err.print(f"{study.source}; {size}.", markup=False, soft_wrap=True)
    settings, images = room.with_images(study, settings)
    if images is not None:  # also beside JSON: which images they were is not to be missed
        err.print(f"Images: {images}", markup=False, soft_wrap=True)
    found = room.reproduce(study, settings, folder, overwrite=overwrite, progress=not json)
    if json:
        print_json(_judged(found))
    else:
        _say_outcome(found)
    if found.verdict != room.REPRODUCED:
        raise typer.Exit(FAILURE)


def _judged(found: room.Outcome) -> dict[str, Any]:
    return {
        "study": found.study.name,
        "verdict": found.verdict,
        "criteria": [c.plain() for c in found.criteria],
        "findings": found.findings,
        "files": list(map(str, found.files)),
        "seconds": round(found.seconds, 3),
    }


def _say_outcome(found: room.Outcome) -> None:
    """The findings, every criterion, and the verdict."""
    rows = found.study.table(found.findings)
    findings = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for column in rows.columns:
        findings.add_column(column, justify="right")
    for row in rows.rows:
        findings.add_row(*row)
    out.print(findings)
    for c in found.criteria:
        says = f"{'yes' if c.holds else 'NO':<4} {c.name}: {c.value:.3g}, must be {c.interval}"
        out.print(says, markup=False)
    held = sum(c.holds for c in found.criteria)
    out.print(f"Verdict: {found.verdict}, {held} of {len(found.criteria)} criteria hold.", markup=False)
    out.print(f"{', '.join(map(str, found.files))}: {found.seconds:.0f} s in all.", markup=False)


@gallery.command()
def cifar10(
    data: Annotated[
        str, typer.Option(help="cifar10 (fetched once), or an .npz of images (n, height, width, channels).")
    ] = "cifar10",
    out_path: Annotated[
        Path, typer.Option("--out", help="Folder for kernels, table and picture.", parser=o.path, metavar="<path>")
    ] = Path("ntkit-gallery/cifar10"),
    train: Annotated[
        int | None,
        typer.Option(
            help=f"Training images, evenly from the classes; {TRAIN} if there are as many.", show_default=False
        ),
    ] = None,
    test: Annotated[
        int | None,
        typer.Option(help=f"Test images, evenly from the classes; {TEST} if there are as many.", show_default=False),
    ] = None,
    poolings: Annotated[str, typer.Option(help="Some of flatten, local, global.")] = "flatten,local,global",
    depths: Annotated[str, typer.Option(help="Layers with weights: convolutions, and one dense layer.")] = "3,5",
    flips: Annotated[
        bool, typer.Option("--flips", help="Also the kernel averaged over left-right flips: twice the work.")
    ] = False,
    zca: Annotated[bool, typer.Option("--zca", help="Whiten the images (regularised ZCA).")] = False,
    zca_reg: Annotated[
        float, typer.Option(min=0, help="Of --zca: added to all eigenvalues, in units of their mean.")
    ] = 0.1,
    window: Annotated[int, typer.Option(min=1, help="Pixels a side of local pooling, odd.")] = 11,
    dtype: Annotated[o.Dtype, typer.Option("--dtype", help="Precision of the kernels.")] = o.Dtype.float32,
    memory: o.Memory = "1GiB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run with other settings at --out.")] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Convolutional NTKs on CIFAR-10: test accuracies beside the published ones, and what they cost.

    Flatten takes minutes, pooling hours: how many is said first. Stopped in any way, the same command goes on where it
    was; with other poolings, depths, flips or ZCA it adds rows to the table in --out.
    """
    clock = Clock()
    o.check_memory(memory)
    room.configurations(_words(poolings), _numbers(depths), zca_reg if zca else None, window)  # before a download
    dataset = sets.load(data)
    most = room.shrunk(dataset, train or TRAIN, test or TEST)
    experiment = room.Experiment(
        dataset, out_path,
        train=most[0] if train is None else train, test=most[1] if test is None else test,
        poolings=_words(poolings), depths=_numbers(depths), flips=flips, zca=zca_reg if zca else None, window=window,
        dtype=dtype.value, memory=memory, seed=seed, overwrite=overwrite,
    )  # fmt: skip
    if not json:
        err.print(f"{experiment.dataset} ({dataset.source})", markup=False, soft_wrap=True)
    with steps("Estimating", len(room.families(experiment.configurations)), quiet=json) as step:
        costs = room.estimate(experiment, progress=step)
    if not json:
        _say_costs(costs)
    rows = room.run(experiment, progress=not json, finished=lambda row: None if json else _say_row(row))
    files = room.write(rows, out_path)
    if json:
        print_json({"rows": room.plain(rows), "files": list(map(str, files)), "seconds": round(clock.seconds, 3)})
        return
    out.print(_table(rows))
    out.print(room.NOTE, markup=False)
    out.print(f"{', '.join(map(str, files))}: {clock.seconds:.0f} s in all.", markup=False)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    words = _words(text)
    if not all(word.isdigit() for word in words):
        raise InputError(f"`--depths` must be whole numbers with commas between, such as 3,5, but is {text!r}.")
    return list(map(int, words))


def _say_costs(costs: list[room.Estimate]) -> None:
    """What is left to do, in hours or less, before it begins."""
    for cost in costs:
        if cost.pairs:
            each = f"{cost.pairs:.3g} pairs of images at {1000 * cost.seconds_per_pair:.2g} ms"
            err.print(f"{cost}: {each}, about {duration(cost.seconds)}", markup=False, soft_wrap=True)
    total = sum(cost.seconds for cost in costs)
    if total:
        err.print(f"Estimated {duration(total)} in all. Ctrl-C stops; the same command goes on.", markup=False)


def duration(seconds: float) -> str:
    """`"42 s"`, `"7.5 min"`, `"6.2 h"`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _say_row(row: room.Row) -> None:
    accuracies = (
        f"{100 * row.accuracy:.2f} ± {100 * row.standard_error:.2f} %, {100 * row.ridgeless:.2f} % without a ridge"
    )
    err.print(
        f"{row.label}: {accuracies}, {duration(row.seconds)}",
        markup=False,
        soft_wrap=True,
    )


def _table(rows: list[room.Row]) -> Table:
    """What all rows share stands in the title, and two accuracies in one cell: 80 columns are few."""
    title = f"{rows[0].train} training images, {rows[0].test} test images"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    shown = [name for name in room.COLUMNS if name not in ("training images", "no ridge, %")]
    for name in shown:
        left = name in ("pooling", "accuracy, %", "published, %")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        cells = dict(zip(room.COLUMNS, room.cells(row), strict=True))
        cells["accuracy, %"] += f"\n{cells['no ridge, %']} no ridge"
        table.add_row(*(cells[name].replace("), ", ")\n") for name in shown))
    return table
