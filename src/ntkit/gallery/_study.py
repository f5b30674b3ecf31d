"""What the reproduced experiments share: settings, a measurement, findings, criteria, and a verdict of these."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ntkit._files import atomically
from ntkit._progress import Meter, Progress
from ntkit.errors import InputError
from ntkit.gallery._digits import available
from ntkit.gallery._folder import Folder

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
Numbers = Mapping[str, Any]
# Images among scikit-learn's digits.
DIGITS = 1797
# Called with a name, and with what makes a row unless it is kept from an earlier call.
Rows = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A number of ours and the interval, ends included, in which it must lie; NaN lies in none."""

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        return self.low <= self.value <= self.high

    @property
    def interval(self) -> str:
        if math.isinf(self.low):
            return f"at most {self.high:.3g}"
        return f"at least {self.low:.3g}" if math.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"

    def plain(self) -> dict[str, Any]:
        """For JSON, in which an end that is not there is null."""
        ends = {"low": self.low, "high": self.high, "value": self.value}
        return (
            {"name": self.name} | {k: v if math.isfinite(v) else None for k, v in ends.items()} | {"holds": self.holds}
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """Findings for people: names of columns, and rows of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """One published experiment.

    - `name`, `words`, `source`: what the command is called, a line about it, and where it was published.
    - `full`, `quick`: its settings, dataclasses with a `seed`, as published and for a first look in seconds.
    - `cost`: what the full size takes, in words, as it was measured.
    - `measure(settings, rows, meter)`: the raw numbers, as JSON has them. What takes long goes through `rows`.
    - `find(numbers)`: the findings, few; `criteria(findings)`: what decides; `table(findings)`: what is printed.
    - `draw(axes, numbers, findings)`: the figure, of `panels` pairs of axes.
    """

    name: str
    words: str
    source: str
    full: Any
    quick: Any
    cost: str
    measure: Callable[[Any, Rows, Callable[[float], None]], dict[str, Any]]
    find: Callable[[Numbers], dict[str, Any]]
    criteria: Callable[[Numbers], list[Criterion]]
    table: Callable[[Numbers], Table]
    draw: Callable[[Sequence[Any], Numbers, Numbers], None]
    steps: Callable[[Any], int]
    panels: int = 1

    def settings(self, *, quick: bool = False, data: str | None = None, seed: int = 0) -> Any:
        """Those of one size; `data` in place of its own images. **Raises:** `InputError` if it has none."""
        chosen = dataclasses.replace(self.quick if quick else self.full, seed=seed)
        if data is None:
            return chosen
        if not hasattr(chosen, "data"):
            raise InputError(f"`data` is for experiments on images, but {self.name} makes its own. Leave it out.")
        return dataclasses.replace(chosen, data=data)


def with_images(study: Study, settings: Any) -> tuple[Any, str | None]:
    """Settings with images that there are, and what these are; None for an experiment without images.

    Where MNIST cannot be had, scikit-learn's digits take its place, as many as there are for.
    """
    if not hasattr(settings, "data"):
        return settings, None
    name, words = available(settings.data)
    if name == settings.data:
        return settings, words
    sizes = {field: getattr(settings, field) for field in ("examples", "test") if hasattr(settings, field)}
    if sum(sizes.values()) > DIGITS:
        sizes = {field: getattr(study.quick, field) for field in sizes}
    return dataclasses.replace(settings, data=name, **sizes), words


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run of a study gave: findings, criteria, and the files they were written to."""

    study: Study
    findings: Numbers
    criteria: tuple[Criterion, ...]
    files: tuple[Path, ...]
    seconds: float

    @property
    def verdict(self) -> str:
        return verdict(self.criteria)


def beyond(meter: Callable[[float], None], done: int) -> Callable[[float], None]:
    """Moves the bar by the part that is done of a network, after `done` others."""
    return lambda part: meter(done + part)


def verdict(criteria: Sequence[Criterion]) -> str:
    """Reproduced, if every criterion holds."""
    return REPRODUCED if criteria and all(c.holds for c in criteria) else NOT_REPRODUCED


def judge(study: Study, numbers: Numbers) -> tuple[dict[str, Any], list[Criterion]]:
    """Findings and criteria of raw numbers, those of a results.json too."""
    findings = study.find(numbers)
    return findings, study.criteria(findings)


def reproduce(study: Study, settings: Any, out: Path, *, overwrite: bool = False, progress: Progress = True) -> Outcome:
    """Run a study into the folder `out`: results.json and figure.png.

    Networks that were finished there by a call with the same settings are not trained again.

    **Raises:** `InputError` if `out` belongs to other settings, and is not to be overwritten; or is no folder.
    """
    start = time.perf_counter()
    folder = Folder(out, study.name, json.loads(json.dumps(dataclasses.asdict(settings))), overwrite=overwrite)
    with Meter(progress, 0, study.steps(settings), study.name, "networks") as meter:
        meter(0)
        numbers = study.measure(settings, folder.row, meter)
    findings, criteria = judge(study, numbers)
    files = out / "figure.png", out / "results.json"
    _draw(study, numbers, findings, files[0])
    with atomically(files[1]) as draft:
        draft.write_text(json.dumps(_plain(study, settings, numbers, findings, criteria), indent=1, allow_nan=False))
    return Outcome(study, findings, tuple(criteria), files, time.perf_counter() - start)


def _plain(
    study: Study, settings: Any, numbers: Numbers, findings: Numbers, criteria: list[Criterion]
) -> dict[str, Any]:
    import ntkit

    return {
        "study": study.name,
        "source": study.source,
        "verdict": verdict(criteria),
        "criteria": [c.plain() for c in criteria],
        "findings": findings,
        "settings": dataclasses.asdict(settings),
        "versions": {"ntkit": ntkit.__version__, "jax": jax.__version__},
        "numbers": numbers,
    }


def _draw(study: Study, numbers: Numbers, findings: Numbers, path: Path) -> None:
    from ntkit import plots

    figure, axes = plots.panels(study.panels)
    study.draw(axes, numbers, findings)
    with atomically(path) as draft:
        figure.savefig(draft)
