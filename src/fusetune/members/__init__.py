# SPDX-License-Identifier: Apache-2.0
"""Pretrained models from any source."""
