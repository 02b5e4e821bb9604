"""A logistic regression on the logarithms of the probabilities."""

import numpy as np
from sklearn.linear_model import LogisticRegression


class Calibrator:
    def __init__(self):
        self.model = LogisticRegression(C=1.0, max_iter=500, random_state=57)

    def fit(self, probabilities, y):
        self.model.fit(self._logarithms(probabilities), y)

    def predict_proba(self, probabilities):
        return self.model.predict_proba(self._logarithms(probabilities))

    def _logarithms(self, probabilities):
        return np.log(np.clip(probabilities, 1e-6, 1))
