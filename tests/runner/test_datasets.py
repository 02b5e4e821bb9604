"""Standard data sets: the split by hand, and what is said of a file that can't be used."""

import io

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from runner import datasets
from runner.datasets import DataError
from runner.jobs import STANDARD_FILES
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


def test_each_set_is_the_frame_that_pandas_reads(tmp_path):
    rows = [
        ("1", "0.1", "NA", "x", "True", "", "", "1e30", "2"),
        ("0", "1e-300", "2", "null", "False", "", "True", "inf", ""),
    ]
    text = "label,number,missing,word,flag,empty,maybe,large,gaps\n" + "".join(
        ",".join(row) + "\n" for row in 10 * rows
    )
    data = _read(_write(tmp_path, text), "label")
    train, test = train_test_split(pd.read_csv(io.StringIO(text)), test_size=0.5, random_state=42)
    for X, y, expected in ((data.X_train, data.y_train, train), (data.X_test, data.y_test, test)):
        pd.testing.assert_frame_equal(X, expected.drop(columns="label").reset_index(drop=True), check_exact=True)
        assert isinstance(y, np.ndarray)
        assert y.dtype == np.int64
        assert y.tolist() == expected["label"].tolist()


def test_labels_of_text_are_an_array(tmp_path):
    data = _read(_write(tmp_path, "a,kind\n" + "1,crow\n2,jay\n" * 5), "kind")
    assert isinstance(data.y_train, np.ndarray)
    assert {*data.y_train} | {*data.y_test} == {"crow", "jay"}


@pytest.mark.parametrize("odd", range(0, 40, 3))
@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ("07", "2A"),
        ("1", "1.5"),
        ("1", ""),
        ("True", ""),
        ("1", str(10**30)),
        ("2020-01-01", "soon"),
        ("no", "True"),
        (str(10**30), str(2**63)),
    ],
)
def test_a_column_has_one_type_wherever_its_odd_value_falls(usual, other, odd, tmp_path):
    text = "code,kind\n" + "".join(f"{other if row == odd else usual},{row % 2}\n" for row in range(40))
    data = _read(_write(tmp_path, text), "kind")
    whole = pd.read_csv(io.StringIO(text))["code"]
    assert data.X_train["code"].dtype == data.X_test["code"].dtype == whole.dtype
    together = [*data.X_train["code"], *data.X_test["code"]]
    assert sorted(map(repr, together)) == sorted(map(repr, whole))


@pytest.mark.parametrize("large", [2**63, 2**64, 10**30])
@pytest.mark.parametrize("missing", ["", "NA"])
@pytest.mark.parametrize("odd", range(0, 20, 4))
def test_large_numbers_with_gaps_are_read(large, missing, odd, tmp_path):
    text = "code,kind\n" + "".join(f"{missing if row == odd else large + row},{row % 2}\n" for row in range(20))
    data = _read(_write(tmp_path, text), "kind")
    together = pd.concat([data.X_train, data.X_test])["code"]
    assert together.isna().sum() == 1
    if large > 2**63:  # pandas makes floats of those below 2**64 that stand beside gaps
        assert sorted(map(float, together.dropna())) == [float(large + row) for row in range(20) if row != odd]


@pytest.mark.parametrize("odd", range(0, 40, 3))
def test_labels_have_one_type_wherever_the_odd_one_falls(odd, tmp_path):
    text = "a,kind\n" + "".join(f"{row},{'x' if row == odd else row % 2}\n" for row in range(40))
    data = _read(_write(tmp_path, text), "kind")
    assert {*data.y_train} | {*data.y_test} == {"0", "1", "x"}


def test_a_long_column_has_one_type_too(tmp_path):
    """By default pandas reads a file of some megabytes in parts, each with types of its own."""
    text = "code,kind\n" + "".join(f"{'2A' if row == 0 else '07'},{row % 2}\n" for row in range(1 << 19))
    data = _read(_write(tmp_path, text), "kind")
    assert {*data.X_train["code"]} | {*data.X_test["code"]} == {"2A", "07"}


