"""The verbs put together, and what every error becomes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from autocompress.cli.agent import agent
from autocompress.cli.analyze import analyze
from autocompress.cli.compress import compress
from autocompress.cli.doctor import doctor
from autocompress.cli.export import export
from autocompress.cli.measure import measure
from autocompress.cli.predict import predict
from autocompress.cli.report import report
from autocompress.cli.search import search
from autocompress.cli.targets import targets

TRACEBACK = "--traceback"
EXIT_INTERNAL, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="autocompress",
    help="Find the best ways to compress a neural network for one piece of hardware.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (search, compress, measure, analyze, predict, report, export, targets, doctor, agent):
    app.command()(_verb)


def _version(value: bool) -> None:
    if value:
        from autocompress import __version__

        typer.echo(f"autocompress {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="Show where an error came from; may stand anywhere.")
    ] = False,
) -> None:
    """Find the best ways to compress a neural network for one piece of hardware."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(argv: Sequence[str]) -> int:
    """Run the command line.

    Args:
        argv: without the program's name.

    Returns:
        The exit code.
    """
    arguments = [a for a in argv if a != TRACEBACK]
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        typer.echo("stopped.", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:
        if len(arguments) != len(argv):
            import traceback

            traceback.print_exc()
        return _explain(error, arguments)


def _run(arguments: list[str]) -> int:
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="autocompress", standalone_mode=False)
    except typer.TyperException as error:
        typer.echo(f"error: {_one_line(error.format_message())}", err=True)
        return EXIT_USER
    except typer.Abort:
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _explain(error: Exception, arguments: Sequence[str]) -> int:
    from autocompress.core.errors import Interrupted, UserError

    if isinstance(error, UserError):
        typer.echo(f"error: {_one_line(str(error))}", err=True)
        return EXIT_USER
    if isinstance(error, Interrupted):
        typer.echo("stopped.", err=True)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has enough of it; a second failure at exit would only print noise.
        sys.stdout = None  # type: ignore[assignment]
        return EXIT_INTERNAL
    hint = "" if TRACEBACK in sys.argv else f" (add {TRACEBACK} to see where)"
    typer.echo(f"internal error: {type(error).__name__}: {_one_line(str(error))}{hint}", err=True)
    return EXIT_INTERNAL


def _one_line(text: str) -> str:
    return " ".join(text.split())
