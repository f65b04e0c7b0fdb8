# SPDX-License-Identifier: Apache-2.0
"""`fusetune init DATA`."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["init"]


def init(
    data: Annotated[
        Path, typer.Argument(help="A folder with a sub-folder per class, a table, or an npz file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The recipe to write.")] = Path(
        "recipe.yaml"
    ),
    force: Annotated[bool, typer.Option(help="Replace a recipe that is there.")] = False,
) -> None:
    """Look at labelled data and write a commented recipe that runs.

    Example: fusetune init photos/ --out recipe.yaml
    """
    from fusetune.data.inspect import suggest_recipe
    from fusetune.errors import UsageError
    from fusetune.store.artifact import write_text

    if out.exists() and not force:
        raise UsageError(
            f"'{out}' is there already", "a new name", "Give another one with --out, or --force."
        )
    write_text(out, suggest_recipe(data, recipe_folder=out.parent))
    print(f"{out} is written. Next: fusetune run {out}")
