# SPDX-License-Identifier: Apache-2.0
"""Which fusion to use: every candidate is cross-fitted inside the holdout, then blended or picked."""

from fusetune.choose.candidates import AUTO, BEST, BEST_MEMBER, BestMember
from fusetune.choose.choice import Choice, choose, cross_choose

__all__ = ["AUTO", "BEST", "BEST_MEMBER", "BestMember", "Choice", "choose", "cross_choose"]
