# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: how members' weights become one member's."""
