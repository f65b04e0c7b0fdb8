# SPDX-License-Identifier: Apache-2.0
"""Scores, intervals, costs and the verdict; arrays only."""
