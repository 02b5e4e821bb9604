"""Submissions to the iris data (workflow `classifier`): an honest one, and ones that go wrong."""

HONEST = """
from sklearn.tree import DecisionTreeClassifier

class Classifier(DecisionTreeClassifier):
    def __init__(self):
        super().__init__(random_state=1)
"""

SLOW = """
import time
from sklearn.tree import DecisionTreeClassifier

class Classifier:
    def __init__(self):
        self.tree, self.calls = DecisionTreeClassifier(random_state=1), 0

    def fit(self, X, y):
        time.sleep({fit})
        self.tree.fit(X, y)

    def predict_proba(self, X):
        time.sleep({predict})
        return self.tree.predict_proba(X)
"""

RAISES = """
import numpy as np

class Classifier:
    def fit(self, X, y):
        helper(X)

    def predict_proba(self, X):
        return np.zeros((len(X), 3))

def helper(X):
    raise ValueError("my own mistake")
"""

DEAF = """
import time

class Classifier:
    def fit(self, X, y):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
"""
