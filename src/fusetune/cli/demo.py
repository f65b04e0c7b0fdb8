# SPDX-License-Identifier: Apache-2.0
"""`fusetune demo`."""

from importlib.resources import as_file, files
from pathlib import Path

from fusetune.cli.options import AsJson, Out, Seed

__all__ = ["demo"]


def demo(out: Out = None, seed: Seed = None, as_json: AsJson = False) -> None:
    """Three small pretrained networks, fine-tuned on noisy digits and fused: under a minute, offline.

    Example: fusetune demo --out runs/demo
    """
    from fusetune.cli.progress import showing
    from fusetune.cli.summary import print_results
    from fusetune.pipeline import run as run_recipe

    with showing() as listen, as_file(files("fusetune.cli") / "demo.yaml") as recipe:
        finished = run_recipe(recipe, out or Path("runs/demo"), seed=seed, listen=listen)
    print_results(finished.results, finished.folder, as_json)
