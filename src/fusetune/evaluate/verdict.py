# SPDX-License-Identifier: Apache-2.0
"""Was fusing worth it? One rule, one sentence."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from fusetune.errors import InvalidValue
from fusetune.evaluate.compare import Interval
from fusetune.evaluate.words import describe_metric, format_score

__all__ = [
    "Comparison",
    "Decision",
    "Judged",
    "Verdict",
    "VerdictRule",
    "decide",
]

Decision = Literal["worth_it", "not_shown", "not_worth_it"]
Judged = Literal["test", "cross_fitted", "in_sample"]


@dataclass(frozen=True, kw_only=True)
class VerdictRule:
    """What the user calls worth it.

    Args:
        min_gain: The gain must be more than this, in the metric's units; 0: any gain counts.
        max_cost_ratio: The chosen predictor may cost at most this many times the best member's
            seconds per row; None: no limit.
    """

    min_gain: float = 0.0
    max_cost_ratio: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_gain < math.inf:
            raise InvalidValue(
                f"min_gain is {self.min_gain}",
                "a number of at least 0, in the metric's units (0.01 is one point of accuracy)",
                "Leave it out if any gain counts.",
            )
        if self.max_cost_ratio is not None and not 0 < self.max_cost_ratio < math.inf:
            raise InvalidValue(
                f"max_cost_ratio is {self.max_cost_ratio}",
                "a number above 0: how many times the best member's seconds per row",
                "Leave it out for no limit.",
            )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Who is compared, and by what.

    Args:
        metric: Name of the metric.
        chosen: Name of the chosen predictor: a fusion, or a member.
        best_member: Name of the member that looked best on the **holdout**.
        judged: On which rows: `test` rows that fitted nothing; `cross_fitted`: every row, by
            fusions that were not fitted on it; `in_sample`: the rows that fitted the fusion.
    """

    metric: str
    chosen: str
    best_member: str
    judged: Judged = "test"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision with everything that led to it.

    Args:
        decision: `worth_it`, `not_shown` or `not_worth_it`.
        gain: Of the chosen predictor over the best member on test; positive is better.
        interval: Its ends.
        level: Coverage of the interval.
        p_value: Mid-p McNemar test where the metric is accuracy, else a permutation test.
        cost_ratio: Seconds per row of the chosen over the best member's; None if not known.
        rule: What the user calls worth it.
        compared: Who is compared, and by what.
    """

    decision: Decision
    gain: float
    interval: tuple[float, float]
    level: float
    p_value: float
    cost_ratio: float | None
    rule: VerdictRule
    compared: Comparison

    def as_results(self) -> dict[str, Any]:
        """The entry `verdict` of results.json."""
        entry = {name: value for name, value in vars(self).items() if name != "compared"}
        return entry | {"interval": list(self.interval), "rule": asdict(self.rule)}

    @classmethod
    def from_results(cls, results: dict[str, Any]) -> Self:
        """Read it back from the whole of results.json; a rule that is absent is the default."""
        entry = results["verdict"]
        compared = {name: results[name] for name in ("metric", "chosen", "best_member")}
        read = {name: value for name, value in entry.items() if name in cls.__dataclass_fields__}
        compared["judged"] = results.get("judged", "test")
        return cls(
            **read
            | {
                "interval": (entry["interval"][0], entry["interval"][1]),
                "rule": VerdictRule(**entry.get("rule", {})),
                "compared": Comparison(**compared),
            }
        )

    @property
    def headline(self) -> str:
        """The decision in two or three words."""
        return {
            "worth_it": "Worth it",
            "not_shown": "Not shown to be worth it",
            "not_worth_it": "Not worth it",
        }[self.decision]

    def sentence(self) -> str:
        """One plain sentence with the gain, its interval and, always, the cost."""
        best, chosen = self.compared.best_member, self.compared.chosen
        on_holdout = "member that looked best on the holdout"
        looked = on_holdout if self.compared.judged == "test" else "best member"
        if chosen == best:
            return (
                f"{self.headline}: the choice fell on {best} itself, the {looked}, "
                "so fusing adds neither score nor cost."
            )
        title, percent = describe_metric(self.compared.metric)
        by = f"by {format_score(abs(self.gain), percent)} {'points ' * percent}of {title}"
        best = f"{best}, the {looked},"
        if float(format_score(abs(self.gain), percent)) == 0:
            outcome = f"{chosen} and {best} tie in {title}"
        elif self.gain > 0:
            outcome = f"{chosen} beats {best} {by}"
        else:
            outcome = f"{chosen} falls short of {best} {by}"
        low, high = (format_score(end, percent, sign="+") for end in self.interval)
        within = f"{100 * self.level:g}\u202f% interval {low} to {high}"
        if self.compared.judged == "in_sample":
            within += "; in-sample: the same rows fitted the fusion, which proves nothing"
        if self.rule.min_gain:
            within += f"; asked for: above {format_score(self.rule.min_gain, percent, sign='+')}"
        return f"{self.headline}: {outcome} ({within}), {self._cost()}."

    def _cost(self) -> str:
        limit = self.rule.max_cost_ratio
        if self.cost_ratio is None:
            unknown = "at a cost per row that is not known"
            return unknown if limit is None else f"{unknown}, so the limit was not applied"
        cost = f"at {self.cost_ratio:.2g} times the cost per row"
        if limit is None:
            return cost
        return f"{cost} ({'above' if self.cost_ratio > limit else 'within'} the limit of {limit:g})"


def decide(
    gain: Interval,
    *,
    p_value: float,
    cost_ratio: float | None,
    compared: Comparison,
    rule: VerdictRule | None = None,
) -> Verdict:
    """Apply the rule: an interval wholly above `min_gain` is worth it, one wholly below it is not.

    Rows that fitted the fusion show nothing: judged in-sample, the decision is `not_shown`. Else
    `worth_it` if the interval's lower end is above `min_gain`; `not_worth_it` if its upper end is
    at most `min_gain`, or the cost ratio is above the user's `max_cost_ratio`, whatever the gain;
    else `not_shown`. If the chosen predictor is the best member itself, its gain is 0 by
    definition, with the interval [0, 0]: not worth it. A cost that is not known breaks no limit.

    Args:
        gain: On test, in the metric's units; see `bootstrap_gain`.
        p_value: Shown beside it; decides nothing, for the interval already holds the test (see
            `bootstrap_gain`).
        cost_ratio: From `cost_ratio`.
        compared: Who is compared, and by what.
        rule: What the user calls worth it; None: any gain, at any cost.
    """
    rule = rule or VerdictRule()
    if compared.chosen == compared.best_member:
        gain, p_value = Interval(0.0, 0.0, 0.0, gain.level), 1.0
    limit = math.inf if rule.max_cost_ratio is None else rule.max_cost_ratio
    too_dear = cost_ratio is not None and cost_ratio > limit
    decision: Decision = "not_shown"
    if too_dear or gain.high <= rule.min_gain:
        decision = "not_worth_it"
    elif gain.low > rule.min_gain:
        decision = "worth_it"
    if compared.judged == "in_sample" and compared.chosen != compared.best_member:
        decision = "not_shown"
    return Verdict(
        decision=decision,
        gain=gain.value,
        interval=(gain.low, gain.high),
        level=gain.level,
        p_value=p_value,
        cost_ratio=cost_ratio,
        rule=rule,
        compared=compared,
    )
