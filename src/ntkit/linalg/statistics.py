"""What a solver did, so that nothing is silently repaired."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a solve of A x = b took and how well it went.

    - `method`: `"cholesky"` or `"cg"`;
    - `size`: n, the number of rows of A;
    - `jitter`: what was added to the diagonal beyond the caller's own noise, in the units of A; 0 when nothing was;
    - `ladder`: every jitter that was tried, in order, the last one being `jitter`;
    - `condition`: an estimate (from below, in the 1-norm) of the condition number of A + jitter I; None if not known;
    - `residual`: the largest norm(A x - b) / norm(b) over the columns of b, with A as given, before any jitter;
    - `iterations`: the largest number of conjugate gradient steps over the columns of b; 0 for a direct method.
    """

    method: str
    size: int
    jitter: float = 0.0
    ladder: tuple[float, ...] = (0.0,)
    condition: float | None = None
    residual: float | None = None
    iterations: int = 0

    def __str__(self) -> str:
        parts = [f"{self.method}, n = {self.size}"]
        if self.method == "cholesky":
            parts.append(f"jitter {self.jitter:.1e} ({len(self.ladder)} tried)" if self.jitter else "no jitter")
        else:
            parts.append(f"{self.iterations} iterations")
        if self.condition is not None:
            parts.append(f"condition about {self.condition:.1e}")
        if self.residual is not None:
            parts.append(f"residual {self.residual:.1e}")
        return ", ".join(parts)
