# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Out", "Seed"]

Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="The run folder; default: runs/<name>.")
]
Seed = Annotated[int | None, typer.Option(help="Replaces the recipe's seed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
