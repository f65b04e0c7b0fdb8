# SPDX-License-Identifier: Apache-2.0
"""`fusetune report RUN`."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: RUN/report.html.")] = None,
) -> None:
    """Draw a finished run's report again.

    Example: fusetune report runs/demo
    """
    from fusetune.errors import UsageError
    from fusetune.report.contents import gather
    from fusetune.report.html import render
    from fusetune.store.artifact import write_text

    if not (run / "results.json").exists():
        raise UsageError(
            f"there is no results.json in '{run}'",
            "the folder of a finished run",
            "Finish it with `fusetune run`.",
        )
    page = out or run / "report.html"
    write_text(page, render(gather(run)))
    print(page)
