"""Standard data sets: the split by hand, and what is said of a file that can't be used."""

import io

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from runner import datasets
from runner.datasets import DataError
from test_files.kits import DIABETES, IRIS


def _write(tmp_path, text, name="birds.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(("ratio", "random_state"), [(0.2, 42), (0.5, 0), (0.37, 57)])
@pytest.mark.parametrize("kit", [IRIS, DIABETES], ids=lambda kit: kit.name)
def test_a_split_is_train_test_split_by_hand(kit, ratio, random_state, tmp_path):
    [csv] = kit.data_files
    rows = datasets.split_standard(csv, tmp_path, kit.target_column, ratio, random_state)

    by_hand = train_test_split(pd.read_csv(csv), test_size=ratio, random_state=random_state)
    assert rows == tuple(map(len, by_hand))
    for name, frame in zip(("train", "test"), by_hand, strict=True):
        assert (tmp_path / f"{name}.csv").read_text() == frame.to_csv(index=False)


def test_all_columns_and_the_header_survive_a_split(tmp_path):
    text = 'label, wing span ,"note, free"\n' + "".join(f'{row % 2},{row}.5,"a, ""b"" {row}"\n' for row in range(10))
    csv = _write(tmp_path, text)
    datasets.split_standard(csv, tmp_path, "label", 0.3, 1)
    together = pd.concat([pd.read_csv(tmp_path / "train.csv"), pd.read_csv(tmp_path / "test.csv")])
    whole = pd.read_csv(io.StringIO(text))
    assert list(together.columns) == list(whole.columns) == ["label", " wing span ", "note, free"]
    assert sorted(together["note, free"]) == sorted(whole["note, free"])


def test_a_set_is_read_with_the_defaults_of_pandas(tmp_path):
    text = "label,number,missing,word,flag,empty\n1,0.1,NA,x,True,\n0,1e-300,2,null,False,\n"
    X, y = datasets.read_standard(_write(tmp_path, text), "label")
    expected = pd.read_csv(io.StringIO(text))
    pd.testing.assert_frame_equal(X, expected.drop(columns="label"), check_exact=True)
    assert isinstance(y, np.ndarray)
    assert y.dtype == np.int64
    assert y.tolist() == [1, 0]


def test_labels_of_text_are_an_array(tmp_path):
    _, y = datasets.read_standard(_write(tmp_path, "a,kind\n1,crow\n2,jay\n"), "kind")
    assert isinstance(y, np.ndarray)
    assert y.tolist() == ["crow", "jay"]


@pytest.mark.parametrize("header", ["a, kind", "a,kind ", "a,\tkind", "kind ,a"])
@pytest.mark.parametrize("target", ["kind", " kind"])
def test_blanks_around_a_column_name_do_not_count(header, target, tmp_path):
    number = header.split(",").index(next(name for name in header.split(",") if "kind" in name))
    X, y = datasets.read_standard(_write(tmp_path, f"{header}\n1,2\n3,4\n"), target)
    assert y.tolist() == [[1, 3], [2, 4]][number]
    assert [name.strip() for name in X.columns] == ["a"]


def test_the_exact_name_goes_before_one_with_blanks(tmp_path):
    csv = _write(tmp_path, "kind ,kind\n1,2\n3,4\n")
    assert datasets.read_standard(csv, "kind")[1].tolist() == [2, 4]
    assert datasets.read_standard(csv, "kind ")[1].tolist() == [1, 3]


@pytest.mark.parametrize("read", [datasets.read_standard, lambda csv, target: _split(csv, target)])
def test_a_missing_target_column_names_those_that_are_there(read, tmp_path):
    csv = _write(tmp_path, "wing, span\n" + "1,2\n" * 10)
    with pytest.raises(DataError, match="no target column 'kind' among the columns 'wing', ' span'"):
        read(csv, "kind")
    assert [path.name for path in tmp_path.iterdir()] == [csv.name]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"a,b\n1,2\n1,2,3,4\n",
        b'a,b\n"1,2\n',
        b"a,kind\n\xff\xfe,1\n",
        b"\x1f\x8b\x08\x00rest",
        b"\x00" * 99,
    ],
    ids=["empty", "blank", "ragged", "open quote", "not UTF-8", "gzip", "NUL"],
)
def test_what_is_no_csv_file_is_said(content, tmp_path):
    csv = _write(tmp_path, content)
    with pytest.raises(DataError) as refusal:
        _split(csv, "kind")
    assert "birds.csv" in str(refusal.value) or "no target column 'kind'" in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(("rows", "ratio"), [(0, 0.5), (1, 0.5), (2, 0.999999999), (10, 0.0), (10, 1.0), (10, 1.5)])
def test_an_impossible_ratio_is_said(rows, ratio, tmp_path):
    csv = _write(tmp_path, "a,kind\n" + "1,2\n" * rows)
    with pytest.raises(DataError, match=rf"birds\.csv with {rows} rows can't be split: "):
        _split(csv, "kind", ratio)
    assert [path.name for path in tmp_path.iterdir()] == [csv.name]


@pytest.mark.parametrize("ratio", [0.001, 0.8])
def test_each_side_of_a_small_split_has_a_row(ratio, tmp_path):
    csv = _write(tmp_path, "a,kind\n" + "1,2\n" * 7)
    assert sorted(datasets.split_standard(csv, tmp_path, "kind", ratio, 42)) == [1, 6]


def test_a_specific_module_is_always_the_folders_own(tmp_path):
    for name in ("one", "two", "one"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "specific.py").write_text(f"NAME = {name!r}")
        assert datasets.load_specific(folder).NAME == name


def _split(csv, target, ratio=0.5):
    return datasets.split_standard(csv, csv.parent, target, ratio, 42)
