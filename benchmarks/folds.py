# SPDX-License-Identifier: Apache-2.0
"""Folds, folds with a refit, and a holdout, on the same labeled rows: what each makes of them.

    FUSETUNE_DATA=path/to/data OMP_NUM_THREADS=1 python benchmarks/folds.py

`examples/cifar10_folds.yaml` as it stands, with `refit: true`, and with the default roles (0.1 of the
rows choose the epoch, 0.2 fit the fusion). Prints the table of docs/results/folds.md.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusetune import run
from fusetune.recipe import as_mapping, load_recipe

EXAMPLE = Path(__file__).parents[1] / "examples" / "cifar10_folds.yaml"


def main() -> None:
    """Run the three, and print their scores side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="labeled rows; default: the example's")
    parser.add_argument("--out", type=Path, help="folder of the runs; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        recipe = as_mapping(load_recipe(EXAMPLE))
        recipe["data"]["limit"] = options.limit or recipe["data"]["limit"]
        given = recipe["data"]["roles"]
        once = {key: value for key, value in given.items() if key not in ("folds", "refit")}
        # The refitted run finds the folds' fine-tunings in its folder.
        found = {
            "holdout": run(with_roles(recipe, once), out / "holdout").results,
            "folds": run(recipe, out / "folds").results,
            "refit": run(with_roles(recipe, {**given, "refit": True}), out / "folds").results,
        }
    print("\n".join(table(found)))


def with_roles(recipe: Mapping[str, Any], roles: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with other roles."""
    return {**recipe, "data": {**recipe["data"], "roles": roles}}


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table: accuracy and log-loss on test by predictor, then the costs."""
    results = list(found.values())
    lines = [f"| | {' | '.join(found)} |", "| --- |" + " ---: |" * len(found)]
    for group in ("members", "fusions"):
        for entry in results[0][group]:
            cells = [scores(one, group, entry["name"]) for one in results]
            lines.append(f"| {entry['name']} | {' | '.join(cells)} |")
    costs = [cost(one) for one in results]
    for row in (
        "rows that fit the fusion",
        "gain (interval), points",
        "fine-tuning, s",
        "ms a row",
    ):
        lines.append(f"| {row} | {' | '.join(one[row] for one in costs)} |")
    return lines


def scores(results: Mapping[str, Any], group: str, name: str) -> str:
    """Accuracy in percent on test, its log-loss, and of a member its accuracy on the holdout."""
    entry = next(one for one in results[group] if one["name"] == name)
    test, holdout = entry["scores"]["test"], entry["scores"].get("holdout")
    text = f"{100 * test['accuracy']:.2f} / {test['log_loss']:.3f}"
    return f"{text} ({100 * holdout['accuracy']:.1f})" if group == "members" else text


def cost(results: Mapping[str, Any]) -> dict[str, str]:
    """What the run took, and gained."""
    seconds = [member["seconds"] for member in results["members"]]
    verdict = results["verdict"]
    low, high = verdict["interval"]
    return {
        "rows that fit the fusion": f"{results['rows']['holdout']:,}",
        "gain (interval), points": f"{100 * verdict['gain']:+.2f} "
        f"({100 * low:+.2f} to {100 * high:+.2f})",
        "fine-tuning, s": f"{sum(one['finetune'] for one in seconds):.0f}",
        "ms a row": f"{1000 * sum(one['predict_per_row'] for one in seconds):.2f}",
    }


if __name__ == "__main__":
    main()
