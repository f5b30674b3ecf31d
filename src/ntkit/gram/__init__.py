"""Gram matrices: a kernel, data and a memory budget in; a matrix in memory or on disk out."""

from ntkit.gram.run import gram

__all__ = ["gram"]
