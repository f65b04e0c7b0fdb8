# SPDX-License-Identifier: Apache-2.0
r"""Every fusion method on three published networks' predictions of 10,000 images, cross-fitted.

Writes docs/results/cifar10_predictions.md to the standard output:

    FUSETUNE_DATA=../shared/data python benchmarks/cifar10_predictions.py \
        > docs/results/cifar10_predictions.md
"""

import datetime
import platform
import time
from typing import Any

import numpy as np
from pool_sources import DATA

from fusetune.calibrate.calibrators.temperature import Temperature
from fusetune.choose import cross_choose
from fusetune.errors import FusetuneError
from fusetune.evaluate.compare import bootstrap_gain
from fusetune.fuse.method import FusionMethod
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.plugins import discover
from fusetune.predictions.files import read_probabilities, read_targets
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack, rows_of
from fusetune.predictions.targets import Targets
from fusetune.tasks.classification import Classification

FOLDER = DATA / "cifar10_predictions"
NUM_FOLDS = 5

HEAD = """\
# Three published networks on recompressed CIFAR-10

{date}, {machine}, numpy {numpy}; `python benchmarks/cifar10_predictions.py`, {seconds:.0f} s.

ResNet-20, -32 and -44 (He et al. 2015), trained on the original images, predict the 10,000 test images after a second JPEG
compression: a shift that they were not trained for. All rows fit and all rows judge, by cross-fitting in {folds} folds: no row's
target fits what predicts it, the choice of `auto` included (`cross_choose`). *Gain*: over {best}, the member that looks best on all rows, paired
95 % bootstrap interval. *Calibrated*: log-loss after a temperature, cross-fitted too.

`auto` blends the task's default methods ({defaults}); fitting and judging all of them took {auto_s:.1f} s of processor time, on one thread of a busy machine.

| | accuracy % | gain, points | log-loss | calibrated |
| --- | ---: | ---: | ---: | ---: |"""


def cross_fitted(method: FusionMethod[Any], stack: Stack[Any], targets: Targets) -> Any:
    """The method's prediction of every row by a fit that did not see the row."""
    folds_N = stratified_folds(targets, NUM_FOLDS)
    parts = []
    for fold in range(NUM_FOLDS):
        fit, judge = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        fusion = method.fit(stack.take(fit), targets.take(fit), Accuracy())
        parts.append(fusion(stack.take(judge)))
    joined = Probabilities.concat(parts)
    return joined.take(rows_of(joined.ids, stack.ids))


def calibrated(prediction: Probabilities, targets: Targets) -> Probabilities:
    """Its temperature fitted on other rows."""
    folds_N = stratified_folds(targets, NUM_FOLDS, seed=1)
    parts = []
    for fold in range(NUM_FOLDS):
        fit, judge = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        calibration = Temperature().fit(prediction.take(fit), targets.take(fit))
        parts.append(calibration(prediction.take(judge)))
    joined = Probabilities.concat(parts)
    return joined.take(rows_of(joined.ids, prediction.ids))


def main() -> None:
    """Fuse, judge and print."""
    start = time.perf_counter()
    targets = read_targets(FOLDER / "targets.csv")
    files = sorted(FOLDER.glob("*.parquet"))
    members = {path.stem: read_probabilities(path) for path in files}
    stack = Stack.align(members, ids=targets.ids, classes=targets.classes)
    names = Classification.methods
    methods = discover(FusionMethod)
    chosen_start = time.process_time()
    choice = cross_choose(stack, targets, Accuracy(), {name: methods[name]() for name in names})
    auto_s = time.process_time() - chosen_start
    back = rows_of(choice.honest.ids, stack.ids) if choice.honest else []
    fused = {name: part.take(back) for name, part in choice.cross_fitted.items()}
    for name, method in methods.items():
        if name not in fused and Probabilities in method.accepts:
            try:
                fused[name] = cross_fitted(method(), stack, targets)
            except FusetuneError:
                continue  # it asks for features
    if choice.honest is not None:
        fused["**auto**"] = choice.honest.take(back)
    hits = {name: Accuracy().statistics(part, targets) for name, part in fused.items()}
    own = {name: Accuracy().statistics(stack[name], targets) for name in stack.members}
    best = choice.best_member
    print(
        HEAD.format(
            date=datetime.date.today(),
            machine=platform.machine(),
            numpy=np.__version__,
            seconds=time.perf_counter() - start,
            folds=NUM_FOLDS,
            best=best,
            defaults=", ".join(names),
            auto_s=auto_s,
        )
    )
    rows = {**{name: stack[name] for name in stack.members}, **fused}
    statistics = own | hits
    for name in sorted(rows, key=lambda name: float(statistics[name].mean())):
        gain = bootstrap_gain(Accuracy(), statistics[name], own[best], seed=0)
        sure = calibrated(rows[name], targets)
        print(
            f"| {name} | {100 * statistics[name].mean():.2f} "
            f"| {100 * gain.value:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f}) "
            f"| {LogLoss().value(LogLoss().statistics(rows[name], targets)):.4f} "
            f"| {LogLoss().value(LogLoss().statistics(sure, targets)):.4f} |"
        )
    parts = ", ".join(f"{name} {share:.2f}" for name, share in choice.fusion.parts().items())
    print(f"\n`auto`, fitted on all rows: {parts}.")


if __name__ == "__main__":
    main()