@pytest.mark.parametrize("odd", ["\r", "\n", "\r\n", '"', ",", "\t", " ", "\0", "\\", "é", ";", "'", "#"])
@pytest.mark.parametrize("place", ["{}b", "a{}b", "a{}", "{}", "{0}{0}"])
def test_what_a_cell_holds_is_read_back(odd, place, tmp_path):
    cell = place.format(odd)
    quoted = '"' + cell.replace('"', '""') + '"'
    text = f"y,text\n{''.join(f'{row},{quoted}' + chr(10) for row in range(20))}"
    data = _read(_write(tmp_path, text), "y")
    whole = pd.read_csv(io.StringIO(text, newline=""))
    assert (len(data.X_train), len(data.X_test)) == (10, 10)
    assert sorted([*data.y_train, *data.y_test]) == [*range(20)]
    assert [*data.X_train["text"], *data.X_test["text"]] == [*whole["text"]] == 20 * [cell]


def test_what_a_header_holds_is_read_back(tmp_path):
    data = _read(_write(tmp_path, 'y,"a\rb","c\nd","e,f"\n' + "1,2,3,4\n" * 10), "y")
    assert [*data.X_train.columns] == [*data.X_test.columns] == ["a\rb", "c\nd", "e,f"]


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        ([f"{row},{1000 + row},{row % 3}," for row in range(40)], 4),
        ([f"{row},{1000 + row},{row % 3}, " for row in range(40)], 4),
        ([f'{row},{1000 + row},{row % 3},""' for row in range(40)], 4),
        ([f"{row},{1000 + row},{row % 3},," for row in range(40)], 5),
        ([f"{row % 2},{1000 + row},{row % 3},note" for row in range(40)], 4),
        (["0,1000,0,", *(f"{row},{1000 + row},{row % 3}" for row in range(1, 40))], 4),
        ([f"{row},{1000 + row},{row % 3},{'note' if row < 20 else ''}" for row in range(1, 41)], 4),
        ([f"{row}.5,{1000 + row},{row % 3},note" for row in range(40)], 4),
        ([f"bird {row},{1000 + row},{row % 3},note" for row in range(40)], 4),
        ([f'"{row % 9}",{1000 + row},{row % 3},note' for row in range(40)], 4),
        ([f"{row},{1000 + row},{row % 3},NA" for row in range(40)], 4),
    ],
    ids=[
        "a comma",
        "a comma and a blank",
        "an empty text",
        "two commas",
        "a note",
        "in the first row",
        "in some rows",
        "numbers for names",
        "texts for names",
        "names that are not unique",
        "numbers from 0 on",
    ],
)
def test_rows_with_a_field_more_than_the_header_are_refused(rows, fields, tmp_path):
    csv = _write(tmp_path, "\n".join(["", "y,a,b", "", *rows]))
    with pytest.raises(DataError, match=rf"line 4 of birds\.csv has {fields} fields, but its header names 3 columns"):
        _split(csv, "y")


def test_a_later_row_with_a_field_more_is_refused(tmp_path):
    csv = _write(tmp_path, "y,a,b\n" + "1,2,3\n" * 10 + "1,2,3,\n")
    with pytest.raises(DataError, match="Expected 3 fields in line 12, saw 4"):
        _split(csv, "y")


@pytest.mark.parametrize("name", ['"{}"', "{}", '"plot {}"'])
def test_a_file_of_r_with_row_names_is_read(name, tmp_path, capsys):
    rows = "".join(f'{name.format(row)},{row},{1000 + row},"k"\n' for row in range(1, 41))
    data = _read(_write(tmp_path, '"y","a","b"\n\n' + rows), "y")
    assert sorted([*data.y_train, *data.y_test]) == [*range(1, 41)]
    assert data.X_train["a"].tolist() == [1000 + label for label in data.y_train]
    assert "The first field of each row is taken for its name" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["", ",", ",,", '""'])
def test_a_column_without_a_name_and_values_is_refused(end, tmp_path):
    csv = _write(tmp_path, f"y,a,{end}\n" + "".join(f"{row},5,{end}\n" for row in range(10)))
    with pytest.raises(DataError, match=r"column 3 of birds\.csv has no name and no values: remove the comma at the"):
        _split(csv, "y")


def test_an_empty_column_with_a_name_is_kept(tmp_path):
    data = _read(_write(tmp_path, "y,a,empty\n" + "".join(f"{row},5,\n" for row in range(10))), "y")
    assert [*data.X_train.columns] == ["a", "empty"]


