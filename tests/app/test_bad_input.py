"""Whatever a client sends: a 4xx of one shape that names the field, and nothing is stored."""

import base64
import gzip
import json
import zlib
from typing import Any

import pytest

from runapp import parsers, serializers
from runapp.models import RawData, Submission, SubmissionFold
from tests.app.helpers import (
    CLASSIFIER,
    IRIS,
    SPECIFIC,
    custom_data_set,
    data_set,
    finish,
    fold,
    indices,
    new_fold,
    pack,
    result,
)

pytestmark = pytest.mark.embedded

SURROGATE = "\ud800"
BOMB = base64.b64encode(zlib.compress(bytes(200_000_000))).decode()  # 200 MB in 200 kB
POSTS = [
    "rawdata/",
    "rawdata/split/",
    "rawdata/customsplit/",
    "submissionfold/",
    "submissionfold/bulk/",
    "testpredictions/list/",
    "testpredictions/new/",
]


@pytest.fixture
def untouched(disk, queues):
    """Call it at the end: no row, file or message has come since the fixture was made."""

    def count():
        return [model.objects.count() for model in (RawData, Submission, SubmissionFold)]

    before, files = count(), disk()

    def check():
        assert count() == before
        assert disk() == files
        for queue in ("L", "H", "celery"):
            assert queues.take(queue) == []

    return check


def ask(api, raw_data):
    """Ask for a data set's split, which does not end."""
    how = {} if raw_data.custom else {"held_out_test": 0.25}
    answer = api.post(f"rawdata/{'custom' * raw_data.custom}split/", {"raw_data_id": raw_data.pk, **how})
    assert answer.status == 200


def check_refusal(answer, field=None, statuses=(400,)):
    """One shape, {field: [text, ...]}, which names the field."""
    assert answer.status in statuses, answer.content[:500]
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.body
    assert isinstance(body, dict)
    assert body
    for key, texts in body.items():
        assert isinstance(texts, list), body
        assert texts
        assert all(isinstance(text, str) and text for text in texts)
        assert len(key) < 1000
    if field is not None:
        assert [key for key in body if key == field or key.startswith((f"{field}.", f"{field}["))], body


# --- bodies


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"{",
        b'{"a": NaN}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 5000,
        b'{"a": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_json(api, untouched, path, body):
    statuses = (400,) if body or path != "testpredictions/new/" else (200, 400)
    answer = api.post_bytes(path, body)
    if answer.status != 200:
        check_refusal(answer, None, statuses)
    else:
        assert body == b""
    untouched()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", ["[]", "[1]", "[[]]", "null", "1", '"text"', "true", '{"": {}}'])
def test_json_that_is_something_else(api, untouched, path, body):
    check_refusal(api.post_bytes(path, body.encode()))
    untouched()


@pytest.mark.parametrize("body", ["[]", "{}", "0", '{"a":0}'])
def test_json_with_more_values_than_any_request_has(api, untouched, body):
    """In memory they are thirty times as large."""
    text = "[" + f"{body}," * parsers.MOST_VALUES + "0]"
    answer = api.post_bytes("testpredictions/list/", text.encode())
    check_refusal(answer, "detail")
    assert "more than 500000 values" in answer.body["detail"][0]
    untouched()


@pytest.mark.parametrize("path", POSTS)
def test_json_with_a_key_twice(api, untouched, path):
    answer = api.post_bytes(path, b'{"raw_data_id": 1, "raw_data_id": 2}')
    check_refusal(answer, "detail")
    assert "'raw_data_id' twice" in answer.body["detail"][0]
    untouched()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "x"])
def test_another_content_type(api, untouched, path, content_type):
    answer = api.post_bytes(path, b"a=1", content_type)
    check_refusal(answer, "detail", (415,))
    assert "application/json" in answer.body["detail"][0]
    untouched()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_compressed_body(api, untouched, path, encoding):
    body = gzip.compress(b'{"raw_data_id": 1}')
    answer = api.post_bytes(path, body, HTTP_CONTENT_ENCODING=encoding)
    check_refusal(answer, "detail", (415,))
    assert "without Content-Encoding" in answer.body["detail"][0]
    untouched()


