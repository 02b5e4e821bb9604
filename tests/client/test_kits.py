"""The example kits: files that can be made again, submissions that work by hand, scores that make sense."""

import gzip

import numpy as np
import pytest

from test_files import make_kits
from test_files.kits import DIGITS, KITS
from tests import reference

SUBMISSIONS = [
    pytest.param(kit, submission, id=f"{kit.name}-{submission}") for kit in KITS for submission in kit.submissions
]

BY_KIT = pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.name)

GOOD = {"accuracy": lambda score: 0.85 < score <= 1, "RMSE": lambda score: 30 < score < 70}
"""What a score of a kit may be; the target of the regression has a deviation of 77."""


@pytest.mark.parametrize("name", make_kits.FILES)
def test_the_committed_file_is_what_the_script_makes(name, tmp_path):
    make_kits.main(tmp_path)
    committed, made = (make_kits.HERE / name).read_bytes(), (tmp_path / name).read_bytes()
    if name.endswith(".gz"):
        # The header (no time, no name) and the content: zlib's versions may pack the same content differently.
        assert committed[:10] == made[:10]
        assert committed[4:8] == bytes(4)
        committed, made = gzip.decompress(committed), gzip.decompress(made)
    assert committed == made


def test_making_a_compressed_file_twice_gives_the_same_bytes():
    assert make_kits.digits_csv_gz() == make_kits.digits_csv_gz()


def test_no_data_file_is_without_its_maker():
    data_files = {path.relative_to(make_kits.HERE).as_posix() for kit in KITS for path in kit.data_files}
    assert data_files - {"digits/specific.py"} == set(make_kits.FILES)


@BY_KIT
def test_the_files_are_there(kit):
    assert all(path.is_file() for path in kit.data_files)
    folders = {path.name for path in (kit.folder / "submissions").iterdir()}
    assert folders == set(kit.submissions)
    for submission in kit.submissions:
        names = {path.name for path in kit.submission_files(submission)}
        if not kit.custom:
            assert names == {f"{element}.py" for element in kit.workflow_elements.split(",")}


def test_the_custom_kit_holds_what_the_contract_promises():
    """A compressed companion file, and plain files beside the classifier."""
    assert {path.suffix for path in DIGITS.data_files} == {".gz", ".py"}
    names = {path.name for path in DIGITS.submission_files("trees")}
    assert names == {"classifier.py", "strokes.py", "settings.json"}


@BY_KIT
def test_folds_cut_the_train_set_and_take_turns_in_priority(kit):
    y_train, _ = kit.truth()
    folds = kit.folds(y_train)
    assert [fold.priority for fold in folds] == ["L", "H"] * 5
    for fold in folds:
        assert sorted([*fold.train_is, *fold.test_is]) == list(range(len(y_train)))
    assert len({fold.train_is.tobytes() for fold in folds}) == 10


@BY_KIT
def test_the_truth_leaves_the_kit_untouched(kit):
    before = sorted(path.name for path in kit.folder.iterdir())
    kit.truth()
    assert sorted(path.name for path in kit.folder.iterdir()) == before


@pytest.mark.parametrize(("kit", "submission"), SUBMISSIONS)
def test_a_submission_by_hand(kit, submission):
    y_train, y_test = kit.truth()
    fold = kit.folds(y_train)[0]
    full, test = reference.predict(kit, kit.submission_folder(submission), fold.train_is)
    assert full.dtype == test.dtype == np.float64
    assert (len(full), len(test)) == (len(y_train), len(y_test))
    assert np.isfinite(full).all()
    assert np.isfinite(test).all()
    assert GOOD[kit.score_name](kit.score(y_train[fold.test_is], full[fold.test_is]))
    assert GOOD[kit.score_name](kit.score(y_test, test))
    if kit.score_name == "accuracy":
        np.testing.assert_allclose(full.sum(axis=1), 1)


@pytest.mark.parametrize(("kit", "submission"), SUBMISSIONS)
def test_the_reference_repeats_itself_to_the_bit(kit, submission):
    """Without that, no comparison with datarun would mean anything; and another fold is another model."""
    first, second = kit.folds(kit.truth()[0], 2)
    folder = kit.submission_folder(submission)
    once, again, other = (reference.predict(kit, folder, fold.train_is) for fold in (first, first, second))
    assert [array.tobytes() for array in once] == [array.tobytes() for array in again]
    assert once[1].tobytes() != other[1].tobytes()
