"""What must not leave kdbench: passwords and tokens in text, and characters that a terminal obeys."""

from __future__ import annotations

import logging

import pytest

from kdbench.redact import printable, redact, redact_addresses, redact_logs, redacted, remember
from kdbench.track.address import is_loopback, with_password, without_user

SECRET = "s3cr3t-hunter2"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"postgresql://me:{SECRET}@db/runs", "postgresql://me:***@db/runs"),
        (f"postgresql+psycopg2://:{SECRET}@db/runs", "postgresql+psycopg2://:***@db/runs"),
        (f"http://{SECRET}@host:5000/", "http://***@host:5000/"),
        (f"https://me:a/{SECRET}@x@host:1/p?q=1", "https://me:***@host:1/p?q=1"),
        (f"got 'mysql://me:{SECRET[:4]}...'. Allowed", "got 'mysql://me:***...'. Allowed"),
        (
            f"s3://bucket/x?AWSAccessKeyId=AB&Signature={SECRET}&x=1",
            "s3://bucket/x?AWSAccessKeyId=***&Signature=***&x=1",
        ),
        (f"az://c/x?sig={SECRET}#f", "az://c/x?sig=***#f"),
        (f"postgresql://h/db?user=u&password={SECRET}", "postgresql://h/db?user=u&password=***"),
        (f"connect(host=db password={SECRET} port=1)", "connect(host=db password=*** port=1)"),
        (f"{{'password': '{SECRET}', 'user': 'me'}}", "{'password': ***, 'user': 'me'}"),
        (f"MLFLOW_TRACKING_TOKEN={SECRET}", "MLFLOW_TRACKING_TOKEN=***"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        ("Authorization: Basic bWU6aHVudGVyMg==", "Authorization: Basic ***"),
        ("key AKIAIOSFODNN7EXAMPLE was refused", "key *** was refused"),
        (f"got 'me:{SECRET}@host'. Allowed", "got 'me:***@host'. Allowed"),
        (f"got 'me:{SECRET[:9]}...'. Allowed", "got 'me:***...'. Allowed"),
        (f"two: a://u:{SECRET}@h and b://u:{SECRET}@h", "two: a://u:***@h and b://u:***@h"),
    ],
)
def test_a_secret_is_hidden_and_what_stands_around_it_is_not(text: str, hidden: str) -> None:
    assert redact(text) == hidden
    assert redact(redact(text)) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/#/experiments/1", "http://127.0.0.1:8080", "sqlite:////tmp/mlflow.db", "me@example.org",
        "studies/x.yaml:3:5: methods.kd.token: unknown field", "abfs://container@account/x?y=1", "a == b", "ratio 1:2",
        "postgresql://me@host/db", "http://host:5000/...", "tokens=5",
        "at 12:30:45 me@example.org wrote", "x.py:12:7: methods.kd: got 'a...'", "user@host:folder/file",
    ],
)  # fmt: skip
def test_text_without_a_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_the_password_of_an_address_in_use_is_hidden_outside_of_it_too() -> None:
    assert SECRET in redact(f"the server refused {SECRET}")
    remember(f"postgresql://me:{SECRET}@db/runs")
    assert redact(f"the server refused {SECRET}!") == "the server refused ***!"


def test_an_escaped_password_is_hidden_in_both_spellings() -> None:
    remember("postgresql://me:p%40ss%2Fword@db/runs")
    assert redact("tried p@ss/word, then p%40ss%2Fword") == "tried ***, then ***"


def test_a_short_password_is_hidden_in_its_address_only() -> None:
    remember("postgresql://me:kd@db/runs")
    assert redact("kd beats scratch; postgresql://me:kd@db") == "kd beats scratch; postgresql://me:***@db"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MY_API_KEY"])
def test_secrets_of_the_environment_are_hidden_by_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redact(f"error near {SECRET}") == "error near ***"


def test_a_variable_of_another_kind_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "some-folder")
    assert redact("some-folder is full") == "some-folder is full"


def test_plain_values_are_cleaned_at_any_depth() -> None:
    value = {"a": [f"x://u:{SECRET}@h", 1, None], "password": SECRET, "n": 2.5, "hub_token": ""}
    assert redacted(value) == {"a": ["x://u:***@h", 1, None], "password": "***", "n": 2.5, "hub_token": ""}
    assert redacted({"password": "x"}, redact_addresses) == {"password": "x"}, "a study is read back: only addresses"


def test_what_a_terminal_obeys_is_shown() -> None:
    assert printable("a\x1b[31mb\nc\u202e\x9b1m") == "a\\x1b[31mb\nc\\u202e\\x9b1m"
    assert printable("line\nbreak", keep="") == "line\\nbreak"
    assert printable("größer → λ") == "größer → λ"


def test_logs_of_any_library_lose_their_secrets(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    try:
        redact_logs()
        redact_logs()
        logging.getLogger("sqlalchemy.engine").warning("connecting to %s", f"postgresql://me:{SECRET}@db")
        logging.getLogger("other").warning("plain %d", 3)
        assert caplog.messages == ["connecting to postgresql://me:***@db", "plain 3"]
    finally:
        logging.setLogRecordFactory(before)


def test_a_hidden_password_comes_from_the_environment_where_the_store_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@db/runs")
    assert with_password("postgresql://me:***@db/runs") == f"postgresql://me:{SECRET}@db/runs"
    assert with_password("postgresql://me:***@other/runs") == "postgresql://me@other/runs", "PGPASSWORD or ~/.pgpass"
    assert with_password("http://me:***@host:5000") == "http://host:5000", "MLFLOW_TRACKING_USERNAME and _PASSWORD"
    assert with_password("http://***@host:5000") == "http://host:5000"
    assert with_password("sqlite:///x.db") == "sqlite:///x.db"


def test_an_address_is_taken_apart_at_its_user() -> None:
    assert without_user("http://me:p%40x@host:1/a@b") == ("http://host:1/a@b", "me:p@x")
    assert without_user("http://host:1/a@b") == ("http://host:1/a@b", "")
    assert without_user("http://[::1") == ("http://[::1", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.0.3", "example.org", "127.0.0.1.example.org", "2130706433"]
)
def test_every_other_address_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
