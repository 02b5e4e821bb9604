"""GET and POST /runapp/rawdata/."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from runapp.models import RawData
from runapp.storage import MAX_HEADER_BYTES
from tests.app.helpers import IRIS, SPECIFIC, custom_data_set, data_set, pack

pytestmark = pytest.mark.embedded


def test_it_works(api, user):
    answer = api.post("rawdata/", data_set())

    assert answer.status == 201
    [stored] = RawData.objects.all()
    fields = {"id": stored.pk, "name": "iris", "target_column": "species", "workflow_elements": "classifier"}
    assert answer.body.items() >= fields.items()
    assert answer.body["files_path"] == stored.files_path
    assert stored.created_by == user


def test_it_lists(api):
    for name in ("iris", "more iris"):
        api.post("rawdata/", data_set(name))

    answer = api.get("rawdata/")

    assert answer.status == 200
    assert isinstance(answer.body, list)
    assert [record["name"] for record in answer.body] == ["iris", "more iris"]
    for record in answer.body:
        assert {"id", "name", "files_path", "workflow_elements", "target_column"} <= record.keys()
        assert "files" not in record


def test_it_lists_nothing(api):
    answer = api.get("rawdata/")
    assert (answer.status, answer.body) == (200, [])


@pytest.mark.parametrize("sent", ["anything.csv", "iris.txt", "daten.data"])
def test_it_stores_standard_data_as_its_name(api, sent):
    answer = api.post("rawdata/", data_set(files={sent: pack(IRIS)}))

    folder = Path(answer.body["files_path"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"iris.csv": IRIS}


@pytest.mark.parametrize("sent", ["ours.py", "specific.py"])
def test_it_stores_the_python_file_as_specific(api, sent):
    packed = gzip.compress(b"a,b\n1,2\n") + bytes(range(256))

    answer = api.post("rawdata/", custom_data_set(files={"digits.csv.gz": pack(packed), sent: pack(SPECIFIC)}))

    assert answer.status == 201
    folder = Path(answer.body["files_path"])
    stored = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert stored == {"digits.csv.gz": packed, "specific.py": SPECIFIC}
    assert RawData.objects.get().custom


def test_it_takes_the_organisers_own_words_for_custom_data(api):
    answer = api.post("rawdata/", custom_data_set(workflow_elements="dreaming, 42 things"))
    assert answer.status == 201
    assert answer.body["workflow_elements"] == "dreaming, 42 things"


def test_it_takes_a_name_of_any_language(api):
    answer = api.post("rawdata/", data_set("Schönes Wetter 日本"))
    assert answer.status == 201
    assert (Path(answer.body["files_path"]) / "Schönes Wetter 日本.csv").read_bytes() == IRIS


def test_it_finds_a_target_column_with_blanks_around_it(api):
    answer = api.post("rawdata/", data_set(files={"a.csv": pack(b"a, species \n1,2\n")}))
    assert answer.status == 201


@pytest.mark.parametrize("header", [b"PAR1,PAR2,species", b"BZh,species"])
def test_it_takes_a_text_that_begins_like_another_kind_of_file(header, api):
    assert api.post("rawdata/", data_set(files={"a.csv": pack(header + b"\n1,2,3\n")})).status == 201


@pytest.mark.parametrize("lines", ["\n", "\n\n", "\r\n \t\n", "\ufeff\n", "\ufeff"])
def test_it_passes_over_blank_lines_before_the_header(lines, api):
    answer = api.post("rawdata/", data_set(files={"a.csv": pack(f"{lines}a,species\n1,2\n".encode())}))
    assert answer.status == 201


@pytest.mark.parametrize(("header", "target"), [("esp\u00e8ce", "espe\u0300ce"), ("espe\u0300ce", "esp\u00e8ce")])
def test_it_finds_a_target_column_whose_accent_is_composed_otherwise(header, target, api):
    files = {"a.csv": pack(f"a,{header}\n1,2\n".encode())}
    assert api.post("rawdata/", data_set(target_column=target, files=files)).status == 201


def test_it_reads_a_header_whose_last_character_is_cut_by_its_bound(api):
    content = "species,é\n".encode() + b"1," + "é".encode() * MAX_HEADER_BYTES
    assert api.post("rawdata/", data_set(files={"a.csv": pack(content)})).status == 201


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(IRIS), "is compressed with gzip"),
        (bz2.compress(IRIS), "is compressed with bzip2"),
        (lzma.compress(IRIS), "is compressed with xz"),
        (b"PK\x03\x04\0 and so on", "is a zip archive or an Excel workbook"),
        (b"PAR1\x15\0 and so on", "is a Parquet file"),
        (IRIS.decode().encode("utf-16"), "is UTF-16 text"),
        (IRIS.decode().encode("utf-16-be"), "holds NUL bytes"),
        ("species,taille à jour\n1,2\n".encode("latin-1"), "is not UTF-8 text (byte 16)"),
        (b"\n \n\n", "has no line with the names of its columns"),
        (b"a;species\n1;2\n", "has its fields separated by semicolons: separate them by commas"),
        (b"a\t species\n1\t2\n", "has its fields separated by tabs: separate them by commas"),
        (b'"a";"species"\n"1";"2"\n', "has its fields separated by semicolons: separate them by commas"),
        (b'"a"\t"species"\n', "has its fields separated by tabs: separate them by commas"),
        (b"a:species\n", "has its fields separated by colons: separate them by commas"),
        (b"a|species\n1|2\n", "has its fields separated by bars: separate them by commas"),
        (b"a species\n1 2\n", "has its fields separated by blanks: separate them by commas"),
        (b"species,a,species\n1,2,3\n", "names its column 'species' more than once"),
        (b"a,\x1b[31m\n1,2\n", "has no such column; its first row names: 'a', '\\x1b[31m'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_says_what_is_wrong_with_a_csv_file(content, says, api, disk):
    before = disk()

    answer = api.post("rawdata/", data_set(files={"a.csv": pack(content)}))

    assert answer.status == 400
    assert answer.body.keys() == {"target_column"}
    assert says in answer.body["target_column"][0]
    assert answer.body["target_column"][0].isprintable()
    assert disk() == before


def test_it_pages(api):
    for number in range(5):
        api.post("rawdata/", data_set(f"d{number}"))

    answer = api.get("rawdata/", limit=2, offset=1)

    assert answer.status == 200
    assert answer.body["count"] == 5
    assert [record["name"] for record in answer.body["results"]] == ["d1", "d2"]
    assert len(api.get("rawdata/", offset=3).body["results"]) == 2


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": "x"}, {"limit": -1}, {"offset": -1}, {"offset": 2**70}])
def test_it_rejects_a_page_that_is_none(api, query):
    answer = api.get("rawdata/", **query)
    assert answer.status == 400
    assert answer.body.keys() == query.keys()


def test_it_rejects_a_taken_name(api, raw, disk):
    before = disk()

    answer = api.post("rawdata/", data_set(files={"b.csv": pack(IRIS + b"9,9,9\n")}))

    assert answer.status == 400
    assert answer.body == {"name": ["RawData with this name already exists."]}
    assert RawData.objects.count() == 1
    assert disk() == before


def test_it_rejects_several_files_without_python(api, disk):
    answer = api.post("rawdata/", data_set(files={"a.csv": pack(IRIS), "b.csv": pack(IRIS)}))

    assert answer.status == 406
    assert list(answer.body) == ["files"]
    assert ".py" in answer.body["files"][0]
    assert not RawData.objects.exists()
    assert disk() == {}


def test_it_rejects_two_python_files(api):
    answer = api.post("rawdata/", custom_data_set(files={"a.py": pack(SPECIFIC), "b.py": pack(SPECIFIC)}))
    assert answer.status == 400
    assert list(answer.body) == ["files"]
