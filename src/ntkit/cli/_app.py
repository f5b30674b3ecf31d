"""The tree of commands."""

from typing import Annotated

import typer

import ntkit
from ntkit.cli.demo import demo
from ntkit.cli.empirical import empirical
from ntkit.cli.fit import fit
from ntkit.cli.gallery import gallery
from ntkit.cli.info import info
from ntkit.cli.kernel import kernel
from ntkit.cli.predict import predict
from ntkit.cli.width import width

app = typer.Typer(
    name="ntkit",
    help="Kernels of infinitely wide neural networks: compute them, predict with them, see what they do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # errors become exit codes in `ntkit.cli._run`
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        print(f"ntkit {ntkit.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command in (demo, kernel, empirical, fit, predict, width, info):
    app.command()(command)
app.add_typer(gallery)
