# SPDX-License-Identifier: Apache-2.0
"""Estimators that fuse scikit-learn estimators, for pipelines and grid searches.

FusionClassifier    one class per row, or several labels
FusionRegressor     one number per row, or several
"""

from fusetune.sklearn.estimators import FusionClassifier, FusionRegressor

__all__ = ["FusionClassifier", "FusionRegressor"]
