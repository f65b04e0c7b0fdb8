# SPDX-License-Identifier: Apache-2.0
"""Seam one: kinds of predictions, targets, aligned stacks and their files."""
