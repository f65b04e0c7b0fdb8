# SPDX-License-Identifier: Apache-2.0
"""Fine-tune several pretrained models, fuse their predictions, and learn whether it was worth it.

run(recipe, out=...) -> Run               fine-tune, fuse, judge
plan(recipe, out=...) -> [PlannedStep]     what a run would do, and why
fuse_files(paths, targets, ...) -> Run    fuse prediction files
scout_models(recipe, ...) -> Scouted      choose pretrained models before fine-tuning any
load(path) -> Ensemble                    predict with what came out
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusetune.ensemble import Ensemble
    from fusetune.pipeline import PlannedStep, Run, Scouted, fuse_files, plan, run, scout_models
    from fusetune.predictions.pool import Reading

    load = Ensemble.load

__version__ = "0.1.0"
__all__ = [
    "Ensemble",
    "PlannedStep",
    "Reading",
    "Run",
    "Scouted",
    "__version__",
    "fuse_files",
    "load",
    "plan",
    "run",
    "scout_models",
]

_HOMES = {
    "Ensemble": "fusetune.ensemble",
    "Reading": "fusetune.predictions.pool",
    "PlannedStep": "fusetune.pipeline",
    "Run": "fusetune.pipeline",
    "Scouted": "fusetune.pipeline",
    "fuse_files": "fusetune.pipeline",
    "plan": "fusetune.pipeline",
    "run": "fusetune.pipeline",
    "scout_models": "fusetune.pipeline",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import what is asked for, and only that: `import fusetune` stays fast."""
    if name == "load":
        return __getattr__("Ensemble").load
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fusetune' has no attribute '{name}'")
