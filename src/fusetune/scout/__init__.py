# SPDX-License-Identifier: Apache-2.0
"""Choosing pretrained models before any of them is fine-tuned."""
