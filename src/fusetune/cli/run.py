# SPDX-License-Identifier: Apache-2.0
"""`fusetune run RECIPE`."""

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.options import AsJson, Out, Seed

__all__ = ["run"]


def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; `fusetune init` writes one.")],
    out: Out = None,
    seed: Seed = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="Of the whole run: 90s, 30m, 2h. Members that are stopped are fused too."
        ),
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Also log to tensorboard, mlflow or wandb.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which steps would be done, and why.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the recipe's members, fuse them, and say whether it was worth it.

    Running again goes on where it was.

    Example: fusetune run recipe.yaml --out runs/first
    """
    from fusetune.cli.progress import showing
    from fusetune.cli.summary import print_plan, print_results
    from fusetune.pipeline import plan
    from fusetune.pipeline import run as run_recipe

    if dry_run:
        print_plan(plan(recipe, out, seed=seed), as_json)
        return
    with showing() as listen:
        finished = run_recipe(
            recipe, out, seed=seed, time_limit=time_limit, track=track, listen=listen
        )
    print_results(finished.results, finished.folder, as_json)
