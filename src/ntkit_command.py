"""The command `ntkit`, from its first line on: outside of `ntkit`, whose import alone takes a second.

Ctrl-C then ends the process at once: nothing has begun, and an exception would be raised in the middle of some
library's import. `ntkit.cli._interrupt` takes over when there is something to be finished.
"""

import os
import signal
from typing import Any

STOPPED = 130


def main() -> int:
    """Run `ntkit.cli.main` on `sys.argv[1:]` in a process of its own, and return its exit code."""
    hear()
    from ntkit.cli import _app, _interrupt, _run  # noqa: F401  all that is to be imported

    try:
        _interrupt.listen()
        _run.warn_in_one_line()
        from ntkit.cli import main

        return main()
    except KeyboardInterrupt:  # after the work
        return STOPPED


def hear() -> None:
    """From now on Ctrl-C ends the process with one line; unless it is ignored, as behind `&` in a shell."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: Any) -> None:
    os.write(2, b"\nStopped. Nothing had begun.\n")  # `print` may be what is interrupted
    os._exit(STOPPED)
