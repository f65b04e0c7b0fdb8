# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: fusion methods, sorted by the kinds they accept."""
