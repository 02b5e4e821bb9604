"""Import and run once what most folds use, so that none of them pays for it. Runs in the parent of the zygotes.

scikit-learn, pandas and scipy import much when it is first used: the first frame that scikit-learn meets costs some
twenty modules. It must start no thread: a fork of a process with threads may hang.
"""

import io
import random
import warnings

import numpy as np
import pandas as pd
import scipy.interpolate
import scipy.ndimage
import scipy.optimize
import scipy.signal
import scipy.stats  # noqa: F401  # these five are for folds alone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC


def warm() -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # so little data fits nothing
        _warm()
    random.seed()


def _warm() -> None:
    kinds = ["text", "numbers"] * 20
    frame = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) % 7, "kind": kinds, "y": np.arange(40) % 2})
    frame = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    train, _ = train_test_split(frame, random_state=0)
    X, y, text = train[["a", "b"]], train["y"].to_numpy(), train["kind"].to_numpy()
    rows, _ = next(StratifiedShuffleSplit(n_splits=1, random_state=0).split(X.to_numpy(), y))
    y, text = y[rows], text[rows]
    frames = X.iloc[rows], train.iloc[rows]
    for features in (frames[0], X.to_numpy()[rows]):
        for labels in (y, text):
            for classifier in (RandomForestClassifier(n_estimators=2), LogisticRegression(), GaussianNB()):
                classifier.fit(features, labels).predict_proba(features)
        for regressor in (RandomForestRegressor(n_estimators=2), LinearRegression(), Ridge()):
            regressor.fit(features, y).predict(features)
    array = X.to_numpy()[rows]
    for model in (
        ExtraTreesClassifier(n_estimators=2),
        GradientBoostingClassifier(n_estimators=2),
        HistGradientBoostingClassifier(max_iter=2),
        HistGradientBoostingRegressor(max_iter=2),
        SGDClassifier(max_iter=2),
        SVC(),
        KNeighborsClassifier(),
        MLPClassifier((2,), max_iter=2),
        GaussianProcessRegressor(),
        KMeans(2, n_init=1),
        CalibratedClassifierCV(LinearSVC(), cv=2),
        make_pipeline(StandardScaler(), SelectKBest(k=1), PCA(1), LogisticRegression()),
    ):
        model.fit(array, y).predict(array)
    columns = make_column_transformer((SimpleImputer(), ["a", "b"]), (OneHotEncoder(), ["kind"]))
    probabilities = make_pipeline(columns, LogisticRegression()).fit(frames[1], y).predict_proba(frames[1])[:, 1]
    LogisticRegression().fit(TfidfVectorizer().fit_transform(text), y)
    cross_val_score(LogisticRegression(), array, y, cv=2)
    for metric in (log_loss, roc_auc_score, mean_squared_error):
        metric(y, probabilities)
    accuracy_score(y, probabilities > 0.5)
    frame.groupby("kind").mean()
    pd.get_dummies(frame).describe()
