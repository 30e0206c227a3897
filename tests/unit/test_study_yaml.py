"""The YAML of study files: YAML 1.2's scalars, with places, without tags and tricks."""

from __future__ import annotations

import pytest

from kdbench.study.yaml_source import MAX_ALIASES, MAX_BYTES, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005), ("1.0e6", 1e6), ("1e3", 1000.0), (".5", 0.5), ("-3", -3), ("+7", 7), ("010", 10),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("no", "no"), ("on", "on"),
        ("0x10", "0x10"), ("1_000", "1_000"), ("12:30:45", "12:30:45"), ("2024-01-01", "2024-01-01"), ("'5'", "5"),
        ('"true"', "true"), ("inf", "inf"), ("[1, a]", [1, "a"]), ("{a: 1, 2: b}", {"a": 1, "2": "b"}),
    ],
)  # fmt: skip
def test_a_scalar_means_what_it_means_in_yaml_1_2(text: str, value: object) -> None:
    tree = read_yaml(f"x: {text}", "f")
    assert tree.problems == []
    assert tree.root == {"x": value}
    assert type(tree.root["x"]) is type(value)


def test_keys_and_values_know_their_line_and_column() -> None:
    tree = read_yaml("a:\n  b: [1, {c: 2}]\n  d:\n", "f.yaml")
    assert str(tree.place(("a",), "key")) == "f.yaml:1:1"
    assert str(tree.place(("a", "b"), "key")) == "f.yaml:2:3"
    assert str(tree.place(("a", "b"))) == "f.yaml:2:6"
    assert str(tree.place(("a", "b", 1, "c"))) == "f.yaml:2:14"
    assert str(tree.place(("a", "d"))) == "f.yaml:3:3"  # an empty value stands where its key does
    assert str(tree.place(("a", "missing"))) == "f.yaml:1:1"  # what is missing, where its parent does


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object:os.system x", "f:1:4: not valid YAML: the tag '!!python/object:os.system' is not allowed"),
        ("a: .inf", "f:1:4: a: got .inf. Allowed: finite numbers."),
        ("a: 1e999", "f:1:4: a: the number is too large. Allowed: up to 64 bits."),
        ("a: 99999999999999999999", "f:1:4: a: the number is too large. Allowed: up to 64 bits."),
        ("a: 1\n--- \nb: 2", "f:2:1: not valid YAML: expected a single document in the stream begun in line 1: but"),
        ("[a]: 1", "f:1:1: a key must be a word"),
        ("a: *b", "f:1:4: not valid YAML: found undefined alias 'b'."),
        ('a: "\\UFFFFFFFF"', "f:1:7: not valid YAML: an escape or a directive holds an impossible number."),
        ('a: "\\uD800"', "f:1:4: a: holds half of a surrogate pair, which is not a character."),
        ("a: \x01", "f:1:4: not valid YAML: the character U+0001 is not allowed."),
        ("a: &x [*x]", "f:1:1: aliases that hold themselves or more than 20000 values. Write the values out."),
        ("[" * 5000, "f:1:17: not valid YAML: nested more than 16 levels deep."),
        ("a: &x 1\nb: [" + "*x, " * (MAX_ALIASES + 1) + "]", "f:2:261: not valid YAML: more than 64 aliases."),
        ("#" * (MAX_BYTES + 1), "f:1:1: the text is longer than 64 KiB"),
        ("a: " + "9" * 5000, "f:1:4: a: the number is too large."),
    ],
)
def test_what_no_study_needs_is_refused_at_its_place(text: str, message: str) -> None:
    assert str(read_yaml(text, "f").problems[0]).startswith(message)


def test_aliases_that_multiply_are_cut_short() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 8)]  # 8^8 values
    tree = read_yaml("\n".join(lines), "f")
    assert "more than 20000 values" in str(tree.problems[0])


def test_an_alias_repeats_what_its_anchor_holds() -> None:
    tree = read_yaml("a: &x {epochs: 3}\nb: *x\n", "f")
    assert tree.problems == []
    assert tree.root == {"a": {"epochs": 3}, "b": {"epochs": 3}}
