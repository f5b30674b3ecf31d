"""What goes wrong, in two kinds: the caller's mistake and the computation's.

The command line turns the first into exit code 2 and the second into exit code 1; neither shows a traceback.
"""


class NtkitError(Exception):
    """The base of every error that ntkit raises on purpose."""


class InputError(NtkitError, ValueError):
    """A wrong argument, file or layer: refused where it is given. The command line exits with 2."""


class ComputationError(NtkitError, RuntimeError):
    """A computation that could not be finished: a failed factorisation, a full disk. The command line exits with 1."""


class AccuracyWarning(UserWarning):
    """A result is known to be less exact than it should be; the warning says by how much, and what to do."""
