"""Records that are not what `Store.write` wrote are refused with a message, whatever is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from untrusted import file, record, spec

from kdbench.errors import KdbenchError, RecordError
from kdbench.store import Store, parse_record


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    value = json.loads(json.dumps(record().to_json()))
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["result"].update(val_top1_pct=True), "result.val_top1_pct"),
        (lambda r: r["result"].update(val_top1_pct="91"), "result.val_top1_pct"),
        (lambda r: r["result"].update(val_top1_pct=[1]), "result.val_top1_pct"),
        (lambda r: r["curves"].update(train_loss=1.0), "curves.train_loss"),
        (lambda r: r["curves"].update(train_loss=[1.0, False]), "curves.train_loss.1"),
        (lambda r: r.update(curves=[]), "curves"),
        (lambda r: r.update(environment=None), "environment"),
        (lambda r: r.update(attempts=True), "attempts"),
        (lambda r: r.update(attempts=-1), "attempts"),
        (lambda r: r.update(wall_s="9"), "wall_s"),
        (lambda r: r.update(started="yesterday"), "started"),
        (lambda r: r.update(error=5), "error"),
        (lambda r: r.update(status=None), "status"),
        (lambda r: r.update(key="../../../etc/passwd"), "key"),
        (lambda r: r.update(spec=None), "spec"),
        (lambda r: r["spec"].update(seed=True), "spec.seed"),
        (lambda r: r["spec"].update(seed=2**80), "spec.seed"),
        (lambda r: r["spec"].update(teacher="../x"), "spec.teacher"),
        (lambda r: r["spec"].update(members=["../x"]), "spec.members.0"),
        (lambda r: r["spec"].update(method={"name": ["kd"]}), "spec.method.name"),
        (lambda r: r["spec"]["slot"].update(chosen="x" * 16), "spec.slot.chosen"),
        (lambda r: r["spec"]["slot"].update(repeat=0.5), "spec.slot.repeat"),
        (lambda r: r["spec"].update(seed=8), "the key is .*, but the spec hashes to"),
        (lambda r: r.update(schema=True), "schema"),
        (lambda r: r.update(more=1), "missing or unknown fields: more"),
        (lambda r: r.pop("wall_s"), "missing or unknown fields: wall_s"),
    ],
)
def test_a_record_with_a_field_of_the_wrong_type_is_refused_by_name(
    change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        parse_record(json.dumps(changed(change)))


def test_what_was_written_is_read() -> None:
    assert parse_record(json.dumps(record().to_json())) == record()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000, b'{"environment":' * 50_000, b"NaN", b"null", b"3", b'"text"', b"[]", b"{}", b"\x00" * 100,
        b'{"schema": 1, "schema": 1}', b'{"schema": 1, "environment": {"x": NaN}}', b"\xff\xfe", b"1" * 5000,
    ],
)  # fmt: skip
def test_damage_of_every_kind_is_set_aside_and_the_rest_is_read(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.write(record())
    (tmp_path / "records" / "0000000000000000.json").write_bytes(content)
    records, messages = store.read_all()
    assert list(records) == [record().key]
    assert len(messages) == 1 and "\n" not in messages[0] and len(messages[0]) < 1000


def test_a_record_under_the_name_of_another_is_set_aside(tmp_path: Path) -> None:
    file(tmp_path, record().to_json(), "0000000000000000")
    records, messages = Store(tmp_path).read_all()
    assert not records and "holds the record of" in messages[0]


def test_a_message_about_a_record_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    value = changed(lambda r: r.update({"\x1b]0;owned\x07": 1}))
    file(tmp_path, value)
    with pytest.raises(RecordError) as caught:
        Store(tmp_path).read(value["key"])
    assert "\x1b" not in str(caught.value) and "\\x1b]0;owned" in str(caught.value)


def test_an_error_is_filed_without_secrets_and_without_escapes(tmp_path: Path) -> None:
    error = "OperationalError: postgresql://me:s3cr3t-hunter2@db \x1b[31mrefused"
    facts = {"traceback": "line 1\nMLFLOW_TRACKING_TOKEN=s3cr3t-hunter2\n"}
    bad = record(status="failed", error=error, environment=facts)
    store = Store(tmp_path)
    store.write(bad)
    found = store.read(bad.key)
    assert found.error == "OperationalError: postgresql://me:***@db \\x1b[31mrefused"
    assert found.environment == {"traceback": "line 1\nMLFLOW_TRACKING_TOKEN=***\n"}
    assert found.spec == bad.spec, "a spec is hashed, so it is never changed"


def test_the_study_is_stored_without_passwords_and_is_still_the_study(tmp_path: Path) -> None:
    address = "postgresql://me:s3cr3t-hunter2@db/runs"
    store = Store(tmp_path)
    store.write_study({"study": "s", "track": {"mlflow": address}}, f"study: s\ntrack: {{mlflow: '{address}'}}\n")
    assert store.read_study() == {"study": "s", "track": {"mlflow": "postgresql://me:***@db/runs"}}
    assert (tmp_path / "study.yaml").read_text() == "study: s\ntrack: {mlflow: 'postgresql://me:***@db/runs'}\n"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": 1, "a": 2}', "[]", "NaN", '{"x": 1e999}'])
def test_a_study_json_that_is_none_is_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(KdbenchError, match=r"study\.json cannot be read as a study: .*Run `kdbench run`"):
        Store(tmp_path).read_study()


def test_specs_of_any_hyper_parameters_are_read() -> None:
    odd = record(spec(method={"name": "combine", "order": ["kd"], "parts": {"kd": {}}, "weights": {"kd": 1}}))
    assert parse_record(json.dumps(odd.to_json())) == odd
