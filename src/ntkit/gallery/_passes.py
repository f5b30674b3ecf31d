"""Which kernel matrices of an experiment are computed at once: those of networks that begin alike."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx

import ntkit
from ntkit.gallery._configuration import Configuration
from ntkit.gallery._folder import Folder

# Where a folder notes them.
NOTE = "passes"


class Mirrored(eqx.Module):
    """k(x, flip of y), flipped left to right: with `inner` half of the kernel averaged over the flips.

    The average over all four pairs, (k(x, y) + k(x, fy) + k(fx, y) + k(fx, fy)) / 4, is (k(x, y) + k(x, fy)) / 2 where
    k(fx, fy) = k(x, y): for networks that commute with the flip, as those of odd filters and windows, stride 1 and
    padding SAME do. Then k(x, fy) = k(y, fx), so that its matrix is symmetric; it need not be positive.
    """

    inner: ntkit.Kernel

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        return self.inner(x1, (x1 if x2 is None else x2)[:, :, ::-1])

    def weight(self, shape: tuple[int, ...]) -> int:
        """As of the kernel inside."""
        return getattr(self.inner, "weight", lambda shape: 1)(shape)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One matrix for each of some configurations, computed together: of training images, or of test and training
    images; `flipped`: with the second of a pair flipped."""

    configurations: tuple[Configuration, ...]
    flipped: bool
    of_tests: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Of the matrices, in the order of the configurations."""
        end = ("-flipped" if self.flipped else "") + ("-test" if self.of_tests else "-train")
        return tuple(c.name + end for c in self.configurations)

    @property
    def title(self) -> str:
        """Short: beside it stands a bar."""
        one = self.configurations[0].name if len(self.configurations) == 1 else f"{len(self.configurations)} kernels"
        return f"{one}{' flipped' if self.flipped else ''}, {'test' if self.of_tests else 'training'}"

    @property
    def kernel(self) -> Any:
        each = [ntkit.NTK(c.network()) for c in self.configurations]
        found = each[0] if len(each) == 1 else ntkit.Together(**{f"k{i}": kernel for i, kernel in enumerate(each)})
        return Mirrored(found) if self.flipped else found

    def pairs(self, n: int, m: int) -> int:
        """Of images, for n training and m test images."""
        return n * m if self.of_tests else n * (n + 1) // 2


def families(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Those to be computed together. Flatten reads pairs of equal pixels alone, and its networks train other layers."""
    alone = [[c] for c in configurations if c.pooling == "flatten"]
    pooled = [c for c in configurations if c.pooling != "flatten"]
    return alone + ([pooled] if pooled else [])


def passes(folder: Folder, family: Sequence[Configuration], flips: bool) -> list[Pass]:
    """What gives all matrices of a family: what was begun, as it was begun; and the rest in one pass of each kind."""
    noted = [_of_plain(plain) for plain in folder.notes.get(NOTE, [])]
    found: list[Pass] = []
    for flipped in (False, True) if flips else (False,):
        for of_tests in (False, True):
            alike = [p for p in noted if (p.flipped, p.of_tests) == (flipped, of_tests)]
            rest = []
            for configuration in family:
                alone = Pass((configuration,), flipped, of_tests)
                known = next((p for p in alike if configuration in p.configurations), None)
                if known is None and folder.cost(alone.names[0]) is not None:
                    known = alone
                if known is None:
                    rest.append(configuration)
                elif known not in found:
                    found.append(known)
            if rest:
                found.append(Pass(tuple(rest), flipped, of_tests))
    return found


def note(folder: Folder, begun: Pass) -> None:
    """Before its first tile: files of several matrices are resumed together or not at all."""
    noted = folder.notes.get(NOTE, [])
    if len(begun.configurations) > 1 and begun not in map(_of_plain, noted):
        folder.note(NOTE, [*noted, dataclasses.asdict(begun)])


def _of_plain(plain: dict[str, Any]) -> Pass:
    each = tuple(Configuration(**fields) for fields in plain["configurations"])
    return Pass(each, plain["flipped"], plain["of_tests"])
