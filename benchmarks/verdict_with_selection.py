# SPDX-License-Identifier: Apache-2.0
"""How far the verdict can be trusted when the fusion and the best member were chosen on data.

Simulated pools of members; every run draws a holdout, fits the candidates there, chooses among them
and picks the best-looking member. Fresh test rows judge (first table), or the holdout rows
themselves by cross-fitting (second table). The true gain of what was chosen is measured on 200,000
further rows. Writes its part of docs/results/verdict.md to the standard output:

    python benchmarks/verdict_with_selection.py --runs 2000 >> docs/results/verdict.md

Shapes: M members, N rows.
"""

import argparse
import datetime
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fusetune.choose import AUTO, BEST, Choice, choose, cross_choose
from fusetune.evaluate.compare import Interval, bootstrap_gain, bootstrap_selected_gain
from fusetune.fuse.method import Fusion
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.stacking import Stacking
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

HOLDOUT, TEST = 300, 1000
MANY, MANY_NULL = 200_000, 40_000  # rows for true gains; whether there is one is known if null
METRIC = Accuracy()
METHODS = {
    "mean": Mean(),
    "weighted_mean": WeightedMean(),
    "greedy_selection": GreedySelection(),
    "stacking": Stacking(penalties=(10.0,)),  # one penalty: choosing it takes most of the time
}
CLASSES = ("no", "yes")


@dataclass(frozen=True)
class Pool:
    """Two classes, four members; each sees the class through noise and says its log-odds.

    Args:
        name: What the pool is like.
        skill: Distance of the classes in standard deviations of a member's noise, halved.
        shared: Share of the noise's variance that all members have in common.
        wobble: Members instead say the first one's log-odds times exp(this times noise).
        blur: Members instead say the first one's log-odds plus this much noise.
        null: The first member knows all that is known: no fusion can be better.
    """

    name: str
    skill: tuple[float, ...] = (0.8, 0.8, 0.8, 0.8)
    shared: float = 0.5
    wobble: float | None = None
    blur: tuple[float, ...] | None = None
    null: bool = False

    def draw(self, rows: int, random: np.random.Generator) -> tuple[Stack[Probabilities], Targets]:
        """Predictions of so many fresh rows, and their classes."""
        labels_N = random.integers(2, size=rows)
        skill_M1 = np.array(self.skill)[:, None]
        own_MN = random.normal(size=(len(skill_M1), rows))
        noise_MN = self.shared**0.5 * random.normal(size=rows) + (1 - self.shared) ** 0.5 * own_MN
        odds_MN = 2 * skill_M1 * ((2 * labels_N - 1) * skill_M1 + noise_MN)
        if self.wobble is not None:
            odds_MN = odds_MN[0] * np.exp(self.wobble * random.normal(size=odds_MN.shape))
        if self.blur is not None:
            blur_M1 = np.array(self.blur)[:, None]
            odds_MN = odds_MN[0] + blur_M1 * random.normal(size=odds_MN.shape)
        if self.skill == (0.0,) * 4:
            odds_MN = 2 * noise_MN
        yes_MN = 1 / (1 + np.exp(-odds_MN))
        ids = np.arange(rows).astype(str)
        parts = {
            f"member{m}": Probabilities(ids, CLASSES, np.stack([1 - yes_N, yes_N], axis=1))
            for m, yes_N in enumerate(yes_MN)
        }
        return Stack.align(parts, classes=CLASSES), Targets(ids, CLASSES, labels_N)


POOLS = [
    Pool("no gain: all decide alike", (1.0,) * 4, wobble=0.8, null=True),
    Pool("no gain: one knows all that is known", (1.0,) * 4, blur=(0, 0.5, 1, 1.5), null=True),
    Pool("no gain: all guess", (0.0,) * 4, shared=0.3, null=True),
    Pool("equal", shared=0.6),
    Pool("near-identical", shared=0.97),
    Pool("one dominant", (1.4, 0.8, 0.8, 0.8)),
    Pool("independent", (0.6,) * 4, shared=0.0),
]


