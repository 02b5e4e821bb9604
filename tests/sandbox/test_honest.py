"""What a fold and a split are for."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from runner.jobs import DataSet, FoldJob, Reason, SplitJob
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import HONEST, SLOWNESS, SPECIFIC, Bench, flowers, reference


def test_it_works(bench: Bench) -> None:
    outcome = bench.run(HONEST)
    assert outcome.failure is None and outcome.state == "TESTED"
    assert bench.stages == ["train", "validation", "test"]
    times = {"train_time", "validation_time", "test_time", "train_cpu_time", "test_cpu_time"}
    assert set(outcome.measures) == times | {"train_memory", "test_memory"}
    assert 0 < outcome.measures["train_cpu_time"] < 2 * SLOWNESS
    assert 1_000 < outcome.measures["train_memory"] < 100_000
    bench.check_honest()


def test_it_works_with_custom_data(executor: Executor, custom: DataSet, tmp_path: Path) -> None:
    bench = Bench(executor, custom, tmp_path)
    bench.check_honest()
    assert "No module named 'nothing_of_that_name'" in bench.run("import nothing_of_that_name").failure.message


@pytest.mark.parametrize("target", ["species", "sepal length (cm)"])
def test_it_predicts_bit_for_bit_what_one_process_predicts(
    executor: Executor, folder: Path, tmp_path: Path, target: str
) -> None:
    """With a feature extractor over a frame of numbers and text, a calibrator, and missing values."""
    raw = tmp_path / "raw"
    raw.mkdir()
    frame = flowers()
    frame["colour"] = ["blue", "wh\u00efte", None] * 50
    frame.loc[frame.index[::7], "petal width (cm)"] = np.nan
    frame["count"] = np.arange(150)
    frame.to_csv(raw / "mixed.csv", index=False)
    assert executor.run_split(SplitJob(raw, tmp_path / "v", "mixed", target, False, 0.2, 1)).failure is None
    elements = (
        ("feature_extractor", "classifier", "calibrator") if target == "species" else ("feature_extractor", "regressor")
    )
    files = {
        "feature_extractor": """
import numpy as np
class FeatureExtractor:
    def fit(self, X, y): self.mean = X["petal width (cm)"].mean()
    def transform(self, X):
        width = X["petal width (cm)"].fillna(self.mean)
        return np.column_stack([X["petal length (cm)"], width, X["count"], X["colour"].fillna("").map(len)])
""",
        "classifier": HONEST,
        "calibrator": """
from sklearn.linear_model import LogisticRegression
class Calibrator:
    def fit(self, X, y): self.m = LogisticRegression().fit(X, y)
    def predict_proba(self, X): return self.m.predict_proba(X)
""",
        "regressor": """
from sklearn.linear_model import Ridge
class Regressor:
    def fit(self, X, y): self.m = Ridge().fit(X, y)
    def predict(self, X): return self.m.predict(X)
