# SPDX-License-Identifier: Apache-2.0
"""FusionClassifier and FusionRegressor beside scikit-learn's own ensembles of the same estimators.

scikit-learn's embedded sets, divided into train and test anew for every seed. All ensembles get
the same estimators and the same five folds (not shuffled), and are fitted one after the other in
one process on one thread. Writes the tables of docs/results/sklearn.md to the standard output:

    OMP_NUM_THREADS=1 python benchmarks/sklearn_fusion.py --seeds 10 > docs/results/sklearn.md
"""

import argparse
import datetime
import os
import platform
import sys
import time
import warnings

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import (
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier

from fusetune.sklearn import FusionClassifier, FusionRegressor

HEAD = """\
# FusionClassifier beside StackingClassifier and VotingClassifier

{date}, {machine}, scikit-learn {version}, one thread;
`OMP_NUM_THREADS=1 python benchmarks/sklearn_fusion.py --seeds {seeds}`, {minutes:.0f} min.

Means over {seeds} divisions of each set, 70 % train and 30 % test (`few`: 100 rows train). Members: logistic regression,
naive Bayes, a forest of 100 trees, 5 neighbors, a tree; for numbers ridge, forest, 15 neighbors,
support vectors. ± is the standard error of the paired difference to StackingClassifier (its
default final estimator), so what is within two of them is a draw. *Fit time* is the median ratio to
StackingClassifier's fit of the same rows. *Best member* is the one that looks best by
cross-validation.
"""
FEW = 100


def classifiers(seed):
    """Name → estimator to compare."""
    pairs = [
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
        ("bayes", GaussianNB()),
        ("forest", RandomForestClassifier(100, random_state=seed)),
        ("neighbors", make_pipeline(StandardScaler(), KNeighborsClassifier())),
        ("tree", DecisionTreeClassifier(random_state=seed)),
    ]
    return {
        "StackingClassifier": StackingClassifier(pairs, cv=5),
        "VotingClassifier, soft": VotingClassifier(pairs, voting="soft"),
        "best member": FusionClassifier(pairs, method="best_member"),
        "auto by accuracy": FusionClassifier(pairs),
        "auto by accuracy, not calibrated": FusionClassifier(pairs, calibrator=None),
        "auto by log-loss": FusionClassifier(pairs, metric="log_loss"),
        "stacking": FusionClassifier(pairs, method="stacking"),
    }


def regressors(seed):
    """Name → estimator to compare."""
    pairs = [
        ("ridge", make_pipeline(StandardScaler(), Ridge())),
        ("forest", RandomForestRegressor(100, random_state=seed)),
        ("neighbors", make_pipeline(StandardScaler(), KNeighborsRegressor(15))),
        ("svr", make_pipeline(StandardScaler(), SVR(C=100))),
    ]
    return {
        "StackingRegressor": StackingRegressor(pairs, cv=5),
        "VotingRegressor": VotingRegressor(pairs),
        "best member": FusionRegressor(pairs, method="best_member"),
        "auto": FusionRegressor(pairs),
        "weighted_mean": FusionRegressor(pairs, method="weighted_mean"),
    }


def divisions(load, train, seeds):
    """For each seed: train and test inputs, train and test targets, stratified if there are classes."""
    X, y = load(return_X_y=True)
    strata = y if load is not load_diabetes else None
    for seed in range(seeds):
        yield train_test_split(X, y, train_size=train, stratify=strata, random_state=seed)


def measure(ensembles, divisions, judge):
    """Name → `(seeds, 1 + values)` fit seconds, and what `judge` says of the fitted ensemble."""
    found = {}
    for seed, (X, X_test, y, y_test) in enumerate(divisions):
        for name, estimator in ensembles(seed).items():
            start = time.perf_counter()
            fitted = clone(estimator).fit(X, y)
            seconds = time.perf_counter() - start
            found.setdefault(name, []).append((seconds, *judge(fitted, X_test, y_test)))
    return {name: np.array(rows) for name, rows in found.items()}


def of_classes(fitted, X, y):
    """Errors in percent, and log-loss in nats; clipped as single precision is."""
    probs_NC = np.clip(fitted.predict_proba(X), 1e-7, 1)
    probs_NC /= probs_NC.sum(axis=1, keepdims=True)
    return 100 * np.mean(fitted.predict(X) != y), log_loss(y, probs_NC)


def of_numbers(fitted, X, y):
    """Root mean squared error."""
    return (root_mean_squared_error(y, fitted.predict(X)),)


def lines(title, found):
    """One line of the table per ensemble; the first is what others are compared with."""
    reference = next(iter(found.values()))
    for name, rows in found.items():
        cells = []
        for column in range(1, rows.shape[1]):
            apart = rows[:, column] - reference[:, column]
            error = apart.std(ddof=1) / np.sqrt(len(apart))
            digits = 2 if column == 1 else 3
            mean = f"{rows[:, column].mean():.{digits}f}"
            same = rows is reference
            cells.append(
                mean if same else f"{mean} ({apart.mean():+.{digits}f} ± {error:.{digits}f})"
            )
        ratio = np.median(rows[:, 0] / reference[:, 0])
        yield f"| {title} | {name} | {' | '.join(cells)} | {ratio:.2f} |"


def main() -> None:
    """Print the tables; progress goes to the standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="divisions of each set")
    seeds = parser.parse_args().seeds
    warnings.filterwarnings("ignore", message="The least populated class")
    start = time.perf_counter()
    sets = {
        "breast_cancer": (load_breast_cancer, 0.7),
        "breast_cancer, few": (load_breast_cancer, FEW),
        "digits": (load_digits, 0.7),
        "digits, few": (load_digits, FEW),
        "iris": (load_iris, 0.7),
        "wine": (load_wine, 0.7),
    }
    table = [
        "| set | ensemble | errors, % | log-loss | fit time |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for title, (load, train) in sets.items():
        table += lines(title, measure(classifiers, divisions(load, train, seeds), of_classes))
        print(title, file=sys.stderr, flush=True)
    table += ["", "| set | ensemble | RMSE | fit time |", "| --- | --- | ---: | ---: |"]
    for title, train in {"diabetes": 0.7, "diabetes, few": FEW}.items():
        table += lines(
            title, measure(regressors, divisions(load_diabetes, train, seeds), of_numbers)
        )
    head = HEAD.format(
        date=datetime.date.today().isoformat(),
        machine=f"{os.cpu_count()} cores of a {platform.machine()} machine",
        version=sklearn.__version__,
        seeds=seeds,
        minutes=(time.perf_counter() - start) / 60,
    )
    print(head, *table, sep="\n")


if __name__ == "__main__":
    main()
