# SPDX-License-Identifier: Apache-2.0
"""`fusetune scout RECIPE`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fusetune.cli.options import AsJson, Out, Seed

__all__ = ["scout"]

MISSING = "–"


def scout(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; `fusetune init` writes one.")],
    candidates: Annotated[
        list[str] | None,
        typer.Option(help="source:model, where * stands for anything; may be given again."),
    ] = None,
    out: Out = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Choose pretrained models before fine-tuning any: score them, and propose a few.

    Example: fusetune scout recipe.yaml --candidates 'mini:*' --candidates torchvision:resnet18
    """
    from fusetune.cli.progress import showing
    from fusetune.pipeline import scout_models

    with showing() as listen:
        found = scout_models(recipe, candidates or None, out, seed=seed, listen=listen)
    if as_json:
        print(json.dumps(found.table, indent=2, ensure_ascii=False))
        return
    print("\n".join(_lines(found.table)))
    print(f"\nFine-tune them: fusetune run {found.recipe} --out {found.folder}")


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    """A line per candidate, the proposed ones first, and the proposal."""
    finished = [line for line in table["candidates"] if not line["error"]]
    proposed = list(table["proposed"])
    ranks = {name: rank for rank, name in enumerate(proposed)}
    finished.sort(key=lambda line: ranks.get(line["name"], len(ranks)))
    scores = list(finished[0]["scores"])
    head = ["candidate", f"probe's {table['metric']}", *scores, "ms/row", "fine-tuning", "proposed"]
    rows = [head]
    for line in finished:
        values = [line["scores"][name] for name in scores]
        rows.append(
            [
                line["name"],
                f"{line['probe']:.4f}",
                *(MISSING if value is None else f"{value:.4f}" for value in values),
                f"{1000 * line['predict_per_row']:.2f}",
                _duration(line["finetune_seconds"]),
                f"{table['proposed'][line['name']]:.2f}" if line["name"] in ranks else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()
    for line in table["candidates"]:
        if line["error"]:
            yield f"{line['name']} failed: {line['error']}"
    yield ""
    yield (
        f"Proposed: {', '.join(proposed)}; their probes fused reach "
        f"{table['fused_probes']:.4f} {table['metric']} on the {table['rows']['holdout']:,} "
        "holdout rows that chose them."
    )


def _duration(seconds: float | None) -> str:
    """About how long fine-tuning would take."""
    if seconds is None:
        return MISSING
    return f"~{seconds / 60:.0f} min" if seconds >= 90 else f"~{seconds:.0f} s"
