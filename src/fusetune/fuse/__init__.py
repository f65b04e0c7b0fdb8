# SPDX-License-Identifier: Apache-2.0
"""Combining predictions: pure functions of arrays."""
