"""The four lengths, in deviations from the mean of the training rows."""


class FeatureExtractor:
    def fit(self, X, y):
        self.mean = X.mean()
        self.deviation = X.std()

    def transform(self, X):
        return ((X - self.mean) / self.deviation).to_numpy()
