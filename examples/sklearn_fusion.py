# SPDX-License-Identifier: Apache-2.0
"""Fuse scikit-learn classifiers, and see whether it was worth it on rows that nothing was fitted on.

Runs in a few seconds: python examples/sklearn_fusion.py
"""

from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fusetune.sklearn import FusionClassifier

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, train_size=500, stratify=y, random_state=0)

members = [
    ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
    ("svm", SVC()),  # has no predict_proba: its decision values are calibrated with the fusion
    ("trees", ExtraTreesClassifier(50, random_state=0)),
    ("bayes", make_pipeline(StandardScaler(), GaussianNB(var_smoothing=1e-2))),
]
fusion = FusionClassifier(members, metric="log_loss").fit(X, y)

print("on rows left out of the fit, log-loss of")
for name, loss in {**fusion.member_scores_, **fusion.cv_scores_}.items():
    print(f"  {name:18} {loss:.3f}")
print("on test rows")
print(f"  errors of auto     {100 * (1 - fusion.score(X_test, y_test)):.1f} %")
print(f"  log-loss of auto   {log_loss(y_test, fusion.predict_proba(X_test)):.3f}")
for name, member in fusion.named_estimators_.items():
    print(f"  errors of {name:8} {100 * (1 - member.score(X_test, y_test)):.1f} %")