@dataclass
class Tally:
    """What came out of the runs of one pool for one way to choose and to compare."""

    gains: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    claims: list[bool] = field(default_factory=list)
    false_claims: list[bool] = field(default_factory=list)

    def add(self, interval: Interval, truth: float, *, alone: bool) -> None:
        """One run; the best member itself gains nothing over itself and covers nothing."""
        claim = interval.low > 0 and not alone
        self.gains.append(truth)
        self.claims.append(claim)
        self.false_claims.append(claim and truth <= 0)
        if not alone:
            self.covered.append(interval.covers(truth))

    def row(self) -> str:
        """Runs that fused, coverage there, worth it, and worth it without a true gain."""
        shares = [
            f"{100 * len(self.covered) / len(self.gains):.0f} %",
            f"{100 * np.mean(self.covered):.1f} %" if self.covered else "–",
            f"{100 * np.mean(self.claims):.1f} %",
            f"{100 * np.mean(self.false_claims):.1f} %",
        ]
        return " | ".join(shares)


class Truth:
    """Scores on very many rows, computed once per fusion."""

    def __init__(self, pool: Pool) -> None:
        rows = MANY_NULL if pool.null else MANY
        self.stack, self.targets = pool.draw(rows, np.random.default_rng(12345))
        self.members = {m: self.score(self.stack[m]) for m in self.stack.members}
        self.guess = not any(pool.skill)  # who guesses is right in half of the rows
        best = max(self.members.values())
        self.unbeatable = {m for m, score in self.members.items() if pool.null and score == best}

    def score(self, prediction: Probabilities) -> float:
        """Accuracy."""
        return METRIC.value(METRIC.statistics(prediction, self.targets))

    def gain(self, fusion: Fusion[Probabilities], best_member: str) -> float:
        """True gain of a fitted fusion over a member."""
        if self.guess or fusion.members == (best_member,):
            return 0.0
        gain = self.score(fusion(self.stack)) - self.members[best_member]
        return min(0.0, gain) if best_member in self.unbeatable else gain


def fresh_rows_judge(
    pool: Pool, truth: Truth, choice: Choice, picked: str, random: np.random.Generator, tests: int
) -> Mapping[str, list[tuple[Interval, float, bool]]]:
    """Intervals of `auto` and of the single best candidate on several sets of test rows."""
    names = {AUTO: AUTO, BEST: picked}
    best = choice.best_member
    alone = {way: choice.fusions[name].members == (best,) for way, name in names.items()}
    gains = {way: truth.gain(choice.fusions[name], best) for way, name in names.items()}
    found: dict[str, list[tuple[Interval, float, bool]]] = {way: [] for way in names}
    for _ in range(tests):
        stack, targets = pool.draw(TEST, random)
        member_NS = METRIC.statistics(stack[best], targets)
        for way, name in names.items():
            fused_NS = METRIC.statistics(choice.fusions[name](stack), targets)
            seed = int(random.integers(2**31))
            interval = bootstrap_gain(METRIC, fused_NS, member_NS, seed=seed)
            found[way].append((interval, gains[way], alone[way]))
    return found


def same_rows_judge(
    truth: Truth, choice: Choice, picked: str, holdout: tuple[Stack[Probabilities], Targets]
) -> Mapping[str, tuple[Interval, float, bool]]:
    """Intervals of cross-fitted predictions over the member that looks best on the same rows.

    `auto` is cross-fitted as a whole, its blending included; of the candidates the one that scores
    best on these rows is compared, so that its score is that of a choice.
    """
    stack, targets = sorted_by_id(*holdout)
    members = [METRIC.statistics(part, targets) for part in stack.parts]
    best = choice.best_member
    others = {n: METRIC.statistics(p, targets) for n, p in choice.cross_fitted.items()}
    candidates = {
        AUTO: [METRIC.statistics(choice.honest, targets)],
        BEST: [others.pop(picked), *others.values()],
    }
    found = {}
    for way, name in ((AUTO, AUTO), (BEST, picked)):
        alone = choice.fusions[name].members == (best,)
        gain = truth.gain(choice.fusions[name], best)
        member_NS = members[stack.members.index(best)]
        plain = bootstrap_gain(METRIC, candidates[way][0], member_NS, seed=0)
        again = bootstrap_selected_gain(METRIC, candidates[way], members, seed=0)
        found[f"{way} | plain"] = (plain, gain, alone)
        found[f"{way} | chosen again"] = (again, gain, alone)
    return found


def sorted_by_id(
    stack: Stack[Probabilities], targets: Targets
) -> tuple[Stack[Probabilities], Targets]:
    """Rows in the order of `Choice.cross_fitted`."""
    order = np.argsort(stack.ids)
    return stack.take(order), targets.take(order)


