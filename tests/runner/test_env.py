"""The environment is read with types, and what is wrong is said by the variable's name."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from runner import config, env
from runner.env import ConfigurationError
from runner.jobs import Limits

PREFIXES = ("DR_", "DATARUN_", "DIR_", "RMQ_", "IP_MASTER", "X_")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def given(monkeypatch):
    """given(NAME=value, ...) sets the variables."""

    def given(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return given


def test_a_text_is_taken_as_it_is(given):
    given(X_NAME=" a=b ")
    assert env.text("X_NAME") == " a=b "
    assert env.text("X_OTHER", "default") == "default"
    assert env.text("X_OTHER", "") == ""


def test_a_missing_variable_is_named_with_both_ways_to_set_it():
    with pytest.raises(ConfigurationError, match="X_NAME is not set.*X_NAME_FILE"):
        env.text("X_NAME")


def test_an_empty_variable_counts_as_missing(given):
    given(X_NAME="")
    assert not env.is_set("X_NAME")
    assert env.text("X_NAME", "default") == "default"
    with pytest.raises(ConfigurationError, match="X_NAME is not set"):
        env.text("X_NAME")


def test_a_secret_comes_from_a_file(given, tmp_path):
    (tmp_path / "secret").write_text("s3cret wörd\n")
    given(X_NAME_FILE=tmp_path / "secret")
    assert env.is_set("X_NAME")
    assert env.text("X_NAME") == "s3cret wörd"


def test_the_variable_itself_goes_before_its_file(given, tmp_path):
    given(X_NAME="direct", X_NAME_FILE=tmp_path / "absent")
    assert env.text("X_NAME") == "direct"


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe")]
)
def test_a_secret_file_that_can_not_be_read_is_named(make, given, tmp_path):
    make(tmp_path / "secret")
    given(X_NAME_FILE=tmp_path / "secret")
    with pytest.raises(ConfigurationError, match="X_NAME_FILE: "):
        env.text("X_NAME", "default")


def test_an_empty_secret_file_counts_as_missing(given, tmp_path):
    (tmp_path / "secret").write_text("\n")
    given(X_NAME_FILE=tmp_path / "secret")
    with pytest.raises(ConfigurationError, match="X_NAME is not set"):
        env.text("X_NAME")


@pytest.mark.parametrize(("value", "number"), [("5", 5.0), ("0.5", 0.5), ("1e3", 1000.0), (" 7 ", 7.0)])
def test_numbers(value, number, given):
    given(X_NUMBER=value)
    assert env.number("X_NUMBER", 1) == number
    assert env.number("X_OTHER", 2.5) == 2.5


@pytest.mark.parametrize("value", ["five", "0", "-1", "nan", "inf", "1e999", "5s", "0x10", "1,5"])
@pytest.mark.parametrize("read", [env.number, env.whole])
def test_what_is_no_number_above_the_bound_is_named(read, value, given):
    given(X_NUMBER=value)
    with pytest.raises(ConfigurationError, match=f"X_NUMBER is '{value}': it must be a number above 0"):
        read("X_NUMBER", 1)


def test_the_bound_itself_is_not_above_it(given):
    given(X_NUMBER="10")
    assert env.number("X_NUMBER", 1, low=9.99) == 10
    with pytest.raises(ConfigurationError, match="above 10"):
        env.number("X_NUMBER", 1, low=10)


def test_whole_numbers(given):
    given(X_NUMBER="1e3")
    whole = env.whole("X_NUMBER", 1)
    assert (whole, type(whole)) == (1000, int)
    given(X_NUMBER="2.5")
    with pytest.raises(ConfigurationError, match="X_NUMBER is 2.5: it must be a whole number"):
        env.whole("X_NUMBER", 1)


def test_a_choice_names_the_others(given):
    assert env.choice("X_CHOICE", "DEV", ("DEV", "PROD")) == "DEV"
    given(X_CHOICE="PROD")
    assert env.choice("X_CHOICE", "DEV", ("DEV", "PROD")) == "PROD"
    given(X_CHOICE="prod")
    with pytest.raises(ConfigurationError, match="X_CHOICE is 'prod': it must be one of DEV, PROD"):
        env.choice("X_CHOICE", "DEV", ("DEV", "PROD"))


def test_a_folder_is_absolute(given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value, folder in (
        ("here", tmp_path / "here"),
        ("~/there", tmp_path / "home" / "there"),
        ("/srv/x", Path("/srv/x")),
    ):
        given(X_FOLDER=value)
        assert env.folder("X_FOLDER", tmp_path) == folder


def test_data_and_submissions_lie_below_home_or_where_they_are_told(given, tmp_path):
    given(DATARUN_HOME=tmp_path)
    assert config.dir_data() == tmp_path / "data"
    assert config.dir_submission() == tmp_path / "submission"
    given(DIR_DATA=tmp_path / "d", DIR_SUBMISSION=tmp_path / "s")
    assert config.dir_data() == tmp_path / "d"
    assert config.dir_large().parent == config.dir_submission() == tmp_path / "s"


def test_without_a_broker_the_queues_and_results_are_files(given, tmp_path):
    given(DATARUN_HOME=tmp_path)
    assert not config.has_broker()
    assert "amqp" not in config.broker_url()
    assert config.result_url() == f"file://{tmp_path / 'results'}"


SERVICES = {
    "RMQ_VHOST": "proj/one",
    "IP_MASTER": "10.0.0.1",
    "DR_DATABASE_USER": "ada@x",
    "DR_DATABASE_PASSWORD": "p:/@?#%w ö",
}


def test_names_and_passwords_of_any_letters_are_quoted_in_urls(given):
    given(**SERVICES)
    broker = urlsplit(config.broker_url())
    assert (broker.scheme, broker.hostname) == ("amqp", "10.0.0.1")
    assert unquote(broker.username) == "ada@x"
    assert unquote(broker.password) == "p:/@?#%w ö"
    assert unquote(broker.path[1:]) == "proj/one"
    assert broker.path.count("/") == 1
    assert not broker.query
    assert not broker.fragment
    results = urlsplit(config.result_url())
    assert (results.scheme, results.hostname, results.port, results.path) == ("redis", "10.0.0.1", 6379, "/0")
    assert unquote(results.password) == "p:/@?#%w ö"


def test_the_password_of_the_services_may_come_from_a_file(given, tmp_path):
    (tmp_path / "secret").write_text("from a file\n")
    variables = SERVICES | {"DR_DATABASE_PASSWORD": "", "DR_DATABASE_PASSWORD_FILE": tmp_path / "secret"}
    given(**variables)
    assert unquote(urlsplit(config.broker_url()).password) == "from a file"


def test_urls_that_are_given_are_taken_as_they_are(given):
    given(DATARUN_BROKER_URL="amqps://u:p@broker:5671/v", DATARUN_RESULT_URL="rediss://:p@store:6380/2")
    assert config.has_broker()
    assert config.broker_url() == "amqps://u:p@broker:5671/v"
    assert config.result_url() == "rediss://:p@store:6380/2"


@pytest.mark.parametrize("missing", sorted(set(SERVICES) - {"RMQ_VHOST"}))
def test_half_a_broker_is_refused(missing, given):
    given(**{name: value for name, value in SERVICES.items() if name != missing})
    with pytest.raises(ConfigurationError, match=f"{missing} is not set"):
        config.broker_url()


def test_a_broker_without_a_place_for_results_is_refused(given):
    given(DATARUN_BROKER_URL="amqp://u:p@broker/v")
    with pytest.raises(ConfigurationError, match="DR_DATABASE_PASSWORD is not set"):
        config.result_url()


def test_the_limits(given):
    assert config.limits() == Limits(soft_time=300, hard_time=360)
    given(DR_SOFT_TIME_LIMIT="1.5", DR_HARD_TIME_LIMIT="2")
    assert config.limits() == Limits(soft_time=1.5, hard_time=2)


@pytest.mark.parametrize(
    "variables",
    [
        {"DR_SOFT_TIME_LIMIT": "360"},
        {"DR_HARD_TIME_LIMIT": "300"},
        {"DR_HARD_TIME_LIMIT": "20"},
        {"DR_SOFT_TIME_LIMIT": "5", "DR_HARD_TIME_LIMIT": "4.9"},
    ],
    ids=str,
)
def test_a_soft_limit_at_or_past_the_hard_one_is_refused(variables, given):
    given(**variables)
    with pytest.raises(ConfigurationError, match="DR_SOFT_TIME_LIMIT .* must be below DR_HARD_TIME_LIMIT"):
        config.limits()


def test_a_limit_that_is_no_number_is_refused(given):
    given(DR_HARD_TIME_LIMIT="6 min")
    with pytest.raises(ConfigurationError, match="DR_HARD_TIME_LIMIT is '6 min'"):
        config.limits()


def test_an_authority_that_is_no_certificate_is_named(given, tmp_path):
    (tmp_path / "ca.pem").write_text("not one")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        given(DATARUN_BROKER_URL="amqps://master//", DATARUN_CA_FILE=path)
        with pytest.raises(ConfigurationError, match=f"DATARUN_CA_FILE names {path}: it must be a readable file"):
            config.broker_tls()


def test_an_address_without_tls_takes_no_authority(given, tmp_path):
    given(
        DATARUN_BROKER_URL="amqp://master//", DATARUN_RESULT_URL="redis://master", DATARUN_CA_FILE=tmp_path / "ca.pem"
    )
    assert config.broker_tls() is None
    assert config.result_tls() is None


def test_folds_get_the_variables_that_decide_how_numbers_are_computed(given, monkeypatch):
    for name in config.NUMERIC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert config.fold_variables() == {}
    given(OPENBLAS_CORETYPE="Haswell", MKL_CBWR="COMPATIBLE", X_OTHER="not asked for")
    assert config.fold_variables() == {"OPENBLAS_CORETYPE": "Haswell", "MKL_CBWR": "COMPATIBLE"}


def test_folds_get_the_variables_that_the_operator_names(given):
    given(DATARUN_FOLD_VARIABLES=" X_ONE,X_TWO, ", X_ONE="a b=c", X_TWO="", X_OTHER="not asked for")
    given_to_folds = config.fold_variables()
    assert {name: value for name, value in given_to_folds.items() if name.startswith("X_")} == {
        "X_ONE": "a b=c",
        "X_TWO": "",
    }


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("X_ONE=5", "has 'X_ONE=5': it must be names of variables, comma-separated, without values"),
        ("X ONE", "has 'X ONE': it must be names of variables"),
        ("DR_DATABASE_PASSWORD", "names DR_DATABASE_PASSWORD: a submission must not see datarun's settings"),
        ("X_ONE,DATARUN_BROKER_URL", "names DATARUN_BROKER_URL: a submission must not see"),
        ("USER_PSWD", "names USER_PSWD: a submission must not see"),
        ("X_ONE,X_ABSENT", "names X_ABSENT, which is not set: set or omit it"),
    ],
)
def test_it_rejects_variables_that_folds_can_not_get(names, problem, given):
    given(DATARUN_FOLD_VARIABLES=names, X_ONE="1", DR_DATABASE_PASSWORD="secret")
    with pytest.raises(ConfigurationError, match=f"DATARUN_FOLD_VARIABLES {re.escape(problem)}"):
        config.fold_variables()
