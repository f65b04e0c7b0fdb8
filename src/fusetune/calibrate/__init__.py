# SPDX-License-Identifier: Apache-2.0
"""Make probabilities mean what they say; before fusing and after."""
