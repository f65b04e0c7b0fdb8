# SPDX-License-Identifier: Apache-2.0
"""How well `--time-limit` is kept by a run that would take longer.

    python benchmarks/time_limit.py [--limits 20 40 60]

The demo's three members with far more epochs than any limit allows, in a new folder for each limit; then once more
in the last one's, where training goes on. Prints Markdown: the whole time of the command, the start of the
interpreter included, and what became of each member.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
task: image_classification
data:
  source: digits
  noise: 0.2
  roles: {train: 260, validation: 40, holdout: 300, test: 1197}
finetune:
  epochs: 2000
  batch_size: 16
  augmentation: {flip: false, crop_padding: 1}
members: [mini:resnet, mini:vgg, mini:inception]
"""


def main() -> None:
    """Run with each limit and print the page's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--limits", type=int, nargs="+", default=[20, 40, 60])
    options = parser.parse_args()
    print(
        "| limit, s | folder | took, s | over, % | stopped in epoch |\n| ---: | --- | ---: | ---: | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(RECIPE)
        for turn, limit in enumerate([*options.limits, options.limits[-1]]):
            again = turn == len(options.limits)
            out = Path(folder) / str(limit)
            seconds, members = run(recipe, out, limit)
            over = 100 * (seconds / limit - 1)
            where = "the one before" if again else "new"
            print(f"| {limit} | {where} | {seconds:.1f} | {over:+.1f} | {members} |")


def run(recipe: Path, out: Path, limit: int) -> tuple[float, str]:
    """Seconds that a run took, and how far each member came."""
    before = time.perf_counter()
    command = ["run", str(recipe), "--out", str(out), "--time-limit", f"{limit}s"]
    done = subprocess.run([sys.executable, "-m", "fusetune", *command], capture_output=True)
    seconds = time.perf_counter() - before
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    stopped = {event["member"]: event["epoch"] for event in events if event["phase"] == "stopped"}
    members = json.loads((out / "results.json").read_text())["members"]
    return seconds, ", ".join(
        f"{m['name']} {stopped.get(m['name'], 'none') if m['status'] == 'ok' else m['status']}"
        for m in members
    )


if __name__ == "__main__":
    main()
