"""`ntkit demo`: both kernels of a real data set, the choice of a network, predictions, a comparison, three pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from ntkit import data as sets
from ntkit._files import atomically
from ntkit.cli import _options as o
from ntkit.cli._choose import Criterion
from ntkit.cli._console import Clock, out, print_json, steps
from ntkit.cli._study import Study, networks, study
from ntkit.data import Dataset
from ntkit.errors import InputError

# Of a larger set a random subset of this size is used, unless --n says otherwise.
TRAIN, TEST = 2000, 1000


def demo(
    data: Annotated[
        str, typer.Option(help="digits, mnist, cifar10, iris, wine, breast_cancer, diabetes, or a .csv or .npz file.")
    ] = "digits",
    out_path: Annotated[
        Path, typer.Option("--out", help="Folder for the pictures.", parser=o.path, metavar="<path>")
    ] = Path("ntkit-demo"),
    n: Annotated[
        int | None, typer.Option("--n", min=20, help="Training examples at most.", rich_help_panel="Data")
    ] = None,
    target: o.Target = None,
    header: o.Header = None,
    image: o.Image = None,
    network: o.NetworkOption = o.Network.mlp,
    pooling: o.PoolingOption = None,
    criterion: o.CriterionOption = Criterion.leave_one_out_error,
    seed: o.Seed = 0,
    quick: Annotated[bool, typer.Option(help="Fewer examples and candidates, to see that all works.")] = False,
    json: o.Json = False,
) -> None:
    """See it work: kernels, model choice, predictions and a comparison on real data, in under a minute.

    Chooses depth, activation and ridge by --criterion, fits the infinite ensemble, compares it with the same network
    trained at finite width and with a tuned RBF SVM, and draws the Gram matrix, its spectrum, and the examples it is
    least sure of.
    """
    clock = Clock()
    notes: list[str] = []
    dataset = prepare(data, n or (400 if quick else TRAIN), target=target, header=header, seed=seed, note=notes.append)
    notes += o.notes_of(data, dataset)
    base = o.base_of(network, pooling).on(dataset.shape, data, image)
    o.make_folder(out_path)
    if not json:
        out.print(f"Data: {dataset} ({dataset.source})", markup=False)
        for line in notes:
            out.print(line, markup=False)
    with steps("Demo", len(networks(base, quick=quick)) + 7, quiet=json) as step:
        found = study(dataset, base=base, criterion=criterion, seed=seed, quick=quick, step=step)
        step("pictures")
        files = draw(found, out_path)
    if json:
        print_json(_plain(found, files, notes, clock.seconds))
        return
    _report(found)
    out.print("Pictures: " + ", ".join(map(str, files)), markup=False)
    out.print(f"{clock.seconds:.0f} s in all.", markup=False)


def prepare(
    source: str,
    n: int,
    *,
    target: str | None = None,
    header: bool | None = None,
    seed: int = 0,
    note: Callable[[str], Any] = lambda line: None,
) -> Dataset:
    """A data set with test examples and at most `n` training examples; `note` is told what was left out."""
    dataset = sets.load(source, target=o.column(target), header=header)
    if dataset.kind == "regression" and dataset.y.ndim > 1:
        raise InputError(f"{dataset.source} has {dataset.y.shape[1]} targets; the demo takes one. Use `ntkit fit`.")
    if len(dataset.x) < 12:
        raise InputError(f"{dataset.source} has {len(dataset.x)} examples; the demo needs at least 12.")
    if dataset.x_test is None:
        dataset = sets.split(dataset, 1 / 3, seed=seed)
    whole = len(dataset.x), len(dataset.x_test if dataset.x_test is not None else ())
    dataset = _fewer_tests(sets.sample(dataset, n, seed=seed), min(TEST, max(n, 20)), seed)
    now = len(dataset.x), len(dataset.x_test if dataset.x_test is not None else ())
    if now != whole:
        note(
            f"Of {whole[0]} training and {whole[1]} test examples a random {now[0]} and {now[1]} are used "
            "(--n for more)."
        )
    return dataset


def _fewer_tests(dataset: Dataset, most: int, seed: int) -> Dataset:
    import dataclasses

    assert dataset.x_test is not None
    assert dataset.y_test is not None
    if len(dataset.x_test) <= most:
        return dataset
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset.x_test))[:most])
    return dataclasses.replace(dataset, x_test=dataset.x_test[rows], y_test=dataset.y_test[rows])


def _report(found: Study) -> None:
    choice = found.choice
    out.print(
        f"Chosen by {choice.criterion.words} on {choice.examples} examples among {len(choice.tried)} networks, "
        f"{found.seconds_choosing:.1f} s: {choice.architecture}, ridge {choice.alpha:.2g}",
        markup=False,
    )
    examples = len(found.ntk) + len(found.values)
    out.print(f"NTK and NNGP of {examples} examples: {found.seconds_kernels:.1f} s", markup=False)
    table = Table()
    table.add_column("model")
    for name in (found.score_name, "negative log likelihood", "seconds"):
        table.add_column(name, justify="right")
    for row in found.rows:
        table.add_row(row.name, f"{row.score:.4g}", f"{row.negative_log_likelihood:.4f}", f"{row.seconds:.1f}")
    out.print(table)
    out.print("Seconds include compilation and the tuning of what a model tunes itself.", markup=False)


def _plain(found: Study, files: list[Path], notes: list[str], seconds: float) -> dict[str, Any]:
    rows = [
        {
            "model": row.name,
            found.score_name.lower(): row.score,
            "negative_log_likelihood": row.negative_log_likelihood,
            "seconds": round(row.seconds, 3),
        }
        for row in found.rows
    ]
    data = {"name": found.dataset.name, "source": found.dataset.source, "notes": notes}
    data |= {"training": len(found.dataset.x), "test": len(found.values), "task": found.dataset.kind}
    return {
        "data": data,
        "chosen": found.choice.record(),
        "table": rows,
        "pictures": files,
        "seconds": round(seconds, 3),
    }


def draw(found: Study, folder: Path) -> list[Path]:
    """The three pictures, as PNG files in `folder`."""
    from ntkit import plots

    last = _draw_doubt(found)
    figure, ax = plots.figure(6.4, 5.4)
    plots.gram_matrix(ax, found.ntk, labels=found.dataset.y, name="NTK")
    ax.set_title(f"NTK of {found.dataset.name}: {found.choice.architecture}")
    figure2, ax = plots.figure(6.0, 4.2)
    plots.spectrum(ax, found.eigenvalues, ridge={"NTK": found.choice.alpha})
    ax.set_title(f"Spectrum on {len(found.ntk)} training examples of {found.dataset.name}")
    files = []
    for name, picture in {"gram": figure, "spectrum": figure2, "least-sure": last}.items():
        files.append(folder / f"{name}.png")
        with atomically(files[-1]) as draft:
            picture.savefig(draft)
    return files


def _draw_doubt(found: Study) -> Any:
    """The test examples that the ensemble is least sure of, each kind of data in its own way."""
    from ntkit import plots

    data = found.dataset
    assert data.x_test is not None
    assert data.y_test is not None
    if found.spread is not None:
        figure, ax = plots.figure(6.0, 5.0)
        plots.predictions(ax, data.y_test, found.values, found.spread, unit=f"target of {data.name}")
        ax.set_title(f"{len(found.values)} test examples, bars of two standard deviations")
        return figure
    rows = found.least_sure[:24]
    truth, guess = data.y_test[rows], found.classes[found.values[rows].argmax(axis=1)]
    if len(data.shape) < 2:
        rows, truth = rows[:16], truth[:16]
        figure, ax = plots.figure(7.0, 5.0)
        names = [f"example {i}" for i in rows]
        plots.probabilities(ax, found.values[rows], found.classes, truth, names)
        ax.set_title("The test examples that the ensemble is least sure of")
        return figure
    figure, ax = plots.figure(7.2, 6.3)
    captions = [_caption(p, found.classes, true) for p, true in zip(found.values[rows], truth, strict=True)]
    plots.examples(ax, data.x_test[rows].reshape(len(rows), *data.shape), captions, wrong=(guess != truth).tolist())
    ax.set_title(f"The {len(rows)} of {len(found.values)} test examples the ensemble is least sure of (orange: wrong)")
    return figure


def _caption(probability: np.ndarray, classes: np.ndarray, truth: Any) -> str:
    first, second = np.argsort(-probability)[:2]
    best, next_best = (f"{classes[i]}: {100 * probability[i]:.0f} %" for i in (first, second))
    return f"{best}, {next_best}\ntruly {truth}"
