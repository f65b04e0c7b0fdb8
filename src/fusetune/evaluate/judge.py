# SPDX-License-Identifier: Apache-2.0
"""Score members and fusions side by side, and compare the chosen one with the best member.

Shapes: N rows.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fusetune.calibrated import CalibratedFusion
from fusetune.evaluate.compare import Interval, bootstrap_gain, bootstrap_intervals
from fusetune.evaluate.cost import Cost, cost_ratio, total_cost
from fusetune.evaluate.diagnosis import (
    calibration_results,
    contribution_results,
    diversity_results,
    significance_results,
)
from fusetune.evaluate.per_class import class_results
from fusetune.evaluate.score import scores
from fusetune.evaluate.side_by_side import look_side_by_side
from fusetune.evaluate.verdict import Comparison, Judged, VerdictRule, decide
from fusetune.fuse.forms import Blend
from fusetune.fuse.method import Fusion
from fusetune.metric import Metric
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import GroundTruth

__all__ = ["Candidates", "Judge", "fusion_entry"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is judged.

    Args:
        fusions: Name → fitted fusion, the chosen one among them.
        chosen: Which of them is the answer.
        best_member: The member that looked best on the holdout.
        fit_seconds: Name → seconds of fitting, where known.
        holdout: Name → predictions of holdout rows by a fusion that was not fitted on them.
        test: Name → predictions of test rows, where they are not what the fitted fusions give:
            in cross-fitting every test row fitted the fusions, so that others predict it.
        uncalibrated: The chosen one's predictions of test rows before its calibration; None: what
            the fitted fusion gives before it, if it has one.
    """

    fusions: Mapping[str, Fusion[Any]]
    chosen: str
    best_member: str
    fit_seconds: Mapping[str, float]
    holdout: Mapping[str, Kind]
    test: Mapping[str, Kind] = field(default_factory=dict)
    uncalibrated: Kind | None = None


