# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: what the numbers mean that a detector's network gives."""
