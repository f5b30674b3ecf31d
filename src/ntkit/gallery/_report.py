"""The rows of an experiment as text, as JSON, and as a picture."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntkit._files import atomically
from ntkit.gallery.cifar10 import FULL, SOURCE, Row

COLUMNS = (
    "pooling",
    "depth",
    "flips",
    "ZCA",
    "training images",
    "accuracy, %",
    "no ridge, %",
    "published, %",
    "kernels",
    "per pair",
    str(FULL),
)
NOTE = (
    f"Published: {SOURCE}, without a ridge; in brackets the training images. Behind ± stands the standard error over "
    "the test images. The time of the kernels is that of training and test images, compilation aside; flips need twice "
    "as many pairs, and kernels with pooling that were computed together have the time of them all. Under "
    f"{FULL}: hours for the symmetric kernel of so many training images on this machine, "
    "extrapolated from the time per pair."
)


def cells(row: Row) -> tuple[str, ...]:
    """One row as text, in the order of `COLUMNS`."""
    return (
        f"local {row.window}" if row.pooling == "local" else row.pooling,
        str(row.depth),
        "yes" if row.flips else "no",
        "no" if row.zca is None else f"{row.zca:g}",
        str(row.train),
        f"{100 * row.accuracy:.1f} ± {100 * row.standard_error:.1f}",
        f"{100 * row.ridgeless:.1f}",
        ", ".join(f"{100 * accuracy:.2f} ({n})" for n, accuracy in row.published),
        f"{row.seconds:.{1 if row.seconds < 100 else 0}f} s",
        f"{1000 * row.seconds_per_pair:.2g} ms" + (f" for {row.together}" if row.together > 1 else ""),
        f"{row.hours_full:.{1 if row.hours_full < 100 else 0}f} h",
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, and what its numbers mean."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", NOTE, ""])


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [dataclasses.asdict(row) | {"standard_error": row.standard_error, "source": SOURCE} for row in rows]


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """`table.md`, `results.json` and `accuracy.png` in `folder`."""
    from ntkit import plots

    figure, ax = plots.figure(7.5, 1.8 + 0.35 * len(rows))
    ours, errors = [row.accuracy for row in rows], [row.standard_error for row in rows]
    published = [dict(row.published) for row in rows]
    name = f"ntkit, {rows[0].train} images, with a ridge"
    plots.accuracies(ax, [row.label for row in rows], ours, errors, published, name=name)
    ax.set_title(f"CNTK on CIFAR-10: {rows[0].train} training and {rows[0].test} test images")
    files = [folder / name for name in ("table.md", "results.json", "accuracy.png")]
    for file in files:
        with atomically(file) as draft:
            if file.suffix == ".png":
                figure.savefig(draft)
            else:
                draft.write_text(markdown(rows) if file.suffix == ".md" else json.dumps(plain(rows), indent=1))
    return files
