# SPDX-License-Identifier: Apache-2.0
"""The command `fusetune`: its commands, and how errors reach people."""

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from fusetune import __version__
from fusetune.cli.demo import demo
from fusetune.cli.fuse import fuse
from fusetune.cli.init import init
from fusetune.cli.list import list_names
from fusetune.cli.predict import predict
from fusetune.cli.report import report
from fusetune.cli.run import run
from fusetune.cli.scout import scout
from fusetune.errors import FileFailed, FusetuneError

__all__ = ["app", "main"]

app = typer.Typer(
    name="fusetune",
    help="Fine-tune several pretrained models, fuse them, and learn whether it was worth it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("demo", demo),
    ("init", init),
    ("run", run),
    ("scout", scout),
    ("fuse", fuse),
    ("predict", predict),
    ("report", report),
    ("list", list_names),
):
    app.command(name)(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fusetune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show whole tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Fine-tune several pretrained models, fuse them, and learn whether it was worth it."""
    if debug:
        os.environ["FUSETUNE_DEBUG"] = "1"  # the worker processes inherit it


def _fail(error: FusetuneError) -> NoReturn:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


class Stopped(BaseException):
    """A signal asks to stop. No `KeyboardInterrupt`, which typer would answer itself."""


def _stop(number: int, _frame: object) -> NoReturn:
    raise Stopped(number)


def main() -> NoReturn:
    """Run the command line and exit by the codes of docs/runs.md."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    try:
        app()
    except FusetuneError as error:
        if os.environ.get("FUSETUNE_DEBUG"):
            raise
        _fail(error)
    except OSError as error:
        if os.environ.get("FUSETUNE_DEBUG"):
            raise
        _fail(FileFailed.of(error))
    except Stopped as stopped:
        word = "Interrupted" if stopped.args[0] == signal.SIGINT else "Terminated"
        print(f"{word}. The same command goes on where it was.", file=sys.stderr)
        sys.exit(128 + stopped.args[0])
    sys.exit(0)
