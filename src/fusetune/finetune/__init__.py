# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: an engine per framework, an objective per form of target."""
