"""Inner products of the gradients of two sets of examples, for one parameter, added to a matrix.

Every array has a leading axis b of independent problems. The kernel of n1 with n2 examples is one problem; the kernel
of each
example with itself is n problems of 1 with 1. `rows` are gradients (b, n, o, p), activations are (b, n, g, T, k),
cotangents
(b, n, g, o, f, T).
"""

import dataclasses
import itertools
from typing import Literal

import torch

Tensor = torch.Tensor
Outputs = Literal["full", "diagonal", "mean"]

# Row panels across a symmetric matrix, of which only the part from the diagonal on is computed: 5/8 of the whole.
PANELS = 4
NARROWEST = 16  # narrower panels are slower than the whole


@dataclasses.dataclass
class Gram:
    """The sum so far, as `outputs` asks: "full" (b, n1 o1, n2 o2), "diagonal" (b o, n1, n2), "mean" (b, n1, n2).

    In a `symmetric` one only the panels from the diagonal on are right, until `result` mirrors them.
    """

    outputs: Outputs
    b: int
    n: tuple[int, int]
    o: tuple[int, int]
    symmetric: bool
    sum: Tensor

    @classmethod
    def zeros(
        cls, outputs: Outputs, b: int, n: tuple[int, int], o: tuple[int, int], symmetric: bool, like: Tensor
    ) -> "Gram":
        full, diagonal = outputs == "full", outputs == "diagonal"
        shape = (b * o[0] if diagonal else b, n[0] * (o[0] if full else 1), n[1] * (o[1] if full else 1))
        return cls(outputs, b, n, o, symmetric, like.new_zeros(shape))

    def panels(self) -> list[tuple[slice, slice]]:
        """Examples of the rows, and of the columns that belong to them."""
        n1, n2 = self.n
        panels = min(PANELS, n1 // NARROWEST)
        if not self.symmetric or panels < 2:
            return [(slice(0, n1), slice(0, n2))]
        cuts = [n1 * i // panels for i in range(panels + 1)]
        return [(slice(a, b), slice(a, n2)) for a, b in itertools.pairwise(cuts)]

    def _block(self, rows: slice, columns: slice) -> Tensor:
        e1, e2 = self.o if self.outputs == "full" else (1, 1)
        return self.sum[:, rows.start * e1 : rows.stop * e1, columns.start * e2 : columns.stop * e2]

    def _matrix(self, rows: Tensor) -> Tensor:
        """Rows (b, n, o, p) as the matrices whose products the kernel is made of."""
        if self.outputs == "full":
            return rows.flatten(1, 2)
        return rows.transpose(1, 2).flatten(0, 1) if self.outputs == "diagonal" else rows.flatten(2)

    def add(self, rows1: Tensor, rows2: Tensor) -> None:
        """K += sum_p rows1 rows2."""
        for r, c in self.panels():
            left, right = self._matrix(rows1[:, r]), self._matrix(rows2[:, c])
            self._block(r, c).baddbmm_(left, right.mT)

    def add_dense(self, a1: Tensor, a2: Tensor, g1: Tensor, g2: Tensor) -> None:
        """One token: K += (a1 a2^T) * (g1 g2^T), with a (b, n, k) and g (b, n, o, f)."""
        for r, c in self.panels():
            aa = a1[:, r] @ a2[:, c].mT
            gg = self._matrix(g1[:, r]) @ self._matrix(g2[:, c]).mT
            block = self._block(r, c)
            shape = self._unfolded(r, c)
            block += gg.view(shape).mul_(self._spread(aa)).view(gg.shape)

    def _unfolded(self, r: slice, c: slice) -> tuple[int, ...]:
        n1, n2 = r.stop - r.start, c.stop - c.start
        if self.outputs == "full":
            return self.b, n1, self.o[0], n2, self.o[1]
        return (self.b, self.o[0], n1, n2) if self.outputs == "diagonal" else (self.b, n1, n2)

    def _spread(self, aa: Tensor) -> Tensor:
        if self.outputs == "full":
            return aa[:, :, None, :, None]
        return aa[:, None] if self.outputs == "diagonal" else aa

    def add_tokens(self, a1: Tensor, a2: Tensor, g1: Tensor, g2: Tensor, most: int) -> None:
        """K += sum_ts (a1_t . a2_s) (g1_t . g2_s), a (b, n, T, k) and g (b, n, o, f, T): with H = (a1 a2^T) g2, K =
        g1 . H.

        `most` entries of H and of a1 a2^T are held at a time.
        """
        g2s = g2.permute(0, 1, 4, 2, 3).flatten(3)  # (b, n2, S, o f)
        a2s = a2.flatten(1, 2)
        b, n1, t = a1.shape[:3]
        for q in chunks(b, n1 * a2.shape[1] * t * (g2s.shape[-1] + a2.shape[2]), most):
            for r, c in self.panels():
                m = c.stop - c.start
                for i in chunks(r.stop - r.start, (q.stop - q.start) * m * t * (g2s.shape[-1] + a2.shape[2]), most):
                    rows = slice(r.start + i.start, r.start + i.stop)
                    aa = a1[q, rows].flatten(1, 2) @ a2s[q, c.start * a2.shape[2] :].mT
                    aa = aa.unflatten(2, (m, -1)).unflatten(1, (-1, t)).transpose(2, 3)  # (b, i, j, T, S)
                    h = (aa @ g2s[q, None, c]).unflatten(4, g2.shape[2:4])  # (b, i, j, T, o, f)
                    self._add_halves(q, rows, c, g1[q, rows], h)

    def _add_halves(self, q: slice, rows: slice, c: slice, g: Tensor, h: Tensor) -> None:
        if self.outputs == "full":
            block = torch.einsum("biaft,bijtcf->biajc", g, h).flatten(3).flatten(1, 2)
            self._block(rows, c)[q] += block
        elif self.outputs == "diagonal":
            block = torch.einsum("biaft,bijtaf->baij", g, h).flatten(0, 1)
            self._block(rows, c)[q.start * self.o[0] : q.stop * self.o[0]] += block
        else:
            self._block(rows, c)[q] += torch.einsum("biaft,bijtaf->bij", g, h)

    def result(self) -> Tensor:
        """ "full" (b, n1, n2, o, o), "diagonal" (b, n1, n2, o), "mean" (b, n1, n2), a sum over outputs still."""
        if self.symmetric:
            for r, c in self.panels():
                below = slice(r.stop, c.stop)
                if below.start < below.stop:
                    self._block(below, r).copy_(self._block(r, below).mT)
        n1, n2 = self.n
        if self.outputs == "full":
            return self.sum.view(self.b, n1, self.o[0], n2, self.o[1]).transpose(2, 3)
        return self.sum.view(self.b, self.o[0], n1, n2).permute(0, 2, 3, 1) if self.outputs == "diagonal" else self.sum


def chunks(length: int, size: int, most: int) -> list[slice]:
    """Slices of an axis of `length`, on which `size` entries stand, so that each has at most about `most` of them."""
    step = max(1, min(length, most * length // max(size, 1)))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def entries(rows: Tensor) -> Tensor:
    """(n, o, p) of gradients (n, o, *parameter); a parameter may be one number, without axes."""
    return rows.flatten(2) if rows.dim() > 2 else rows[..., None]


def gradients(activations: Tensor, cotangents: Tensor) -> Tensor:
    """(n, o, g, f, k): per-example gradients of activations (n, g, T, k) and cotangents (n, g, o, f, T)."""
    n, g, o, f, t = cotangents.shape
    product = torch.bmm(cotangents.reshape(n * g, o * f, t), activations.reshape(n * g, t, -1))
    return product.view(n, g, o, f, -1).transpose(1, 2)
