"""Random trees on pixels and on what the helper sees in them; their number and size are in settings.json."""

import json
from pathlib import Path

from sklearn.ensemble import ExtraTreesClassifier

from .strokes import features


class Classifier:
    def __init__(self):
        settings = json.loads(Path(__file__).with_name("settings.json").read_text())
        self.trees = ExtraTreesClassifier(random_state=57, **settings)

    def fit(self, X, y):
        self.trees.fit(features(X), y)

    def predict_proba(self, X):
        return self.trees.predict_proba(features(X))
