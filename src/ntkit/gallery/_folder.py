"""Where an experiment keeps what took long: kernel matrices, what they cost, and the rows of its table."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ntkit
from ntkit._files import atomically
from ntkit._progress import Meter
from ntkit.errors import ComputationError, InputError

STATE = "gallery.json"
# Raised when a folder changes its meaning.
VERSION = 1
# Seconds after which the time of a running kernel is written down again.
OFTEN = 5.0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one kernel matrix: its pairs of examples, the part of its tiles that is done, and the seconds that took; of
    matrices computed together, all of them."""

    pairs: int
    done: float
    seconds: float
    together: int = 1

    @property
    def seconds_per_pair(self) -> float:
        return self.seconds / (self.pairs * self.done) if self.done else 0.0


class Folder:
    """The folder of one experiment with one set of settings, which it belongs to from then on.

    Its file `gallery.json` is whole at every moment; matrices have journals of their own (`ntkit.gram`). So a run that
    is stopped in any way is resumed by the same call.

    **Raises:** `InputError` if it belongs to other settings, and is not to be overwritten; or is no folder.
    """

    def __init__(self, path: Path, experiment: str, settings: dict[str, Any], *, overwrite: bool = False):
        self.path, self._overwrite = path, overwrite
        self._state: dict[str, Any] = {"version": VERSION, "experiment": experiment, "settings": settings}
        self._state |= {"kernels": {}, "rows": {}, "probes": {}}
        found = _read(path / STATE, overwrite)
        if found is not None and overwrite:
            self._remove(found)
        elif found is not None:
            _check(found, self._state, path)
            self._state = found
        _make(path)
        self._save()

    def _save(self) -> None:
        with atomically(self.path / STATE) as draft:
            draft.write_text(json.dumps(self._state, indent=1, allow_nan=False))

    def _remove(self, found: dict[str, Any]) -> None:
        """What an experiment left there, and nothing else."""
        for name in found.get("kernels", {}):
            for file in (f"{name}.npy", f"{name}.npy.journal"):
                (self.path / file).unlink(missing_ok=True)
        for file in found.get("arrays", []):
            (self.path / file).unlink(missing_ok=True)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows that were finished here, by this call and those before it."""
        return list(self._state["rows"].values())

    def keep_row(self, name: str, row: dict[str, Any]) -> None:
        self._state["rows"][name] = row
        self._save()

    def row(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A row, made unless an earlier call has kept it."""
        if name not in self._state["rows"]:
            self.keep_row(name, make())
        return self._state["rows"][name]

    def cost(self, name: str) -> Cost | None:
        """What a matrix has cost so far; None if it was not begun."""
        found = self._state["kernels"].get(name)
        return None if found is None else Cost(**found)

    def probe(self, name: str, measure: Any) -> float:
        """A measured number that is kept, so that a resumed run need not measure it again."""
        if name not in self._state["probes"]:
            self._state["probes"][name] = measure()
            self._save()
        return float(self._state["probes"][name])

    def arrays(self, name: str, make: Any) -> dict[str, np.ndarray]:
        """The arrays that `make` computes, kept: computed again they might differ in their last digit, and a matrix of
        them would be another one."""
        path = self.path / f"{name}.npz"
        if path.is_file():
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        found = make()
        with atomically(path) as draft:
            np.savez(draft, **found)
        self._state["arrays"] = sorted({*self._state.get("arrays", []), path.name})
        self._save()
        return found

    @property
    def notes(self) -> dict[str, Any]:
        """What callers noted."""
        return self._state.get("notes", {})

    def note(self, name: str, value: Any) -> None:
        self._state["notes"] = self.notes | {name: value}
        self._save()

    def matrices(
        self, names: Sequence[str], title: str, kernel: Any, x1: Any, x2: Any = None, *, memory: Any, progress: bool
    ) -> dict[str, np.ndarray]:
        """kernel(x1, x2) by name, computed by `ntkit.gram` into `<name>.npy` or read from there. Of several names the
        kernel's value is a named tuple of as many matrices."""
        pairs = len(x1) * (len(x1) + 1) // 2 if x2 is None else len(x1) * len(x2)
        paths = [self.path / f"{name}.npy" for name in names]
        new = Cost(pairs, 0.0, 0.0, len(names))
        before = self.cost(names[0]) or new
        if before.done == 1 and not all(path.exists() for path in paths):  # somebody removed one
            before = new
        for name in names:
            if self.cost(name) is None:
                self._refuse_strangers(name)
        self.note_cost(names, before)
        clock = _Clock(self, names, title, before, progress)
        try:
            out = paths[0] if len(paths) == 1 else paths
            found = ntkit.gram(kernel, x1, x2, memory=memory, progress=clock, out=out)
            return dict(zip(names, [found] if len(names) == 1 else found, strict=True))
        finally:
            clock.close()

    def _refuse_strangers(self, name: str) -> None:
        """A matrix of which we know nothing may have been computed for anything."""
        path = self.path / f"{name}.npy"
        if path.exists() and not self._overwrite:
            raise InputError(
                f"`out`: the folder {str(self.path)!r} holds {path.name}, which its {STATE} does not know. Choose "
                "another `out` to keep it, or pass `overwrite=True` to replace it."
            )
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.journal").unlink(missing_ok=True)

    def note_cost(self, names: Sequence[str], cost: Cost) -> None:
        self._state["kernels"] |= {name: dataclasses.asdict(cost) for name in names}
        self._save()


class _Clock:
    """A function of (tiles done, tiles) for `ntkit.gram`: moves a bar, and writes down what the tiles took."""

    def __init__(self, folder: Folder, names: Sequence[str], title: str, before: Cost, progress: bool):
        self._folder, self._names, self._title = folder, names, title
        self._before, self._cost, self._progress = before, before, progress
        self._meter: Meter | None = None
        self._start = self._saved = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._meter is None:  # compiled; the tiles begin
            self._meter, self._start = Meter(self._progress, done, total, self._title), now
            if done == 0:  # nothing of an earlier run was left
                self._before = dataclasses.replace(self._before, done=0.0, seconds=0.0)
        self._meter(done)
        seconds = self._before.seconds + now - self._start
        self._cost = dataclasses.replace(self._before, done=done / total, seconds=seconds)
        if done == total or now - self._saved > OFTEN:
            self._saved = now
            self._folder.note_cost(self._names, self._cost)

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._folder.note_cost(self._names, self._cost)


def _read(path: Path, overwrite: bool) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if overwrite:
            return {}
        raise InputError(
            f"{str(path)!r} cannot be read ({error}). Choose another `out`, or pass `overwrite=True` to start again."
        ) from error
    return found if isinstance(found, dict) else {}


def _check(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuses the folder of another experiment, and says what differs."""
    theirs, ours = found.get("settings", {}), wanted["settings"]
    named = [
        f"{name} {theirs.get(name)!r} and not {value!r}" for name, value in ours.items() if theirs.get(name) != value
    ]
    named += [f"{name} {found.get(name)!r}" for name in ("version", "experiment") if found.get(name) != wanted[name]]
    if named:
        raise InputError(
            f"`out`: the folder {str(path)!r} belongs to a run with {', '.join(named)}. Choose another `out` to keep "
            "it, or pass `overwrite=True` to replace it."
        )


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"`out` must be a folder, but {str(path)!r} is a file.") from None
    except NotADirectoryError:
        raise InputError(f"`out` is {str(path)!r}, but one of the folders above it is a file.") from None
    except OSError as error:
        raise ComputationError(f"The folder {str(path)!r} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"`out`: the folder {str(path)!r} is not writable.")