def best_candidate(choice: Choice, holdout: tuple[Stack[Probabilities], Targets]) -> str:
    """What `choose: best` picks: the best cross-fitted score, ties to the simpler candidate."""
    _, targets = sorted_by_id(*holdout)
    scores = {
        name: METRIC.value(METRIC.statistics(part, targets))
        for name, part in choice.cross_fitted.items()
    }
    best = max(scores.values())
    return next(name for name, score in scores.items() if score >= best - 1e-12)


def simulate(pool: Pool, runs: int, crossed: int) -> dict[str, Tally]:
    """All ways to choose and compare, on so many runs of one pool."""
    truth, tallies = Truth(pool), {}
    tests = 1 if pool.null else 8  # true gains cost most: there a fit serves eight test sets
    for run in range(runs // tests):
        random = np.random.default_rng([run, *pool.name.encode()])
        holdout = pool.draw(HOLDOUT, random)
        choice = (cross_choose if run < crossed else choose)(*holdout, METRIC, METHODS)
        picked = best_candidate(choice, holdout)
        results = [
            (f"test: {way}", found)
            for way, several in fresh_rows_judge(pool, truth, choice, picked, random, tests).items()
            for found in several
        ]
        if run < crossed:
            results += same_rows_judge(truth, choice, picked, holdout).items()
        for way, (interval, gain, alone) in results:
            tallies.setdefault(way, Tally()).add(interval, gain, alone=alone)
    return tallies


def main() -> None:
    """Print both tables; progress goes to the standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="sets of test rows per pool")
    parser.add_argument("--pool", help="only the pools whose name holds this")
    parser.add_argument("--crossed", type=int, default=150, help="cross-fitted runs per pool")
    options = parser.parse_args()
    start, tables = time.perf_counter(), ([], [])
    for pool in [pool for pool in POOLS if (options.pool or "") in pool.name]:
        before = time.perf_counter()
        for way, tally in simulate(pool, options.runs, options.crossed).items():
            gain = f"{100 * np.mean(tally.gains):.2f}"
            name = way.removeprefix("test: ")
            line = f"| {pool.name} | {name} | {len(tally.claims):,} | {gain} | {tally.row()} |"
            tables[name == way].append(line)
            print(line, file=sys.stderr)
        print(f"{time.perf_counter() - before:.0f} s", file=sys.stderr, flush=True)
    print(
        HEAD.format(
            date=datetime.date.today().isoformat(),
            machine=f"{os.cpu_count()} cores of a {platform.machine()} machine",
            numpy=np.__version__,
            runs=options.runs,
            crossed=options.crossed,
            minutes=(time.perf_counter() - start) / 60,
            fresh="\n".join([FRESH, *tables[0]]),
            same="\n".join([SAME, *tables[1]]),
        )
    )


HEAD = """
## With everything chosen on data

{date}, {machine}, numpy {numpy}; `python benchmarks/verdict_with_selection.py --runs {runs} --crossed {crossed}`, {minutes:.0f} min.

Every run draws 300 holdout rows of two classes from a pool of four members, fits `mean`,
`weighted_mean`, `greedy_selection` and `stacking` there (one penalty: choosing it takes the most
time), lets `auto` blend them and `best` pick one by cross-fitting, and takes the member that looks
best on the same rows. The true gain of what was chosen over that member is measured on 200,000
further rows (40,000 in the pools without gain, where its sign is known). *Fused* are the runs whose
choice is not that member alone, and *coverage* is theirs; *falsely so* are the runs, of all, that
said "worth it" without a true gain. In the second pool without gain, the member that looked best is
the one that knows all in 72 % of the runs; a gain over another is real.

First, 1,000 fresh test rows judge, as `run` and `--holdout` have it; where a pool has a gain, eight
test sets share a fit.

{fresh}

Then the 300 rows themselves judge by cross-fitting, as `fuse` has it without `--holdout`. *Plain* is
`bootstrap_gain`, *chosen again* is `bootstrap_selected_gain`, which takes off what a choice on the
judging rows makes look better. `auto` is cross-fitted as a whole, so that only the best member was
chosen there; `best` is the candidate with the best cross-fitted score on these rows.

{same}"""

COLUMNS = "mean true gain, points | fused | coverage | worth it | falsely so |"

FRESH = f"""\
| pool | chosen | runs | {COLUMNS}
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""

SAME = f"""\
| pool | chosen | interval | runs | {COLUMNS}
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


if __name__ == "__main__":
    main()
