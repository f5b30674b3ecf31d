"""From errors to exit codes: one line each, no traceback unless NTKIT_DEBUG is set."""

import json
import os
import re
import sys
import threading
import warnings
from typing import Any

from ntkit.errors import InputError, NtkitError

USAGE, FAILURE, STOPPED = 2, 1, 130
# Whether the line about Ctrl-C is printed: the process may still wait for a thread.
said = threading.Event()
# Arguments of functions that are options of commands.
_ARGUMENT = re.compile(
    r"`(memory|target|header|overwrite|out|dtype|depth|depths|fixed_layers|activation|w_std|b_std|beta|pooling|poolings"
    r"|window|network|widths|seeds|delta|only)(=[^`]*)?`"
)
# What is said to programmers only.
_OF_FUNCTIONS = re.compile(r"; a function will do as well|(?<=`) of `(Dense|mlp|cntk)`")


def run(argv: list[str] | None = None) -> int:
    """See `ntkit.cli.main`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        from ntkit.cli._app import app

        app(argv, prog_name="ntkit")
    except SystemExit as end:  # typer's own end, also after wrong options
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return say_stopped() if code == STOPPED else code
    except KeyboardInterrupt:
        return say_stopped()
    except Exception as error:
        if os.environ.get("NTKIT_DEBUG"):
            raise
        code = USAGE if isinstance(error, InputError) else FAILURE
        _say(_line(error, argv), code, as_json="--json" in argv)
        return code
    return 0


def warn_in_one_line() -> None:
    """For a process of its own: warnings without the line of code that gave them."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"Warning: {_in_our_words(str(message), sys.argv[1:])}", file=sys.stderr)

    warnings.showwarning = show


def _line(error: Exception, argv: list[str]) -> str:
    if isinstance(error, NtkitError):
        return _in_our_words(str(error), argv)
    if isinstance(error, OSError):
        name = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror or type(error).__name__}:{name}." if name else f"{error.strerror or error}."
    if isinstance(error, MemoryError):
        return f"There is not enough memory: {error}. Take fewer examples, or a smaller `--memory`."
    return f"Unexpected {type(error).__name__}: {error}. Set NTKIT_DEBUG=1 to see where; please report it."


def _in_our_words(text: str, argv: list[str]) -> str:
    """The way out, in the words of the command line."""
    if argv[:1] == ["fit"]:
        text = text.replace("`noise`", "`--alpha`")
    if argv[:1] == ["gallery"]:
        for argument, option in (
            ("n", "--train"),
            ("m", "--test"),
            ("zca", "--zca-reg"),
            ("data", "--data"),
            ("name", "NAME"),
        ):
            text = text.replace(f"`{argument}`", f"`{option}`")
    return _OF_FUNCTIONS.sub("", _ARGUMENT.sub(_option, text))


def _option(argument: re.Match[str]) -> str:
    value = "" if argument[2] in (None, "=True") else argument[2]
    return f"`--{argument[1].replace('_', '-')}{value}`"


def _say(message: str, code: int, *, as_json: bool) -> None:
    """On the error stream, plain or as JSON."""
    kind = {USAGE: "usage", FAILURE: "failure", STOPPED: "stopped"}[code]
    print(json.dumps({"error": kind, "message": message}) if as_json else f"Error: {message}", file=sys.stderr)


def say_stopped() -> int:
    said.set()
    print("\nStopped. What was finished is kept; nothing is half written.", file=sys.stderr)
    return STOPPED
