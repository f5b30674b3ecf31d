"""The command line: `ntkit demo | kernel | empirical | fit | predict | width | info | gallery`.

A command is one public function here.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line on `argv`, `sys.argv[1:]` by default, and return its exit code.

    0: done; 1: a failure, such as a full disk; 2: wrong usage or input; 130: stopped by Ctrl-C.
    """
    from ntkit.cli._run import run

    return run(argv)
