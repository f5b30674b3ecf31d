"""Ctrl-C in a process of its own: what is being finished gets a second, a second Ctrl-C nothing.

Python raises `KeyboardInterrupt` between two of its instructions. XLA compiles for ten seconds in one of them, and
threads that compile are waited for. So a thread of ours hears the signal too, and ends the process if a second later it
still lives, unless tiles of a Gram matrix are on their way to the disk. Ending hard is safe: files are written beside
their place and renamed, a Gram matrix keeps a journal.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import Any

import ntkit_command
from ntkit._files import drafts
from ntkit.cli._run import STOPPED, said, say_stopped
from ntkit.gram.run import saving

GRACE = 1.0
# Two signals within this time are one key: a shell and a wrapper that hands it on.
ONE_KEY = 0.2


def listen() -> None:
    """For the main thread of the command's process, where `ntkit_command.hear` has been called."""
    if signal.getsignal(signal.SIGINT) is not ntkit_command._leave:  # ignored
        return
    hearing, telling = os.pipe()
    os.set_blocking(telling, False)
    threading.Thread(target=_watch, args=(hearing,), name="ntkit-interrupt", daemon=True).start()
    # Written to by the signal itself, whatever Python is doing.
    signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _raise_once)


def _raise_once(*_: Any) -> None:
    """What follows on the first Ctrl-C is cleaning up, which a second must not cut short: `_watch` ends it."""
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


def _watch(hearing: int) -> None:
    _wait(hearing, None)
    first = time.monotonic()
    while not (_wait(hearing, 0.05) and time.monotonic() - first > ONE_KEY):
        if time.monotonic() - first > GRACE and not saving.is_set():
            break
    _leave()


def _wait(hearing: int, seconds: float | None) -> bool:
    """Whether Ctrl-C came within that time."""
    while select.select([hearing], [], [], seconds)[0]:
        if signal.SIGINT in os.read(hearing, 1):
            return True
    return False


def _leave() -> None:
    for draft in list(drafts):
        with contextlib.suppress(OSError):
            draft.unlink()
    if not said.is_set():
        say_stopped()
    sys.stderr.flush()
    os._exit(STOPPED)
