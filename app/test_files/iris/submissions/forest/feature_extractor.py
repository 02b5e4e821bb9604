"""The four lengths and two areas."""

import numpy as np


class FeatureExtractor:
    def fit(self, X, y):
        return self

    def transform(self, X):
        areas = [X[f"{part} length"] * X[f"{part} width"] for part in ("sepal", "petal")]
        return np.column_stack([X.to_numpy(), *areas])