@pytest.mark.parametrize("path", POSTS)
def test_a_body_without_a_length_is_not_taken_for_an_empty_one(api, iris, path):
    """As gunicorn hands it on: the body is there, but nothing says how long it is."""
    api.new_fold(iris)
    finish(result())
    answer = api.post_bytes(path, b"", HTTP_TRANSFER_ENCODING="chunked")
    check_refusal(answer, "detail", (411,))
    assert "Content-Length" in answer.body["detail"][0]
    assert SubmissionFold.objects.get().new


@pytest.mark.parametrize(
    "charset", ["latin-1", "utf-16", "rot13", "hex", "base64", "zlib", "bz2", "uu", "idna", "unicode_escape", "none"]
)
def test_another_character_set(api, iris, untouched, charset):
    """JSON is UTF-8: what a caller says of its character set decodes nothing."""
    answer = api.post_bytes("submissionfold/", b'{"x": "\xe9"}', f"application/json; charset={charset}")
    check_refusal(answer)
    untouched()


def test_a_body_that_is_too_large(api, untouched, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1 << 20
    body = json.dumps({"padding": "x" * (1 << 21)}).encode()
    check_refusal(api.post_bytes("rawdata/", body), "detail", (413,))
    untouched()


def test_an_answer_in_another_format(api):
    answer = api.answer(lambda: api.client.get("/runapp/rawdata/", HTTP_ACCEPT="text/csv"))
    assert answer.status == 406
    assert list(answer.body) == ["detail"]


def test_an_address_with_too_many_parameters(api):
    answer = api.answer(lambda: api.client.get("/runapp/rawdata/?" + "&".join(f"a{n}=1" for n in range(2000))))
    check_refusal(answer, "detail")


# --- ids

IDS: list[Any] = [
    None,
    "",
    "one",
    "1.5",
    1.5,
    -1,
    2**31,
    2**32,
    2**63,
    2**64,
    10**400,
    True,
    [],
    [1],
    {},
    "9" * 2000,
    "\0",
]


@pytest.mark.parametrize("bad", IDS, ids=lambda bad: repr(bad)[:12])
@pytest.mark.parametrize("field", ["databoard_sf_id", "databoard_s_id"])
def test_a_fold_with_a_bad_id(api, iris, untouched, field, bad):
    check_refusal(api.post("submissionfold/", new_fold(iris) | {field: bad}), field)
    untouched()


@pytest.mark.parametrize("bad", [*IDS[1:], 12345], ids=lambda bad: repr(bad)[:12])
def test_a_fold_of_an_unknown_data_set(api, iris, untouched, bad):
    check_refusal(api.post("submissionfold/", new_fold(iris) | {"raw_data": bad}), "raw_data")
    untouched()


@pytest.mark.parametrize("bad", [*IDS, 12345], ids=lambda bad: repr(bad)[:12])
@pytest.mark.parametrize("path", ["rawdata/split/", "rawdata/customsplit/"])
def test_a_split_of_an_unknown_data_set(api, untouched, path, bad):
    body = {"raw_data_id": bad} | ({} if "custom" in path else {"held_out_test": 0.5})
    check_refusal(api.post(path, body), "raw_data_id")
    untouched()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("rawdata/", {"name", "target_column", "workflow_elements", "files"}),
        ("rawdata/split/", {"raw_data_id", "held_out_test"}),
        ("rawdata/customsplit/", {"raw_data_id"}),
        ("submissionfold/", {"databoard_sf_id", "databoard_s_id", "train_is", "test_is"}),
        ("testpredictions/list/", {"list_submission_fold"}),
    ],
)
def test_missing_fields_are_all_named(api, path, fields):
    answer = api.post(path, {})
    check_refusal(answer)
    assert answer.body.keys() == fields


# --- indices

