"""GET /runapp/packages/: what submissions can import, as the runners report it."""

import pytest

from runapp import messages, tasks
from runapp.models import Runner
from tests.app.helpers import Api, report

pytestmark = pytest.mark.embedded

NUMPY = {"name": "numpy", "version": "2.4.6", "modules": ["numpy"]}
SKLEARN = {"name": "scikit-learn", "version": "1.9.1", "modules": ["sklearn"]}


def says(name: str, *packages, **more) -> None:
    tasks.save_runner(report(name, packages=[*packages], **more))


def test_it_works(api):
    says("runner@1", SKLEARN, NUMPY)
    answer = api.get("packages/")
    assert answer.status == 200
    assert answer.body == [NUMPY | {"runners": ["runner@1"]}, SKLEARN | {"runners": ["runner@1"]}]


def test_it_is_empty_before_a_runner_reports(api):
    assert api.get("packages/").body == []


def test_runners_that_have_the_same_share_an_entry(api):
    for name in ("runner@2", "runner@1"):
        says(name, NUMPY)
    assert api.get("packages/").body == [NUMPY | {"runners": ["runner@1", "runner@2"]}]


def test_runners_that_differ_have_an_entry_each(api):
    older = NUMPY | {"version": "1.26.4"}
    says("runner@1", NUMPY, SKLEARN)
    says("runner@2", older)
    assert api.get("packages/").body == [
        older | {"runners": ["runner@2"]},
        NUMPY | {"runners": ["runner@1"]},
        SKLEARN | {"runners": ["runner@1"]},
    ]


def test_the_last_report_counts(api):
    """Any of them may be lost on its way."""
    first = report(packages=[NUMPY])
    tasks.save_runner(first)
    tasks.save_runner(first | {"number": 2, "packages": [SKLEARN]})
    assert [package["name"] for package in api.get("packages/").body] == ["scikit-learn"]


def test_a_runner_that_was_forgotten_is_not_in_it(api):
    says("runner@1", NUMPY)
    Runner.objects.all().delete()
    assert api.get("packages/").body == []


def test_it_may_be_asked_for_a_data_set(api, raw):
    says("runner@1", NUMPY)
    assert api.get("packages/", raw_data=raw.pk).body == api.get("packages/").body


@pytest.mark.parametrize(
    ("asked", "said"), [(77, "There is no data set 77"), ("iris", "valid integer"), (-1, "greater than")]
)
def test_it_rejects_a_data_set_that_is_not_there(api, asked, said):
    answer = api.get("packages/", raw_data=asked)
    assert answer.status == 400
    assert said in answer.body["raw_data"][0]


def test_it_rejects_a_caller_without_credentials(db):
    assert Api(None).get("packages/").status == 401


@pytest.mark.parametrize(
    "said",
    [
        None,
        "numpy",
        {"numpy": "2.4.6"},
        [None, 1, "numpy", ["numpy"], {}],
        [NUMPY | {"name": 7}],
        [NUMPY | {"version": None}],
        [NUMPY | {"version": "half of a pair: \ud800"}],
        [NUMPY | {"modules": "numpy"}],
        [NUMPY | {"modules": [["numpy"]]}],
        [NUMPY | {"name": "nul\0"}],
        [{"name": "numpy"}],
    ],
    ids=repr,
)
def test_what_a_runner_says_wrongly_spoils_no_answer(api, said):
    tasks.save_runner(report("runner@wrong", packages=said))
    says("runner@right", NUMPY)
    assert api.get("packages/").body == [NUMPY | {"runners": ["runner@right"]}]
    assert {runner["name"] for runner in api.get("runners/").body} == {"runner@wrong", "runner@right"}


def test_a_list_without_end_is_ignored(api, monkeypatch):
    monkeypatch.setattr(messages, "MAX_PACKAGES", 1000)
    says("runner@1", *(NUMPY | {"name": f"package-{number}"} for number in range(30)))
    assert api.get("packages/").body == []
