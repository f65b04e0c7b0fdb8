# SPDX-License-Identifier: Apache-2.0
"""Where step functions run."""
