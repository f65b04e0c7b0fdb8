# SPDX-License-Identifier: Apache-2.0
"""What scouting saves in examples/cifar10_scout.yaml: the proposed three beside all seven networks.

    FUSETUNE_DATA=../shared/data python benchmarks/scouting_example.py --work FOLDER [--rows 4000] [--test 10000]

The example is run as it is, and then with all of its candidates as members, in the same folder: what both have
in common is done once. Prints Markdown: accuracy on test of what each run chose, of the plain means of three
members (the proposed ones, all choices of three, the best of them), and what each took.
"""

import argparse
import itertools
import os
import statistics
from pathlib import Path
from typing import Any

import yaml
from real_images import CIFAR10, EXAMPLES
from scouting import MOST, means_on_test

import fusetune


def main() -> None:
    """Both runs, and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument(
        "--rows", type=int, default=4000, help="not for testing; 4,000 in the example"
    )
    parser.add_argument("--test", type=int, default=10_000, help="of test rows, the first")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(EXAMPLES)  # where the example's own networks lie
    recipe = yaml.safe_load(Path("cifar10_scout.yaml").read_text(encoding="utf-8"))
    recipe["data"]["train"]["limit"] = options.rows
    for part in ("train", "test"):
        recipe["data"][part]["classes"] = CIFAR10
    recipe["data"]["test"]["path"] = first_rows(recipe["data"]["test"]["path"], options.test, work)
    proposed = fusetune.run(recipe, work / "run")
    some = [member["name"] for member in proposed.results["members"]]
    everything = fusetune.run({**recipe, "members": listed(recipe)}, work / "run")
    show(some, proposed.results, everything)


def first_rows(path: str, num: int, work: Path) -> str:
    """A table's first rows, in a file of their own."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(os.path.expandvars(path)).read()
    pyarrow.parquet.write_table(table.slice(0, num), work / "test.parquet")
    return str(work / "test.parquet")


def listed(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """All candidates by name, patterns spelled out."""
    from fusetune.recipe import as_mapping, load_recipe

    return list(as_mapping(load_recipe(recipe))["scout"]["candidates"])


def show(some: list[str], proposed: dict[str, Any], everything: Any) -> None:
    """The table, and what it took."""
    members = {member["name"]: member for member in everything.results["members"]}
    mean_of = means_on_test(everything, list(members))
    triples = {three: 100 * mean_of(three) for three in itertools.combinations(members, MOST)}
    best = max(triples, key=lambda three: triples[three])
    print(f"| {len(members)} candidates | accuracy on test, % |\n| --- | ---: |")
    for what, results in (("the proposed three", proposed), ("all", everything.results)):
        chosen = next(f for f in results["fusions"] if f["name"] == results["chosen"])
        print(f"| {what}, fused by `auto` | {100 * chosen['scores']['test']['accuracy']:.2f} |")
    print(f"| the plain mean of the proposed: {', '.join(some)} | {100 * mean_of(some):.2f} |")
    print(f"| of all | {100 * mean_of(list(members)):.2f} |")
    print(f"| of three at random, on average | {statistics.mean(triples.values()):.2f} |")
    print(f"| of the best three, which nobody knows: {', '.join(best)} | {triples[best]:.2f} |")
    scores = {name: member["scores"]["test"]["accuracy"] for name, member in members.items()}
    single = max(scores, key=lambda name: scores[name])
    print(f"| the best single one: {single} | {100 * scores[single]:.2f} |")
    seconds = {name: member["seconds"]["finetune"] for name, member in members.items()}
    own, total = sum(seconds[name] for name in some), sum(seconds.values())
    print(f"\nFine-tuning the proposed took {own:.0f} of {total:.0f} s ({own / total:.0%}).")


if __name__ == "__main__":
    main()
