"""Read YAML into plain values and remember where each of them was written.

Own rules over PyYAML's parser: scalars as in YAML 1.2 (`no` is text, `5e-4` is a number, `010` is ten), no tags, no
duplicate keys, no merge keys, one document, limits on size, depth and aliases. Keys are always text, as written. Text
holds no characters that a terminal obeys or that show other text than there is.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdbench.redact import printable, shown

Path = tuple[str | int, ...]

MAX_BYTES = 64 * 1024  # PyYAML reads about 130 kB a second; validation has to answer within one
MAX_DEPTH = 16
MAX_ALIASES = 64
MAX_VALUES = 20_000  # counted after aliases are expanded

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = ("", "~", "null", "Null", "NULL")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written: `source:line:column`, counted from 1, or the override as it was typed.

    Places sort as a person reads: the file from top to bottom, then the overrides in their order.
    """

    order: int
    line: int
    column: int
    source: str

    def __str__(self) -> str:
        return self.source if self.order else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, and a sentence that says what is wrong, what is allowed and what to do."""

    place: Place
    text: str

    def __str__(self) -> str:
        """One line; characters that a terminal would obey are shown as escapes, and passwords as `***`."""
        return printable(shown(f"{self.place}: {self.text}"), keep="")


@dataclass
class Tree:
    """A document as plain values (dict, list, str, int, float, bool, None), the places of its keys and values, and the
    mistakes that were found while reading it."""

    source: str
    order: int = 0
    base: Path = ()
    root: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)  # values that were not understood, and stand as None in `root`

    def place(self, path: Path, at: str = "value") -> Place:
        """Where the value (or, with at="key", the key) of a path stands; for what is not there, its nearest parent."""
        if path and at == "key" and path in self.keys:
            return self.keys[path]
        if path in self.values:
            return self.values[path]
        return self.place(path[:-1], "key") if path else Place(self.order, 1, 1, self.source)

    def put(self, path: Path, other: Tree) -> None:
        """Replace the value at `path` by another tree. Raise KeyError with the path of a parent that is no mapping."""
        here = self.root
        for depth, part in enumerate(path[:-1], start=1):
            if here.get(part) is None:
                here[part] = {}
                self.keys[path[:depth]] = self.values[path[:depth]] = other.place(())
            here = here[part]
            if not isinstance(here, dict):
                raise KeyError(".".join(map(str, path[:depth])))
        for places in (self.keys, self.values):
            for old in [p for p in places if p[: len(path)] == path]:
                del places[old]
        here[path[-1]] = other.root
        self.keys |= {path + p: place for p, place in other.keys.items()} | {path: other.place(())}
        self.values |= {path + p: place for p, place in other.values.items()}
        self.problems += other.problems
        self.unread |= {path + p for p in other.unread}


def dotted(path: Path) -> str:
    """A path as people write it: `methods.kd.temperature`, `student.depth[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_yaml(text: str, source: str, order: int = 0, base: Path = ()) -> Tree:
    """Parse one YAML document. Mistakes are kept in `problems` of the tree, never raised.

    source: the name shown in messages. order > 0 and base: the text is the value of an override, which has no lines,
    and replaces what stands at `base`.
    """
    tree = Tree(source, order, base)
    tree.values[()] = tree.place(())
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        size = f"the text is longer than {MAX_BYTES // 1024} KiB, which no study needs. Shorten it."
        tree.problems.append(Problem(tree.place(()), size))
        tree.unread.add(())
        return tree
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets chr() fail on escapes such as \UFFFFFFFF
        tree.problems.append(_syntax_problem(error, text, tree, loader))
        tree.unread.add(())
        return tree
    if node is None:
        return tree
    reader = _Reader(tree)
    tree.root = reader.value(node, ())
    if reader.count >= MAX_VALUES:
        tree.problems.append(
            Problem(
                tree.place(()), f"aliases that hold themselves or more than {MAX_VALUES} values. Write the values out."
            )
        )
    return tree


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, which refuses tags, deep nesting and masses of aliases before it spends time on them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.MarkedYAMLError(None, None, f"more than {MAX_ALIASES} aliases", mark)
        elif event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.MarkedYAMLError(None, None, f"the tag '{tag}' is not allowed; write a plain value", mark)
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Turns composed nodes into values, and notes places and mistakes in the tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.count = 0

    def place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(self.tree.order, mark.line + 1, mark.column + 1, self.tree.source)

    def problem(self, node: yaml.Node, path: Path, text: str) -> None:
        path = self.tree.base + path
        prefix = f"{dotted(path)}: " if path else ""
        self.tree.problems.append(Problem(self.place(node), prefix + text))

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:  # aliases of aliases
            return None
        if len(path) > MAX_DEPTH:  # the parser refuses written nesting; an alias may still hold itself
            self.count = MAX_VALUES
            return None
        empty = isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None
        self.tree.values[path] = self.tree.keys[path] if empty and path in self.tree.keys else self.place(node)
        if isinstance(node, yaml.MappingNode):
            return {key: self.value(child, (*path, key)) for key, child in self.pairs(node, path)}
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, Place] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or _forbidden(key_node.value, ""):
                self.problem(key_node, path, "a key must be a word, not a list, a mapping or a broken character.")
            elif key_node.value == "<<" and key_node.style is None:
                self.problem(key_node, path, "merge keys ('<<') are not read. Write the keys out.")
            elif key_node.value in seen:
                first = f"first in line {seen[key_node.value].line}" if not self.tree.order else "in the same mapping"
                self.problem(key_node, (*path, key_node.value), f"written twice ({first}). Keep one of them.")
            else:
                seen[key_node.value] = self.tree.keys[(*path, key_node.value)] = self.place(key_node)
                yield key_node.value, child

    def unreadable(self, node: yaml.Node, path: Path, text: str) -> None:
        self.tree.unread.add(path)
        self.problem(node, path, text)

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = node.value
        if odd := _forbidden(text, "\n\t"):
            self.unreadable(node, path, f"holds {odd}.")
            return None
        if node.style is not None:  # quoted
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _NOT_FINITE.fullmatch(text):
            self.unreadable(node, path, f"got {text}. Allowed: finite numbers.")
            return None
        if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
            return self.number(node, path)
        return text

    def number(self, node: yaml.ScalarNode, path: Path) -> float | None:
        text = node.value
        value = float(text)
        if not math.isfinite(value) or (_INTEGER.fullmatch(text) and abs(value) >= 2**63):
            self.unreadable(node, path, "the number is too large. Allowed: up to 64 bits.")
            return None
        return int(text) if _INTEGER.fullmatch(text) else value


# Marks that turn the direction of writing: with them, a line of the file shows another text than kdbench reads.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _forbidden(text: str, allowed: str) -> str:
    """What kind of character the text may not hold, in words; empty if it is all right. allowed: control characters."""
    if text.isprintable():
        return ""
    for character in text:
        code = f"U+{ord(character):04X}"
        match unicodedata.category(character):
            case "Cs":
                return "half of a surrogate pair, which is not a character"
            case "Cc" if character not in allowed:
                return f"the control character {code}. Remove it"
        if character in _TURNING:
            return f"the mark {code}, which turns the direction of writing. Remove it"
    return ""


def _syntax_problem(error: Exception, text: str, tree: Tree, loader: _Loader | None) -> Problem:
    """PyYAML's complaint in one sentence, at the place it points to."""
    place, what = tree.place(()), str(error).splitlines()[0]
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        place = Place(tree.order, line, column, tree.source)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        what = f"the character U+{code:04X} is not allowed"
    elif isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            place = Place(tree.order, mark.line + 1, mark.column + 1, tree.source)
        begun = error.context_mark
        since = (
            f" begun in line {begun.line + 1}" if begun and mark and begun.line != mark.line and not tree.order else ""
        )
        what = f"{error.context}{since}: {error.problem}" if error.context else str(error.problem)
    elif loader is not None:  # a failure inside PyYAML, of which only the place is worth telling
        place = Place(tree.order, loader.line + 1, loader.column + 1, tree.source)
        what = "an escape or a directive holds an impossible number"
    hint = " Indent with spaces." if "'\\t'" in what else ""
    return Problem(place, f"not valid YAML: {what.rstrip('.')}.{hint}")