""",
    }
    data = DataSet(tmp_path / "v", target, elements, custom=False)
    bench = Bench(executor, data, tmp_path)
    code = files.pop("classifier")
    train_is = np.random.default_rng(0).permutation(120)[:70]
    outcome = executor.run_fold(FoldJob(data, bench.submit(code, **files), train_is), lambda *_: None)
    assert outcome.failure is None, outcome.failure
    full, test = reference(data, bench.submit(code, **files), train_is)
    assert outcome.full_train_predictions.tobytes() == full.tobytes()
    assert outcome.test_predictions.tobytes() == test.tobytes()


def test_it_splits_as_scikit_learn_does(executor: Executor, standard: DataSet, folder: Path) -> None:
    import pandas as pd
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(pd.read_csv(folder / "raw/flowers.csv"), test_size=0.3, random_state=42)
    assert (standard.folder / "train.csv").read_text() == train.to_csv(index=False)
    assert (standard.folder / "test.csv").read_text() == test.to_csv(index=False)
    assert (standard.folder / "flowers.csv").read_bytes() == (folder / "raw/flowers.csv").read_bytes()


def test_it_gives_the_submission_its_own_frames_alone(bench: Bench) -> None:
    outcome = bench.run(
        "class Classifier:\n    def fit(self, X, y):\n        self.go()\n    def go(self):\n        raise ValueError('no')\n"
    )
    assert outcome.failure.reason is Reason.USER_CODE and outcome.failure.stage == "train"
    assert outcome.failure.log == (
        "ERROR(train): Traceback (most recent call last):\n"
        '  File "classifier.py", line 3, in fit\n    self.go()\n'
        "  File \"classifier.py\", line 5, in go\n    raise ValueError('no')\n"
        "ValueError: no"
    )


def test_it_reports_a_syntax_error_by_line(bench: Bench) -> None:
    outcome = bench.run("class Classifier:\n    def fit(self X):\n        pass\n")
    assert 'File "classifier.py", line 2' in outcome.failure.message
    assert "/submission" not in outcome.failure.message


def test_it_says_both_numbers_of_a_wrong_row_count(bench: Bench) -> None:
    outcome = bench.run(HONEST.replace("predict_proba(X)\n", "predict_proba(X)[:7]\n"))
    assert (outcome.state, outcome.failure.stage) == ("TRAINED", "validation")
    assert outcome.failure.message == "105 rows were to be predicted, but the prediction has 7 rows"


def test_it_notes_predictions_that_are_not_a_number(bench: Bench) -> None:
    code = HONEST.replace(
        "return self.model.predict_proba(X)", "p = self.model.predict_proba(X); p[:12, 0] = float('nan'); return p"
    )
    outcome = bench.run(code)
    assert outcome.failure is None
    assert "validation: 12 of 105 predictions are not a number" in outcome.notes
    assert "test: 12 of 45 predictions are not a number" in outcome.notes


def test_it_keeps_what_the_code_printed(bench: Bench) -> None:
    assert bench.fit("print('one'); import os; os.write(2, b'two')").output == "one\ntwo"


def test_it_gives_each_fold_other_random_numbers(bench: Bench) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    first, second = bench.fit(code).output.split(), bench.fit(code).output.split()
    assert first[0] != second[0] and first[1] != second[1]


def test_it_imports_helpers_of_the_submission(bench: Bench) -> None:
    outcome = bench.run("from . import helper\nfrom .helper import Classifier\n", helper=HONEST)
    assert outcome.failure is None, outcome.failure


def test_loky_works(bench: Bench) -> None:
    outcome = bench.fit(
        "from joblib import Parallel, delayed\nprint(sum(Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))))"
    )
    assert outcome.failure is None, outcome.failure
    assert outcome.output.endswith("6\n")


# Data sets that are wrong


def split_of(executor: Executor, tmp_path: Path, custom: bool, **files: str):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, text in files.items():
        (raw / name.replace("_", ".")).write_text(text)
    return executor.run_split(SplitJob(raw, tmp_path / "v", "d", "y", custom, 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "d.csv is not a CSV file"),
        ("a,b\n1,2\n3,4\n", "no target column 'y' among the columns 'a', 'b'"),
        ("a,y\n1,2\n", "d.csv with 1 rows can't be split"),
    ],
)
def test_it_rejects_a_raw_file(executor: Executor, tmp_path: Path, text: str, message: str) -> None:
    outcome = split_of(executor, tmp_path, False, d_csv=text)
    assert outcome.failure.reason is Reason.DATA and outcome.failure.stage == "split"
    assert outcome.failure.message.startswith(message)
    assert not (tmp_path / "v").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_it_rejects_a_specific_that_raises(executor: Executor, tmp_path: Path) -> None:
    outcome = split_of(executor, tmp_path, True, specific_py="def prepare_data(path):\n    raise KeyError('gone')\n")
    assert outcome.failure.reason is Reason.DATA
    assert 'File "specific.py", line 2, in prepare_data' in outcome.failure.message


def test_it_rejects_a_specific_that_does_not_import(executor: Executor, tmp_path: Path) -> None:
    outcome = split_of(executor, tmp_path, True, specific_py="import numpy\n1 / 0\n")
    assert outcome.failure.reason is Reason.DATA
    assert 'File "specific.py", line 2' in outcome.failure.message


def test_it_rejects_a_specific_that_ends_its_process(executor: Executor, tmp_path: Path) -> None:
    outcome = split_of(executor, tmp_path, True, specific_py="import os\nos._exit(0)\n")
    assert outcome.failure.reason is Reason.DATA and "specific.py ends or blocks" in outcome.failure.message


def test_a_split_leaves_plain_files_alone(executor: Executor, tmp_path: Path) -> None:
    code = "import os\n" + SPECIFIC.replace(
        "def prepare_data(raw_data_path):\n",
        "def prepare_data(raw_data_path):\n    os.symlink('/etc/shadow', raw_data_path + '/link')\n"
        "    os.mkdir(raw_data_path + '/more', 0o700)\n"
        "    open(raw_data_path + '/more/file', 'w').close()\n",
    )
    outcome = split_of(executor, tmp_path, True, specific_py=code, flowers_csv=flowers().to_csv(index=False))
    assert outcome.failure is None, outcome.failure
    names = sorted(str(path.relative_to(tmp_path / "v")) for path in (tmp_path / "v").rglob("*"))
    assert names == ["flowers.csv", "hidden.csv", "more", "more/file", "public.csv", "specific.py"]
    assert all(path.stat().st_uid == os.geteuid() for path in (tmp_path / "v").rglob("*"))


SMALL = "x,y\n" + "1,2\n" * 10


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_a_split_is_for_the_group_where_the_runner_s_files_are(
    executor: Executor, tmp_path: Path, umask: Callable[[int], int]
) -> None:
    """The master, another user of that group, removes it."""
    umask(0o007)
    assert split_of(executor, tmp_path, False, d_csv=SMALL).failure is None
    for path in (tmp_path / "v", *(tmp_path / "v").iterdir()):
        assert path.stat().st_mode & 0o777 == (0o770 if path.is_dir() else 0o660)


def test_a_split_is_made_where_all_is_shown_as_another_user_s(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: Callable[[int], int]
) -> None:
    """As on a share by sshfs: the group has all rights, but to change modes."""

    def refused(path: object, *_: object, **__: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "chmod", refused)
    assert split_of(executor, tmp_path, False, d_csv=SMALL).failure is None
    assert {path.name for path in tmp_path.iterdir()} >= {"raw", "v"}
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("rows", [[0, 105], [-1], []])
def test_it_rejects_rows_outside_of_the_train_set(bench: Bench, rows: list[int]) -> None:
    job = FoldJob(bench.data, bench.submit(HONEST), np.array(rows, dtype=np.int64))
    outcome = bench.executor.run_fold(job, lambda *_: None)
    assert outcome.failure.reason is Reason.DATA and outcome.failure.stage == "split"
    assert ("rows 0 to 104" if rows else "105 rows") in outcome.failure.message


@pytest.mark.parametrize("custom", [False, True])
def test_it_rejects_a_data_set_that_is_gone(bench: Bench, tmp_path: Path, custom: bool) -> None:
    job = FoldJob(DataSet(tmp_path / "none", "y", ("classifier",), custom), bench.submit(HONEST), np.arange(3))
    assert bench.executor.run_fold(job, lambda *_: None).failure.reason is Reason.DATA


def test_a_split_anew_is_never_served_stale(
    executor: Executor, folder: Path, standard: DataSet, tmp_path: Path
) -> None:
    assert executor.run_split(SplitJob(folder / "raw", folder / "v2", "flowers", "species", False, 0.5, 7)).rows == (
        75,
        75,
    )
    Bench(executor, standard, tmp_path).check_honest()
    Bench(executor, DataSet(folder / "v2", "species", ("classifier",), False), tmp_path).check_honest()
