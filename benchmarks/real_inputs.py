# SPDX-License-Identifier: Apache-2.0
r"""Out-of-fold predictions of scikit-learn models as files, and what `fusetune fuse` makes of them.

Shop sessions (did the visitor buy?) and scikit-learn's diabetes (a number), five members each.
Writes docs/results/real_inputs.md to the standard output:

    FUSETUNE_DATA=../shared/data python benchmarks/real_inputs.py > docs/results/real_inputs.md

Shapes: N rows, C classes.
"""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pool_sources import SOURCES, Rows

from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.files import write_columnar, write_targets
from fusetune.predictions.kinds import Columnar, Probabilities, Values
from fusetune.predictions.targets import GroundTruth, Numbers, Targets

FOLDS = 5
SEED = 0

HEAD = """\
# Real inputs: shop sessions and diabetes

{date}, {processors} processors of a {machine} machine, numpy {numpy}, scikit-learn {sklearn};
`python benchmarks/real_inputs.py`, {minutes:.1f} min.

Five scikit-learn models each predict every row out of fold ({folds} folds, seed {seed}); their
predictions are written as Parquet files, one per model, and fused by the command shown. It
cross-fits: no row's target fits, chooses or calibrates what predicts the row. Scores are over all
rows; the verdict compares `auto` with the member that looked best, by a paired bootstrap.
"""


def classifiers() -> dict[str, Any]:
    """Name → estimator."""
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)),
        "forest": RandomForestClassifier(random_state=SEED),
        "boosting": GradientBoostingClassifier(random_state=SEED),
        "bayes": make_pipeline(StandardScaler(), GaussianNB()),
        "neighbors": make_pipeline(StandardScaler(), KNeighborsClassifier(25)),
    }


def regressors() -> dict[str, Any]:
    """Name → estimator."""
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    return {
        "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11))),
        "forest": RandomForestRegressor(random_state=SEED),
        "boosting": GradientBoostingRegressor(random_state=SEED),
        "neighbors": make_pipeline(StandardScaler(), KNeighborsRegressor(15)),
        "svr": make_pipeline(StandardScaler(), SVR(C=50)),
    }


def predicted(rows: Rows) -> tuple[dict[str, Columnar], GroundTruth]:
    """Member → its out-of-fold predictions of all rows, and the truth."""
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

    ids = np.array([f"row{row:05}" for row in range(len(rows.targets_N))])
    if rows.targets_N.dtype.kind == "f":
        folds = KFold(FOLDS, shuffle=True, random_state=SEED)
        columns = {
            name: cross_val_predict(model, rows.features, rows.targets_N, cv=folds)
            for name, model in regressors().items()
        }
        members = {n: Values(ids, ("target",), c[:, None]) for n, c in columns.items()}
        return dict(members), Numbers(ids, ("target",), rows.targets_N[:, None])
    classes = tuple(sorted(set(rows.targets_N.tolist())))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    arrays = {
        name: cross_val_predict(
            model, rows.features, rows.targets_N, cv=folds, method="predict_proba"
        )
        for name, model in classifiers().items()
    }
    probabilities = {name: Probabilities(ids, classes, array) for name, array in arrays.items()}
    return dict(probabilities), Targets.from_names(ids, rows.targets_N, classes)


def fused(folder: Path, metric: str, *options: str) -> tuple[str, dict[str, Any], float]:
    """The command, its results, and the seconds from shell to results."""
    files = sorted(path.name for path in folder.glob("*.parquet"))
    shown = ["fuse", *files, "--targets", "targets.csv", "--metric", metric, *options]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "fusetune", *shown, "--out", metric, "--no-report"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - start
    results = json.loads((folder / metric / "results.json").read_text(encoding="utf-8"))
    return shlex.join(["fusetune", *shown]), results, seconds


def table(results: Mapping[str, Any], metric: Metric[Any]) -> list[str]:
    """Scores of members and fusions, the best last."""
    entries = [("member", entry) for entry in results["members"]]
    entries += [("fusion", entry) for entry in results["fusions"]]
    sign = 1 if metric.higher_is_better else -1
    entries.sort(key=lambda pair: sign * pair[1]["scores"]["test"][metric.name])
    lines = [f"| | | {metric.title} |", "| --- | --- | ---: |"]
    for kind, entry in entries:
        value = entry["scores"]["test"][metric.name]
        name = entry["name"] if kind == "member" else f"`{entry['name']}`"
        name = f"**{name}**" if entry["name"] == results["chosen"] else name
        lines.append(f"| {name} | {kind} | {value:.4f} |")
    return lines


def section(folder: Path, name: str, metric: str, *options: str) -> list[str]:
    """What a metric says: the command, the verdict in the product's own words, the table."""
    command, results, seconds = fused(folder, metric, *options)
    verdict = results["verdict"]
    low, high = verdict["interval"]
    measure = find(Metric, metric)()
    return [
        f"## {name}: {measure.title}\n",
        f"`{command}`: {len(results['members'])} members, "
        f"{results['rows']['test']:,} rows, {seconds:.1f} s.\n",
        f"{verdict['sentence']} "
        f"(`gain` {verdict['gain']:+.4f}, {verdict['level']:.0%} interval {low:+.4f} to {high:+.4f}, "
        f"over `{results['best_member']}`; positive is better.)\n",
        *table(results, measure),
        "",
    ]


def main() -> None:
    """Predict, fuse and print."""
    import sklearn

    start = time.perf_counter()
    lines = []
    with tempfile.TemporaryDirectory() as parent:
        for name, source, options, metrics in (
            ("Shop sessions", "shoppers", (), ("log_loss", "roc_auc")),
            # Its numbers are whole, and would be taken for the names of classes.
            ("Diabetes", "diabetes", ("--task", "regression"), ("rmse",)),
        ):
            folder = Path(parent) / source
            members, truth = predicted(SOURCES[source]())
            for member, prediction in members.items():
                write_columnar(folder / f"{member}.parquet", prediction)
            write_targets(folder / "targets.csv", truth)
            for metric in metrics:
                lines += section(folder, name, metric, *options)
    print(
        HEAD.format(
            date=datetime.date.today(),
            processors=os.cpu_count(),
            machine=platform.machine(),
            numpy=np.__version__,
            sklearn=sklearn.__version__,
            minutes=(time.perf_counter() - start) / 60,
            folds=FOLDS,
            seed=SEED,
        )
    )
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
