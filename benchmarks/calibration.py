# SPDX-License-Identifier: Apache-2.0
"""What calibrators gain on real members, and where their defaults come from.

    python benchmarks/calibration.py [--data ../shared/data/cifar10_predictions] [--repeats 10]

The three CIFAR-10 networks of the folder, as they are, rounded to four digits (as in a CSV file:
seven probabilities in ten are then exactly 0), and as bare labels. Each repeat deals the 10,000 rows to 5,000 that
judge and N that fit. Prints Markdown tables of means over networks and repeats.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.calibrate.calibrator import Calibrator
from fusetune.metrics.expected_calibration_error import ExpectedCalibrationError
from fusetune.metrics.log_loss import LogLoss
from fusetune.plugins import discover, find
from fusetune.predictions.files import read_probabilities, read_targets
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

FIT_ROWS = (20, 50, 200, 1000, 5000)
Said = Callable[[Probabilities], Probabilities]


def rounded(prediction: Probabilities) -> Probabilities:
    """The probabilities with four digits, divided by their sums."""
    probs_NC = np.round(prediction.probs_NC.astype(float), 4)
    return prediction.with_array(prediction.classes, probs_NC / probs_NC.sum(axis=1, keepdims=True))


def labels(prediction: Probabilities) -> Probabilities:
    """The classes named, as certainties."""
    one_hot = np.eye(len(prediction.classes))[prediction.probs_NC.argmax(axis=1)]
    return prediction.with_array(prediction.classes, one_hot)


def judged(
    members: Sequence[Probabilities], targets: Targets, settings: Calibrator[Any], repeats: int
) -> dict[int, tuple[float, float]]:
    """Fit rows → mean log-loss and calibration error (15 bins of equal mass) on other rows."""
    found = {}
    for num_rows in FIT_ROWS:
        scores = []
        for member in members:
            for repeat in range(repeats):
                order = np.random.default_rng(repeat).permutation(len(targets))
                fit, judge = order[:num_rows], order[-5000:]
                calibration = settings.fit(member.take(fit), targets.take(fit))
                calibrated, truth = calibration(member.take(judge)), targets.take(judge)
                metrics = (LogLoss(), ExpectedCalibrationError(mass="equal_mass"))
                scores.append([m.value(m.statistics(calibrated, truth)) for m in metrics])
        log_loss, error = np.mean(scores, axis=0)
        found[num_rows] = (float(log_loss), float(error))
    return found


def print_table(title: str, rows: Mapping[str, dict[int, tuple[float, float]]], which: int) -> None:
    """One line per setting, one column per number of fit rows."""
    print(f"\n{title}\n\n| | {' | '.join(f'{n:,} rows' for n in FIT_ROWS)} |")
    print(f"| --- |{' --- |' * len(FIT_ROWS)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(f'{found[n][which]:.4f}' for n in FIT_ROWS)} |", flush=True)


def main() -> None:
    """Calibrate with the defaults, then with one of them changed at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(__file__).parents[2] / "shared" / "data" / "cifar10_predictions"
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    targets = read_targets(options.data / "targets.csv")
    paths = sorted(options.data.glob("*.parquet"))
    parts = {path.stem: read_probabilities(path) for path in paths}
    stack = Stack.align(parts, classes=targets.classes, ids=targets.ids)
    exact = list(stack.parts)
    inputs = {"exact": exact, "four digits": [rounded(p) for p in exact]}
    for title, members in (*inputs.items(), ("labels", [labels(p) for p in exact])):
        own = [LogLoss().value(LogLoss().statistics(p, targets)) for p in members]
        print(f"\n## {title}: log-loss uncalibrated {np.mean(own):.4f}")
        found = {
            name: judged(members, targets, calibrator(), options.repeats)
            for name, calibrator in discover(Calibrator).items()
            if (name == "confusion") == (title == "labels")
        }
        print_table("Log-loss", found, 0)
        print_table("Calibration error, 15 bins of equal mass", found, 1)
    print("\n## Where the defaults come from: log-loss with one changed")
    changes: list[tuple[str, str, Sequence[float], str]] = [
        ("temperature", "smoothing", (1e-8, 1e-6, 1e-4, 1e-3), "exact"),
        ("temperature", "smoothing", (1e-8, 1e-6, 1e-4, 1e-3), "four digits"),
        ("temperature", "penalty", (0, 1, 10), "exact"),
        ("vector", "penalty", (0.3, 1, 3, 10), "exact"),
        ("beta", "penalty", (0.3, 1, 3, 10), "exact"),
        ("isotonic", "level_rows", (0, 0.3, 1, 3), "exact"),
        ("isotonic", "prior_rows", (1, 10, 30, 100), "exact"),
        ("confusion", "prior_rows", (0.1, 0.3, 1, 3), "labels"),
    ]
    inputs["labels"] = [labels(p) for p in exact]
    for name, key, values, title in changes:
        calibrator = find(Calibrator, name)
        found = {
            f"{key} {value:g}": judged(
                inputs[title], targets, calibrator(**{key: value}), max(1, options.repeats // 2)
            )
            for value in values
        }
        print_table(f"`{name}` on {title}", found, 0)


if __name__ == "__main__":
    main()
