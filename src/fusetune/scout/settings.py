# SPDX-License-Identifier: Apache-2.0
"""How candidates are scouted: the recipe's `scout:` block, but for the candidates themselves."""

from dataclasses import dataclass

from fusetune.errors import InvalidValue

__all__ = ["ScoutSettings"]


@dataclass(frozen=True, kw_only=True)
class ScoutSettings:
    """What is looked at, and how many candidates are proposed.

    Args:
        most: Candidates to propose at most; 3, as strategies of this kind are usually run.
        rows: Train rows to look at, and as many holdout rows, of each class in proportion.
            Ibrahim et al. 2022 find scores settled at some hundreds to thousands of rows.
        cost_penalty: What a candidate of mean cost (seconds per row) has to gain, in log-loss; 0:
            cost does not matter.
    """

    most: int = 3
    rows: int = 2000
    cost_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("most", 1), ("rows", 10), ("cost_penalty", 0)):
            given = getattr(self, name)
            if not given >= least:
                raise InvalidValue(
                    f"scout.{name} is {given}",
                    f"a number of at least {least}",
                    "Change it, or leave it out for the default.",
                )