INT64 = bytes(8)
INDICES = {
    "null": None,
    "a number": 5,
    "a list": [0, 1, 2],
    "empty text": "",
    "a word": "nonsense!",
    "not ASCII": "é",
    "a lone surrogate": SURROGATE,
    "NUL": "\0",
    "base64 of no zlib": base64.b64encode(b"no zlib").decode(),
    "no padding": indices([1]).rstrip("=")[:-1],
    "half of it": indices(range(1000))[:40],
    "more after the end": base64.b64encode(zlib.compress(INT64) + b"more").decode(),
    "gzip": base64.b64encode(zlib.compress(INT64, wbits=31)).decode(),
    "none": indices([]),
    "7 bytes": pack(bytes(7)),
    "12 bytes": pack(bytes(12)),
    "negative": indices([0, -1]),
    "the least": indices([-(2**63)]),
    "out of range": indices([9]),
    "one twice": indices([0, 1, 0]),
    "one again and again": pack(bytes(8 * 5_000_000)),
    "far out of range": indices([2**63 - 1]),
    "line breaks": indices(range(100))[:20] + "\n" + indices(range(100))[20:],
    "the server's own files": "@0000/x.train_is",
    "a path": "@0000/../../secret_key",
}


@pytest.mark.parametrize("name", ["train_is", "test_is"])
@pytest.mark.parametrize("bad", INDICES.values(), ids=INDICES.keys())
def test_bad_indices(api, iris, untouched, name, bad):
    check_refusal(api.post("submissionfold/", new_fold(iris, **{name: bad})), name)
    untouched()
    assert api.new_fold(iris).status == 201  # the id was left free


def test_indices_that_unpack_to_a_lot(api, iris, untouched, settings):
    settings.MAX_DATA_BYTES = 1_000_000
    check_refusal(api.new_fold(iris, train_is=BOMB), "train_is")
    untouched()


def test_a_row_that_stands_twice_in_a_long_list(api, custom):
    """It is found however far apart the two are, in the memory of a piece."""
    ask(api, custom)
    rows = [*range(200_000, 0, -1)]
    assert api.new_fold(custom, 1, train_is=indices(rows)).status == 201
    for key, (row, at) in enumerate({1: 0, 200_000: 200_000, 123_456: 150_000, 77: 199_999}.items(), 2):
        again = [*rows[:at], row, *rows[at:]]
        answer = api.new_fold(custom, key, submission=key, train_is=indices(again))
        assert answer.body == {
            "train_is": [f"Row {row} is among them twice: send each row of the train set once at most."]
        }


def test_rows_of_a_data_set_that_is_not_split_yet(api, raw, custom):
    """The size of its file bounds them. A custom data set makes its rows by itself."""
    ask(api, raw)
    ask(api, custom)
    check_refusal(api.new_fold(raw, train_is=indices([1000])), "train_is")
    assert api.new_fold(raw, 1, train_is=indices([20])).status == 201
    assert api.new_fold(custom, 2, submission=2, train_is=indices([1000])).status == 201


def test_the_rows_of_a_request_are_bounded_together(api, iris, untouched, settings):
    settings.MAX_DATA_BYTES = 8 * (6 + 3) * 2
    bodies = [new_fold(iris, key) for key in (1, 2, 3)]
    check_refusal(api.post("submissionfold/bulk/", bodies), "[2].train_is")
    untouched()
    assert api.post("submissionfold/bulk/", bodies[:2]).status == 201


# --- files


def test_many_files(api, iris, untouched):
    many = {f"{number}.txt": pack(b"") for number in range(1001)}
    check_refusal(api.new_fold(iris, files=many), "files")
    check_refusal(api.post("rawdata/", data_set("other", files=many)), "files")
    del many["0.txt"]
    files = many | {"classifier.py": pack(CLASSIFIER)}
    check_refusal(api.new_fold(iris, files=files), "files")
    untouched()
    del files["1.txt"]
    assert api.new_fold(iris, files=files).status == 201


def test_the_files_of_a_request_are_bounded_together(api, iris, untouched, monkeypatch):
    monkeypatch.setattr(serializers, "MOST_FILES_OF_REQUEST", 2)
    bodies = [new_fold(iris, key, key) for key in (1, 2, 3)]
    check_refusal(api.post("submissionfold/bulk/", bodies), "[2].files")
    untouched()
    assert api.post("submissionfold/bulk/", bodies[:2]).status == 201


NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "../classifier.py",
    "/etc/passwd",
    "a/classifier.py",
    "a\\b.py",
    "..\\b.py",
    "a\0.py",
    "a\n.py",
    SURROGATE + ".py",
    "\u202egnp.py",
    "x" * 201,
    "é" * 101,
]
CONTENTS = {
    "null": None,
    "a number": 1,
    "a list": ["x"],
    "an object": {"a": "b"},
    "empty": "",
    "plain text": "class Classifier: pass",
    "no zlib": base64.b64encode(b"class Classifier").decode(),
    "cut off": pack(bytes(1000))[:-8],
    "more after the end": base64.b64encode(zlib.compress(b"") + b"x").decode(),
    "a lone surrogate": SURROGATE,
    "not ASCII": "eJwDAAAAAAE＝",
}
FILES: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a list of pairs": [["a", "b"]],
    "text": "classifier.py",
    "none": {},
    "number": 1,
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_file_name_that_could_do_harm(api, iris, untouched, name):
    check_refusal(api.new_fold(iris, files={name: pack(b"")}), "files")
    check_refusal(api.post("rawdata/", data_set("x", files={name: pack(IRIS)})), "files")
    check_refusal(api.post("rawdata/", custom_data_set(files={name: pack(IRIS), "a.py": pack(SPECIFIC)})), "files")
    untouched()
    assert api.new_fold(iris).status == 201


@pytest.mark.parametrize("bad", CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("name", ["classifier.py", SURROGATE])
def test_a_content_that_is_not_packed(api, iris, untouched, name, bad):
    check_refusal(api.new_fold(iris, files={name: bad}), "files")
    check_refusal(api.post("rawdata/", data_set("x", files={name: bad})), "files")
    untouched()
    assert api.new_fold(iris).status == 201


@pytest.mark.parametrize("bad", FILES.values(), ids=FILES.keys())
def test_what_is_no_files(api, iris, untouched, bad):
    check_refusal(api.new_fold(iris, files=bad), "files")
    check_refusal(api.post("rawdata/", data_set("x", files=bad)), "files")
    untouched()


def test_a_zlib_bomb(api, iris, untouched, settings):
    settings.MAX_SUBMISSION_BYTES = settings.MAX_DATA_BYTES = 1_000_000
    answer = api.new_fold(iris, files={"classifier.py": BOMB})
    check_refusal(answer, "files")
    assert "DATARUN_MAX_SUBMISSION_BYTES" in answer.body["files"][0]
    answer = api.post("rawdata/", data_set("x", files={"x.csv": BOMB}))
    check_refusal(answer, "files")
    assert "DATARUN_MAX_DATA_BYTES" in answer.body["files"][0]
    untouched()


def test_files_that_are_too_large_together(api, custom, untouched, settings):
    settings.MAX_SUBMISSION_BYTES = 1000
    api.post("rawdata/customsplit/", {"raw_data_id": custom.pk})
    files = {f"{number}.py": pack(bytes(400)) for number in range(3)}
    check_refusal(api.new_fold(custom, files=files), "files")
    del files["2.py"]
    assert api.new_fold(custom, files=files).status == 201


@pytest.mark.parametrize(
    "files",
    [
        {"regressor.py": pack(b"")},
        {"Classifier.py": pack(b"")},
        {"classifier.pyc": pack(CLASSIFIER), "helper.py": pack(b"")},
    ],
    ids=lambda files: ",".join(files),
)
def test_files_that_lack_those_of_the_workflow(api, iris, untouched, files):
    answer = api.new_fold(iris, files=files)
    check_refusal(answer, "files")
    assert "needs classifier.py too" in answer.body["files"][0]
    untouched()


def test_all_files_that_are_missing_are_named(api):
    sent = api.post("rawdata/", data_set("more", workflow_elements="feature_extractor,classifier,calibrator"))
    api.post("rawdata/split/", {"raw_data_id": sent.body["id"], "held_out_test": 0.5})
    raw_data = RawData.objects.get(pk=sent.body["id"])
    answer = api.new_fold(raw_data, files={"classifier.py": pack(CLASSIFIER), "helper.py": pack(b"")})
    check_refusal(answer, "files")
    assert "needs calibrator.py, feature_extractor.py too" in answer.body["files"][0]


# --- words


@pytest.mark.parametrize("bad", ["", "l", "X", "LH", "celery", "L ", 1, True, [], ["L"], {}, "\0"], ids=repr)
def test_an_unknown_priority(api, iris, untouched, bad):
    check_refusal(api.new_fold(iris, priority=bad), "priority")
    untouched()
    assert api.new_fold(iris).status == 201


@pytest.mark.parametrize("bad", ["all", "submission fold", "no", 5, True, [], {}, "\0", SURROGATE], ids=ascii)
def test_an_unknown_force(api, iris, untouched, bad):
    check_refusal(api.new_fold(iris, force=bad), "force")
    untouched()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "magic",
        "classifier;calibrator",
        "classifier,classifier",
        "classifier,regressor",
        "calibrator",
        "feature_extractor",
        "calibrator,classifier",
        "classifier,",
        ["classifier"],
        5,
        "x" * 201,
        "\0",
        SURROGATE,
    ],
    ids=ascii,
)
def test_unknown_workflow_elements(api, untouched, bad):
    check_refusal(api.post("rawdata/", data_set(workflow_elements=bad)), "workflow_elements")
    untouched()
    assert api.post("rawdata/", data_set()).status == 201


