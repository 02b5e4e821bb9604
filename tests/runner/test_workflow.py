"""The four workflow elements in one process: the order of the steps, bit for bit, and what counts as predictions."""

import dataclasses
import decimal
import fractions
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from runner import datasets, workflow
from runner.elements import parse_elements
from runner.jobs import STANDARD_FILES
from test_files.kits import DIABETES, IRIS
from tests import reference

FRAME_EXTRACTOR = """
class FeatureExtractor:
    def fit(self, X, y):
        self.mean = X.mean() + y.mean()

    def transform(self, X):
        return (X - self.mean).to_numpy()
"""

STOCHASTIC_REGRESSOR = """
from sklearn.ensemble import RandomForestRegressor


class Regressor(RandomForestRegressor):
    def __init__(self):
        super().__init__(n_estimators=5, random_state=3)
"""


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("classifier", ("classifier",)),
        ("regressor", ("regressor",)),
        (" feature_extractor , regressor ", ("feature_extractor", "regressor")),
        ("classifier,calibrator", ("classifier", "calibrator")),
        ("feature_extractor,classifier,calibrator", ("feature_extractor", "classifier", "calibrator")),
    ],
)
def test_elements_are_read(text, elements):
    assert parse_elements(text) == elements


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown workflow element ''"),
        ("classifier,", "unknown workflow element ''"),
        ("Classifier", "unknown workflow element 'Classifier'"),
        ("classifier calibrator", "unknown workflow element 'classifier calibrator'"),
        ("classifier,classifier", "may stand once"),
        ("feature_extractor", "either a classifier or a regressor"),
        ("classifier,regressor", "either a classifier or a regressor"),
        ("calibrator", "either a classifier or a regressor"),
        ("calibrator,regressor", "a calibrator needs a classifier"),
        ("regressor,feature_extractor", "in this order: feature_extractor, classifier, calibrator, regressor"),
        ("calibrator,classifier", "in this order"),
    ],
)
def test_elements_that_can_not_be_run_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_elements(text)


def _shape(kit, elements, submission, **replaced):
    name = f"{kit.name}-{submission}-{elements}"
    return pytest.param(dataclasses.replace(kit, workflow_elements=elements), submission, replaced, id=name)


@pytest.mark.parametrize(
    ("kit", "submission", "replaced"),
    [
        _shape(IRIS, "classifier", "forest"),
        _shape(IRIS, "feature_extractor,classifier", "forest"),
        _shape(IRIS, "classifier,calibrator", "logistic"),
        _shape(IRIS, "feature_extractor,classifier,calibrator", "logistic"),
        _shape(IRIS, "feature_extractor,classifier,calibrator", "forest"),
        _shape(DIABETES, "regressor", "boosting"),
        _shape(DIABETES, "feature_extractor,regressor", "ridge", feature_extractor=FRAME_EXTRACTOR),
        _shape(
            DIABETES,
            "feature_extractor,regressor",
            "ridge",
            feature_extractor=FRAME_EXTRACTOR,
            regressor=STOCHASTIC_REGRESSOR,
        ),
    ],
)
def test_each_workflow_predicts_as_by_hand(kit, submission, replaced, make_submission, tmp_path, monkeypatch):
    files = {path.stem: path.read_text() for path in kit.submission_files(submission)}
    folder = make_submission(**files | replaced)
    datasets.split_standard(kit.data_files[0], tmp_path, kit.target_column, kit.held_out_test, kit.random_state)
    X, y, X_test, _ = datasets.read_standard(kit.target_column, *(tmp_path / name for name in STANDARD_FILES))
    train_is = np.random.default_rng(1).permutation(len(X))[:80]
    monkeypatch.syspath_prepend(str(folder.parent))

    elements = parse_elements(kit.workflow_elements)
    model = workflow.train(elements, folder.name, X.iloc[train_is], y[train_is])
    got = [workflow.as_predictions(workflow.predict(model, frame), len(frame)) for frame in (X, X_test)]

    for mine, expected in zip(got, reference.predict(kit, folder, train_is), strict=True):
        assert mine.dtype == np.float64
        assert mine.reshape(len(mine), -1).shape == expected.shape
        assert mine.tobytes() == expected.tobytes()


