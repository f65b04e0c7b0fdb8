# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: what a model is fine-tuned for."""
