# SPDX-License-Identifier: Apache-2.0
"""Where artifacts lie and when they become visible."""