@dataclass(frozen=True, eq=False)
class Judge:
    """Rows, metrics and rule by which members and fusions are compared.

    Args:
        metric: What decides.
        metrics: What is shown, `metric` among them.
        stacks: Role → the members' predictions; `test` is what the verdict rests on.
        targets: Role → true classes of the same rows.
        costs: Member → cost, where known.
        rule: When fusing counts as worth it.
        seed: Of the resampling.
        judged: What the test rows are; see `Comparison`.
    """

    metric: Metric[Any]
    metrics: Sequence[Metric[Any]]
    stacks: Mapping[str, Stack[Any]]
    targets: Mapping[str, GroundTruth]
    costs: Mapping[str, Cost]
    rule: VerdictRule
    seed: int
    judged: Judged = "test"

    def results(self, candidates: Candidates) -> tuple[dict[str, Any], dict[str, Kind]]:
        """What of results.json hangs on predictions alone; costs and the verdict come later.

        Returns:
            The entries `members` (scores only), `fusions`, `chosen`, `best_member`, `comparison`
            (what `verdict` decides on), `calibration`, `contributions`, those of
            `diversity_results` and `class_results`; and the fused predictions of test rows by
            fusion.
        """
        test = self.stacks["test"]
        fused, seconds = self._fused(candidates)
        self._look(fused, candidates)
        judged = {**{m: test[m] for m in test.members}, **fused}
        intervals = self._intervals(judged)
        tests = self._tests(candidates, fused)
        members = {
            name: {"scores": self._member_scores(name), "intervals": intervals[name]}
            for name in test.members
        }
        fusions = [
            fusion_entry(
                name,
                fusion,
                self._fusion_scores(name, fused[name], candidates),
                intervals[name],
                {"fit": candidates.fit_seconds.get(name), "predict_per_row": seconds[name]},
            )
            | tests[name]
            for name, fusion in candidates.fusions.items()
        ]
        entries = {
            "members": members,
            "fusions": fusions,
            "chosen": candidates.chosen,
            "best_member": candidates.best_member,
            "comparison": self._comparison(candidates, fused[candidates.chosen])
            | {"p_value": tests[candidates.chosen]["p_value"]},
            "calibration": self._calibration(candidates, fused[candidates.chosen]),
            "contributions": self._contributions(candidates.fusions[candidates.chosen]),
            **diversity_results(test, self.targets["test"]),
            **self._parts(candidates, judged),
        }
        return entries, fused

    def look_at_members(self) -> None:
        """Let all metrics find out at once what they keep of masks; see `look_side_by_side`."""
        for role, stack in self.stacks.items():
            look_side_by_side(stack.parts, self.targets[role], self.metrics)

    def _look(self, fused: Mapping[str, Kind], candidates: Candidates) -> None:
        look_side_by_side(list(fused.values()), self.targets["test"], self.metrics)
        if self.judged == "test":
            holdout = list(candidates.holdout.values())
            look_side_by_side(holdout, self.targets["holdout"], self.metrics)

    def _parts(self, candidates: Candidates, judged: Mapping[str, Kind]) -> dict[str, Any]:
        """The best member and the chosen one class by class; the members' curves."""
        best, chosen = candidates.best_member, candidates.chosen
        shown = {name: judged[name] for name in (*self.stacks["test"].members, chosen)}
        return class_results(shown, self.targets["test"], best, chosen, seed=self.seed)

    def _tests(
        self, candidates: Candidates, fused: Mapping[str, Kind]
    ) -> dict[str, dict[str, float | None]]:
        """Fusion → p of its difference from the best member."""
        targets, best = self.targets["test"], self.stacks["test"][candidates.best_member]
        return significance_results(
            self.metric,
            list(fused),
            candidates.chosen,
            lambda name: self.metric.statistics(fused[name], targets),
            self.metric.statistics(best, targets),
            seed=self.seed,
        )

    def _calibration(self, candidates: Candidates, after: Kind) -> dict[str, Any] | None:
        """What calibrating the chosen one changed on test; None where nothing was calibrated."""
        fusion = candidates.fusions[candidates.chosen]
        if not isinstance(fusion, CalibratedFusion) or fusion.output is None:
            return None
        before = candidates.uncalibrated
        before = fusion.before_output(self.stacks["test"]) if before is None else before
        method = plugin_name(type(fusion.output))
        return calibration_results(method, before, after, self.targets["test"], self.metrics)

    def _contributions(self, fusion: Fusion[Any]) -> dict[str, Any] | None:
        """What members contribute to the chosen one, or to their mean where it has no weights."""
        weights = fusion.weights()
        found = contribution_results(
            self.stacks["test"],
            self.targets["test"],
            self.metric,
            weights=dict.fromkeys(fusion.members, 1.0) if weights is None else weights,
            seed=self.seed,
        )
        return found and {"of": "mean" if weights is None else "weights", **found}

    def _fused(self, candidates: Candidates) -> tuple[dict[str, Kind], dict[str, float]]:
        """Predictions of test rows by every fusion, and its own seconds per row."""
        test = self.stacks["test"]
        fused: dict[str, Kind] = {}
        seconds: dict[str, float] = {}
        for name, fusion in candidates.fusions.items():
            before = time.perf_counter()
            fused[name] = fusion(test)
            seconds[name] = (time.perf_counter() - before) / max(1, len(test))
            fused[name] = candidates.test.get(name, fused[name])
        return fused, seconds

    def _member_scores(self, name: str) -> dict[str, dict[str, float]]:
        return {
            role: scores(stack[name], self.targets[role], self.metrics)
            for role, stack in self.stacks.items()
            if role == "test" or self.judged == "test"  # else they are the same rows
        }

    def _fusion_scores(
        self, name: str, fused: Kind, candidates: Candidates
    ) -> dict[str, dict[str, float]]:
        entry = {}
        if name in candidates.holdout and self.judged == "test":
            entry["holdout"] = scores(
                candidates.holdout[name], self.targets["holdout"], self.metrics
            )
        return {**entry, "test": scores(fused, self.targets["test"], self.metrics)}

    def _intervals(self, judged: Mapping[str, Kind]) -> dict[str, dict[str, list[float]]]:
        shown = {m.name: m for m in self.metrics if m.name == "accuracy"}  # costs next to nothing
        shown[self.metric.name] = self.metric
        scored = [
            (metric, metric.statistics(prediction, self.targets["test"]))
            for prediction in judged.values()
            for metric in shown.values()
        ]
        found = iter(bootstrap_intervals(scored, seed=self.seed))
        return {
            name: {metric: [(i := next(found)).low, i.high] for metric in shown} for name in judged
        }

    def _comparison(self, candidates: Candidates, fused: Kind) -> dict[str, float]:
        """The gain of the chosen fusion over the best member on test, with its interval."""
        targets, best = self.targets["test"], self.stacks["test"][candidates.best_member]
        pair = [self.metric.statistics(p, targets) for p in (fused, best)]
        return asdict(bootstrap_gain(self.metric, *pair, seed=self.seed))

    def verdict(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The entry `verdict` of results.json, from what `results` gave and the members' costs.

        Costs are measured anew when a member is predicted anew, so they stay out of `results`,
        which a resumed run reads from its artifact.
        """
        chosen = next(f for f in entries["fusions"] if f["name"] == entries["chosen"])
        best = entries["best_member"]
        alone = chosen["members"] == [best] and not entries["calibration"]
        own = Cost(
            fit_s=0.0, predict_s_per_row=0.0 if alone else chosen["seconds"]["predict_per_row"]
        )
        cost = total_cost([self.costs.get(name, Cost()) for name in chosen["members"]], own)
        found = dict(entries["comparison"])
        p_value = found.pop("p_value")
        verdict = decide(
            Interval(**found),
            p_value=p_value,
            cost_ratio=cost_ratio(cost, self.costs.get(best, Cost())),
            compared=Comparison(
                metric=self.metric.name,
                chosen=best if alone else entries["chosen"],
                best_member=best,
                judged=self.judged,
            ),
            rule=self.rule,
        )
        return {**verdict.as_results(), "sentence": verdict.sentence()}


def fusion_entry(
    name: str,
    fusion: Fusion[Any],
    scores: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Sequence[float]],
    seconds: Mapping[str, float | None],
) -> dict[str, Any]:
    """A fusion's entry in results.json."""
    return {
        "name": name,
        "method": "blend" if name == "auto" else name,
        "weights": _rounded(fusion.weights()),
        "blend": _rounded(_blend_of(fusion)),
        "members": list(fusion.members),
        "scores": scores,
        "intervals": intervals,
        "seconds": seconds,
    }


def _blend_of(fusion: Fusion[Any]) -> dict[str, float] | None:
    inner = fusion.fusion if isinstance(fusion, CalibratedFusion) else fusion
    return inner.parts() if isinstance(inner, Blend) else None


def _rounded(weights: Mapping[str, float] | None) -> dict[str, float] | None:
    """Weights for people; the fitted fusion keeps them exact."""
    return None if weights is None else {name: round(w, 6) for name, w in weights.items()}