@pytest.mark.parametrize(
    ("elements", "labels", "says"),
    [
        (("regressor",), ["1", "2", "high"], "holds text such as '1', but a regressor needs numbers"),
        (("feature_extractor", "regressor"), ["2020-01-01"], "holds text such as '2020-01-01', but a regressor"),
        (("classifier",), ["1", "2", "2.5"], "holds numbers such as 2.5, but a classifier needs classes"),
        (("regressor",), ["1", "2.5"], None),
        (("regressor",), ["True", "False"], None),
        (("regressor",), [str(10**30), "1"], None),
        (("classifier",), ["1.0", "2.0"], None),
        (("classifier",), ["high", "low"], None),
    ],
)
def test_labels_that_no_workflow_of_the_data_set_can_learn_are_refused(elements, labels, says, tmp_path):
    csv = _write(tmp_path, "y,a\n" + "".join(f"{label},1\n" for label in 4 * labels))
    if says is None:
        assert datasets.split_standard(csv, tmp_path, "y", 0.5, 42, elements)
        return
    with pytest.raises(DataError, match=says):
        datasets.split_standard(csv, tmp_path, "y", 0.5, 42, elements)


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "N/A", ""])
def test_labels_that_are_read_as_missing_are_refused(word, tmp_path):
    text = "a,kind\n" + "".join(f"{row},{[word, 'Mild', 'Severe'][row % 3]}\n" for row in range(90))
    says = (
        f"30 of the 90 labels in column 'kind' are missing: pandas reads {repr(word) if word else 'an empty cell'} as"
    )
    with pytest.raises(DataError, match=says):
        _split(_write(tmp_path, text), "kind")


def test_missing_labels_of_several_words_are_named(tmp_path):
    csv = _write(tmp_path, "value,a\n" + "1.5,1\n" * 8 + "NA,1\n" + ",1\n" + "NA,1\n")
    with pytest.raises(
        DataError, match="3 of the 11 labels in column 'value' are missing: pandas reads 'NA', an empty"
    ):
        _split(csv, "value")


def test_infinite_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="1 of the 9 labels in column 'value' are infinite"):
        _split(_write(tmp_path, "value,a\n" + "1.5,1\n" * 8 + "-inf,1\n"), "value")


@pytest.mark.parametrize("header", ["a, kind", "a,kind ", "a,\tkind", "kind ,a"])
@pytest.mark.parametrize("target", ["kind", " kind"])
def test_blanks_around_a_column_name_do_not_count(header, target, tmp_path):
    number = header.split(",").index(next(name for name in header.split(",") if "kind" in name))
    data = _read(_write(tmp_path, f"{header}\n" + "1,2\n" * 4), target)
    assert data.y_train.tolist() == 2 * [number + 1]
    assert [name.strip() for name in data.X_train.columns] == ["a"]


@pytest.mark.parametrize(("header", "target"), [("esp\u00e8ce", "espe\u0300ce"), ("espe\u0300ce ", "esp\u00e8ce")])
def test_the_way_an_accent_is_composed_does_not_count(header, target, tmp_path):
    data = _read(_write(tmp_path, f"a,{header}\n" + "1,2\n" * 4), target)
    assert data.y_train.tolist() == [2, 2]
    assert [*data.X_train.columns] == ["a"]


def test_the_exact_name_goes_before_one_with_blanks(tmp_path):
    csv = _write(tmp_path, "kind ,kind\n" + "1,2\n" * 4)
    assert _read(csv, "kind").y_train.tolist() == [2, 2]
    assert _read(csv, "kind ").y_train.tolist() == [1, 1]


def test_blank_lines_before_the_header_do_not_count(tmp_path):
    data = _read(_write(tmp_path, "\n  \n\r\na,kind\n" + "1,2\n" * 4), "kind")
    assert data.y_train.tolist() == [2, 2]


def test_a_missing_target_column_names_those_that_are_there(tmp_path):
    csv = _write(tmp_path, "wing, span\n" + "1,2\n" * 10)
    with pytest.raises(DataError, match="no target column 'kind' among the columns 'wing', ' span'"):
        _split(csv, "kind")
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


def _read(csv, target):
    """The data set after a split in halves, as folds read it."""
    _split(csv, target)
    return datasets.read_standard(target, *(csv.parent / name for name in STANDARD_FILES))


def _split(csv, target, ratio=0.5):
    return datasets.split_standard(csv, csv.parent, target, ratio, 42)