TRAPS = {
    "a length of 0": "def __len__(self): return 0",
    "no truth value": "def __bool__(self): raise ValueError('ambiguous')",
    "equal to all": "def __eq__(self, other): return True",
}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_an_element_need_not_be_true(trap, make_submission, monkeypatch):
    """A scikit-learn ensemble has the length of its list of estimators; an unfitted pipeline none."""
    folder = make_submission(
        feature_extractor=f"""
import numpy as np
class FeatureExtractor:
    {trap}
    def fit(self, X, y): pass
    def transform(self, X): return 10 * np.array(X)
""",
        classifier=f"""
class Classifier:
    {trap}
    def fit(self, X, y): pass
    def predict_proba(self, X): return X + 1
""",
        calibrator=f"""
class Calibrator:
    {trap}
    def fit(self, probabilities, y): pass
    def predict_proba(self, probabilities): return probabilities + 5
""",
        regressor=f"""
class Regressor:
    {trap}
    def fit(self, X, y): pass
    def predict(self, X): return X[:, 0]
""",
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    X, y = pd.DataFrame({"a": np.arange(20.0)}), np.arange(20) % 2

    model = workflow.train(("feature_extractor", "classifier", "calibrator"), folder.name, X, y)
    assert workflow.predict(model, X)[:, 0].tolist() == [10 * a + 6 for a in range(20)]
    model = workflow.train(("feature_extractor", "regressor"), folder.name, X, y)
    assert workflow.predict(model, X).tolist() == [10 * a for a in range(20)]
    assert {name for name in sys.modules if name.startswith(f"{folder.name}.")} == {
        f"{folder.name}.{name}" for name in ("feature_extractor", "classifier", "calibrator", "regressor")
    }


CALIBRATED = ("feature_extractor", "classifier", "calibrator")

EXTRACTOR = """
import numpy as np
import pandas as pd
from scipy import sparse


class FeatureExtractor:
    def fit(self, X, y):
        pass

    def transform(self, X):
        A = X.to_numpy()
        return {}
"""

CLASSIFIER = """
from sklearn.linear_model import LogisticRegression


class Classifier(LogisticRegression):
    pass
"""

CALIBRATOR = """
from sklearn.isotonic import IsotonicRegression


class Calibrator:
    def fit(self, probabilities, y):
        self.model = IsotonicRegression(out_of_bounds="clip").fit(probabilities[:, 1], y)

    def predict_proba(self, probabilities):
        return self.model.predict(probabilities[:, 1])
"""


@pytest.mark.parametrize(
    "features",
    [
        "X",
        "X.set_index(A[:, 0] + 1000)",
        "X.to_numpy().tolist()",
        "tuple(map(tuple, A))",
        *(f"sparse.{kind}_matrix(A)" for kind in ("coo", "csr", "csc", "lil", "dok", "bsr", "dia")),
        *(f"sparse.{kind}_array(A)" for kind in ("coo", "csr", "csc", "lil", "dok", "bsr", "dia")),
    ],
)
def test_a_calibrator_takes_the_rows_of_whatever_holds_the_features(features, make_submission, monkeypatch):
    """By their position; the result is that of an array with the same numbers."""
    rng = np.random.default_rng(5)
    X = pd.DataFrame(rng.integers(0, 3, size=(80, 3)), columns=list("abc"), index=rng.permutation(80)).astype(float)
    y = (X["a"] + rng.normal(size=80) > 1).to_numpy()

    def predictions(holder):
        folder = make_submission(
            feature_extractor=EXTRACTOR.format(holder), classifier=CLASSIFIER, calibrator=CALIBRATOR
        )
        monkeypatch.syspath_prepend(str(folder.parent))
        return workflow.predict(workflow.train(CALIBRATED, folder.name, X, y), X)

    np.testing.assert_allclose(predictions(features), predictions("A"), rtol=1e-9)


@pytest.mark.parametrize(
    ("features", "returned"),
    [
        ("A[1:]", "79 rows"),
        ("A[1:].tolist()", "79 rows"),
        ("sparse.csr_matrix(A[1:])", "79 rows"),
        ("X.drop(index=X.index[0])", "79 rows"),
        ("None", "None"),
        ("dict(A=A)", "an object of type dict"),
        ("(row for row in A)", "an object of type generator"),
    ],
)
def test_a_calibrator_s_features_have_a_row_for_each(features, returned, make_submission, monkeypatch):
    folder = make_submission(feature_extractor=EXTRACTOR.format(features), classifier=CLASSIFIER, calibrator=CALIBRATOR)
    monkeypatch.syspath_prepend(str(folder.parent))
    says = f"transform in feature_extractor.py returned {returned} for 80 rows. With a calibrator"
    with pytest.raises(workflow.SubmissionError, match=says):
        workflow.train(CALIBRATED, folder.name, pd.DataFrame({"a": np.arange(80.0)}), np.arange(80) % 2)


def test_a_calibrator_takes_the_rows_of_a_list_of_texts(make_submission, monkeypatch):
    folder = make_submission(
        feature_extractor=EXTRACTOR.format("[f'word{a:.0f} and more' for a in A[:, 0]]"),
        classifier="""
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def Classifier():
    return make_pipeline(TfidfVectorizer(), LogisticRegression())
""",
        calibrator=CALIBRATOR,
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    X, y = pd.DataFrame({"a": np.arange(60.0) % 2}), np.arange(60) % 2
    predicted = workflow.predict(workflow.train(CALIBRATED, folder.name, X, y), X)
    assert (predicted.round() == y).all()


LACKING = {
    "no class of that name": ("x = 1", "{file} defines no class {name}: the workflow needs the class {name} there"),
    "another case": ("class {lower}: pass\ndef f(): pass", "defines no class {name}: .* The file defines {lower}, f"),
    "an imported class": ("from collections import OrderedDict", "defines no class {name}: [^.]*\\.$"),
    "no class but a number": ("{name} = 5", "{name} in {file} is no class, but an object of type int"),
    "no methods": ("class {name}: pass", "the class {name} in {file} has no method fit: it needs fit"),
}


@pytest.mark.parametrize("element", ["feature_extractor", "classifier", "calibrator", "regressor"])
@pytest.mark.parametrize(("code", "says"), LACKING.values(), ids=LACKING)
def test_it_says_what_an_element_lacks(element, code, says, make_submission, monkeypatch):
    name = "".join(word.title() for word in element.split("_"))
    names = {"name": name, "file": f"{element}.py", "lower": element}
    right = {"feature_extractor": EXTRACTOR.format("A"), "classifier": CLASSIFIER, "calibrator": CALIBRATOR}
    folder = make_submission(**right | {element: code.format(**names)})
    monkeypatch.syspath_prepend(str(folder.parent))
    X, y = pd.DataFrame({"a": np.arange(40.0)}), np.arange(40) % 2
    with pytest.raises(workflow.SubmissionError, match=says.format(**names)):
        workflow.train(("regressor",) if element == "regressor" else CALIBRATED, folder.name, X, y)


def test_it_says_which_file_is_not_there(make_submission, monkeypatch):
    folder = make_submission(helper="class Classifier: pass")
    monkeypatch.syspath_prepend(str(folder.parent))
    with pytest.raises(workflow.SubmissionError, match=r"the submission has no file classifier\.py"):
        workflow.train(("classifier",), folder.name, pd.DataFrame({"a": [1]}), np.array([1]))


@pytest.mark.parametrize("element", ["classifier", "regressor"])
def test_it_says_which_method_is_missing_when_it_predicts(element, make_submission, monkeypatch):
    name, method = element.title(), {"classifier": "predict_proba", "regressor": "predict"}[element]
    folder = make_submission(**{element: f"class {name}:\n    def fit(self, X, y): pass\n"})
    monkeypatch.syspath_prepend(str(folder.parent))
    X = pd.DataFrame({"a": [1, 2]})
    model = workflow.train((element,), folder.name, X, np.array([1, 2]))
    with pytest.raises(workflow.SubmissionError, match=rf"the class {name} in {element}\.py has no method {method}:"):
        workflow.predict(model, X)


def test_a_method_that_training_makes_is_used(make_submission, monkeypatch):
    """And one that the class has, but that the model refuses, says why itself."""
    folder = make_submission(
        classifier="""
class Classifier:
    def fit(self, X, y):
        self.predict_proba = lambda X: X * 2
""",
        regressor="""
class Regressor:
    def fit(self, X, y): pass
    @property
    def predict(self): raise AttributeError("not for this loss")
""",
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    X = pd.DataFrame({"a": [1, 2]})
    assert workflow.predict(workflow.train(("classifier",), folder.name, X, X), X).tolist() == [[2], [4]]
    with pytest.raises(AttributeError, match="not for this loss"):
        workflow.predict(workflow.train(("regressor",), folder.name, X, X), X)


def test_only_the_elements_of_the_workflow_are_imported(make_submission, monkeypatch):
    folder = make_submission(
        regressor="class Regressor:\n def fit(self, X, y): pass\n def predict(self, X): return X[:, 0]",
        classifier="raise RuntimeError('not asked for')",
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    X = pd.DataFrame({"a": [1.0, 2.0]})
    model = workflow.train(("regressor",), folder.name, X, np.array([0, 1]))
    assert workflow.predict(model, X).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "raw",
    [
        np.arange(6.0).reshape(3, 2),
        np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        np.arange(12.0).reshape(3, 4)[:, ::2],
        np.arange(6, dtype=np.float32).reshape(3, 2),
        np.arange(6, dtype=">f8").reshape(3, 2),
        np.arange(6).reshape(3, 2).astype(object),
        [[0, 1], [2, 3], [4, 5]],
        pd.DataFrame({"no": [0, 2, 4], "yes": [1, 3, 5]}),
    ],
    ids=["float64", "Fortran order", "a view", "float32", "big-endian", "objects", "a list", "a frame"],
)
def test_predictions_become_float64_in_c_order(raw):
    predictions = workflow.as_predictions(raw, 3)
    assert predictions.dtype == np.dtype("<f8")
    assert predictions.flags.c_contiguous
    assert predictions.shape == np.shape(raw)
    assert np.array_equal(predictions, np.asarray(raw, dtype=float))


def test_one_output_may_be_flat():
    assert workflow.as_predictions(pd.Series([1, 2, 3]), 3).tolist() == [1.0, 2.0, 3.0]
    assert workflow.as_predictions([[1], [2], [3]], 3).shape == (3, 1)


def test_not_a_number_is_a_prediction():
    assert np.isnan(workflow.as_predictions([0.5, float("nan"), None], 3)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (np.zeros((4, 2)), 4),
        (np.zeros((2, 3)), 2),
        (np.zeros((0, 3)), 0),
        ([], 0),
        (0.5, 0),
        (np.float64(0.5), 0),
        (None, 0),
        (np.zeros((1, 3)), 1),
    ],
)
def test_a_wrong_number_of_rows_says_both_numbers(raw, rows):
    with pytest.raises(workflow.PredictionError, match=rf"\b3 rows .* {rows} rows"):
        workflow.as_predictions(raw, 3)


@pytest.mark.parametrize(
    "raw",
    [
        [None, 1, 0.5],
        [pd.NA, 1, 0.5],
        [pd.NaT, 1, 0.5],
        np.ma.masked_array([7, 1, 0.5], [True, False, False]),
        pd.Series([None, 1, 0.5], dtype="Float64"),
        pd.Series([None, 1, 0.5], dtype=object, index=[3, 1, 2]),
        [None, decimal.Decimal(1), fractions.Fraction(1, 2)],
    ],
    ids=["None", "pandas.NA", "NaT", "masked", "nullable series", "objects", "decimals"],
)
def test_a_missing_value_is_not_a_number(raw):
    predictions = workflow.as_predictions(raw, 3)
    assert np.isnan(predictions[0])
    assert predictions[1:].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("kind", ["csr_matrix", "coo_array", "dok_matrix"])
def test_a_sparse_matrix_is_told_apart(kind):
    with pytest.raises(workflow.PredictionError, match=r"a sparse matrix: return predictions\.toarray\(\)"):
        workflow.as_predictions(getattr(sparse, kind)(np.eye(3)), 3)


@pytest.mark.parametrize("columns", [(0,), (2, 0), (0, 2)])
def test_predictions_of_no_columns_are_refused(columns):
    with pytest.raises(workflow.PredictionError, match="the predictions have 0 columns"):
        workflow.as_predictions(np.zeros((3, *columns)), 3)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([10**400] * 3, "int too large to convert to float"),
        ([[1], [2, 3], [4]], "its rows differ in length"),
        (["yes", "no", "yes"], "could not convert string to float: 'yes'"),
        (pd.Series(["yes", "no", "yes"]), "could not convert string to float: 'yes'"),
        (np.array(["2020-01-01"] * 3, dtype="datetime64[D]"), "they are dates"),
        (pd.to_datetime(["2020-01-01"] * 3), "they are dates"),
        (np.array([1, 2, 3], dtype="timedelta64[s]"), "they are time differences"),
        (np.array([1j, 2j, 3j]), "they are complex"),
        ((number for number in range(3)), "the submission returned an object of type generator"),
        (zip(range(3), range(3), strict=True), "an object of type zip"),
        ({"a": 1}, "an object of type dict"),
        ("abc", "an object of type str"),
    ],
)
def test_what_is_no_array_of_numbers_says_what_it_is(raw, says):
    with pytest.raises(workflow.PredictionError, match=f"the predictions are not an array of numbers: .*{says}"):
        workflow.as_predictions(raw, 3)


@pytest.mark.parametrize(
    "raw",
    [
        ["a", "b", "c"],
        "abc",
        [[1], [2, 3], [4]],
        {"a": 1},
        object(),
        [object()] * 3,
        np.array([1j, 2j, 3j]),
        [1j, 2, 3],
        len,
    ],
)
def test_what_is_no_array_of_numbers_is_refused(raw):
    with pytest.raises(workflow.PredictionError, match="not an array of numbers"):
        workflow.as_predictions(raw, 3)
