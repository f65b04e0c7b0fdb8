# SPDX-License-Identifier: Apache-2.0
"""The stages of a run; `pipeline.py` says in which order."""
