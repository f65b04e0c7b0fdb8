# SPDX-License-Identifier: Apache-2.0
"""Fusion methods of detections."""
