# SPDX-License-Identifier: Apache-2.0
"""Who carries the fusion: what each member adds to the fused score."""

from typing import Any, ClassVar

from fusetune.evaluate.words import describe_metric
from fusetune.report.contents import Contents
from fusetune.report.section import Section
from fusetune.report.words import MetricWords, score_or_dash

__all__ = ["Contributions"]


class Contributions(Section):
    """Leave-one-out and Shapley contributions, the greatest first."""

    title: ClassVar[str] = "Contributions"
    order: ClassVar[int] = 35

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where they were not computed: one member, or too much to compute."""
        found = contents.contributions
        if found is None:
            return None
        metric = MetricWords(contents.metric)
        by_share = sorted(found.members.items(), key=lambda pair: -pair[1]["shapley"])
        most = max((abs(one["shapley"]) for _, one in by_share), default=0.0)
        return {
            "metric": metric,
            "of": found.of,
            "chosen_name": contents.chosen,
            "title": describe_metric(contents.metric)[0],
            "together": score_or_dash(found.score_all, metric.percent),
            "without": score_or_dash(found.score_none, metric.percent),
            "rows": None if found.rows == contents.rows.get("test") else found.rows,
            "rows_name": contents.rows_name,
            "permutations": found.permutations,
            "members": [
                {
                    "name": name,
                    "shapley": score_or_dash(one["shapley"], metric.percent, sign=True),
                    "error": score_or_dash(one["standard_error"], metric.percent)
                    if found.permutations
                    else "",
                    "alone": score_or_dash(one["leave_one_out"], metric.percent, sign=True),
                    "width": round(100 * abs(one["shapley"]) / (most or 1.0), 1),
                }
                for name, one in by_share
            ],
        }
