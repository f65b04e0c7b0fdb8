# SPDX-License-Identifier: Apache-2.0
"""AutoGluon's ensemble selection on arrays: run by a Python that has autogluon.core.

Reads every `*.npz` of a folder (`array_MNC`, `targets_N`, `metric`) and writes the members' weights
beside it as `*.json`. As AutoGluon's own weighted ensembles do it: 25 rounds; ties by log-loss.

    python benchmarks/autogluon_selection.py FOLDER
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

SCORERS = {"rmse": "root_mean_squared_error"}


def weights(array_MNC: np.ndarray, targets_N: np.ndarray, metric: str) -> list[float]:
    """One weight per member."""
    from autogluon.core.metrics import get_metric
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    num_columns = array_MNC.shape[2]
    problem = {1: "regression", 2: "binary"}.get(num_columns, "multiclass")
    predictions = [part_NC if num_columns > 2 else part_NC[:, -1] for part_NC in array_MNC]
    selection = EnsembleSelection(
        ensemble_size=25,
        problem_type=problem,
        metric=get_metric(SCORERS.get(metric, metric), problem),
        tie_breaker="second_metric",
        random_state=np.random.RandomState(0),
    )
    return selection.fit(predictions, targets_N).weights_.tolist()


def main(folder: Path) -> None:
    """Answer every question of the folder that has no answer yet."""
    warnings.filterwarnings("ignore")
    for path in sorted(folder.glob("*.npz")):
        answer = path.with_suffix(".json")
        if answer.exists():
            continue
        with np.load(path) as file:
            found = weights(file["array_MNC"].astype(float), file["targets_N"], str(file["metric"]))
        answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
