# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: how a framework fine-tunes and predicts."""