@pytest.mark.parametrize(
    "bad",
    [None, "", " ", "Species", "nothing", 5.5, [], {}, "x" * 201, "\0", SURROGATE],
    ids=lambda bad: ascii(bad)[:20],
)
def test_a_target_column_that_is_not_there(api, untouched, bad):
    check_refusal(api.post("rawdata/", data_set(target_column=bad)), "target_column")
    untouched()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "  ",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc",
        ".x",
        "a\0b",
        "a\nb",
        SURROGATE,
        "x" * 101,
        [],
        {},
        True,
    ],
    ids=lambda bad: ascii(bad)[:20],
)
def test_a_name_that_could_do_harm(api, untouched, bad):
    check_refusal(api.post("rawdata/", data_set(bad)), "name")
    check_refusal(api.post("rawdata/", custom_data_set(bad)), "name")
    untouched()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\0\0\0",
        bytes(range(256)),
        b"x" * 200_000,
        b'"' + b"x" * 200_000 + b'"',
        b'"species\n' * 5,
        b"a,b\n",
    ],
    ids=lambda content: repr(content[:10]),
)
def test_standard_data_without_the_target_column(api, untouched, content):
    answer = api.post("rawdata/", data_set(files={"x.csv": pack(content)}))
    check_refusal(answer, "target_column")
    assert len(answer.content) < 2000
    untouched()


# --- what a refusal leaves behind


def test_a_refused_fold_of_a_known_submission_leaves_it_alone(api, iris, queues, disk):
    api.new_fold(iris)
    queues.purge()
    before = disk()
    for bad in ({"priority": "X"}, {"train_is": indices([-1])}, {"force": "x"}, {"databoard_sf_id": 1}):
        assert api.post("submissionfold/", fold(2) | bad).status == 400
    assert disk() == before
    assert SubmissionFold.objects.count() == 1
    assert api.post("submissionfold/", fold(2)).status == 201


def test_several_faults_are_named_together(api, iris):
    answer = api.new_fold(iris, train_is="x", priority="X", force="x")
    check_refusal(answer)
    assert answer.body.keys() == {"train_is", "priority", "force"}


# --- many mistakes


def test_of_many_bad_folds_a_hundred_are_named(api, iris, untouched):
    bad = fold(1, train_is="x") | {f"priorit{letter}": 1 for letter in "abcdefghij"}
    answer = api.post("submissionfold/bulk/", [new_fold(iris, 1), *[bad] * 5_000])
    check_refusal(answer, "[1].train_is")
    named = {key.partition(".")[0] for key in answer.body}
    assert named == {f"[{number}]" for number in range(1, 101)}
    untouched()


def test_of_many_bad_ids_a_hundred_are_named(api):
    answer = api.post("testpredictions/list/", {"list_submission_fold": [1, *["x"] * 5_000]})
    check_refusal(answer, "list_submission_fold[1]")
    assert len(answer.body) == 100
    answer = api.post("testpredictions/list/", {"list_submission_fold": ["x"] * 100_001})
    assert answer.body == {"list_submission_fold": ["Send 100000 at most; these are 100001."]}
