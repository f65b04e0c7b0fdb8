# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: where labelled rows come from."""
