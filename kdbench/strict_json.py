"""Read JSON that others may have written or a disk may have damaged: a value, or a ValueError of one sentence.

Beyond Python's own parser: limits on size and depth, no key twice in a mapping, no NaN or infinity, no half of a
surrogate pair, and only plain files, so that reading never waits for a pipe or a device.
"""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 16 * 2**20  # a record of 10,000 epochs and twenty curves takes half of it
MAX_DEPTH = 32


def read(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value that a file holds. Raise ValueError that says what is wrong with it, OSError if it cannot be read."""
    return loads(read_bytes(path, max_bytes), max_bytes)


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a plain file of a limited size. Raise ValueError for any other, OSError if it cannot be read."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("not a plain file")
    if facts.st_size > max_bytes:
        raise ValueError(f"{facts.st_size} bytes. Allowed: up to {max_bytes}")
    with path.open("rb") as file:
        return file.read(max_bytes + 1)


def loads(content: bytes | str, max_bytes: int = MAX_BYTES, *, nan: bool = False) -> Any:
    """The value that the text of a JSON document stands for. nan: allow NaN and infinities, as Python writes them.

    Raise ValueError that says what is wrong.
    """
    if len(content) > max_bytes:
        raise ValueError(f"more than {max_bytes} bytes")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = _parse(text, nan)
        if isinstance(content, str) or "\\u" in text:  # in UTF-8 only an escape can be half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
        if _check(value, MAX_DEPTH) and not nan:
            _parse(text, nan, parse_float=_finite)  # slower, and says which number it is
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    except UnicodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason if hasattr(error, 'reason') else error})") from None
    return value


def _parse(text: str, nan: bool, **options: Any) -> Any:
    """The value of a text, without the checks that need the whole of it."""
    constant = None if nan else _refuse_constant
    return json.loads(text, object_pairs_hook=_mapping, parse_constant=constant, **options)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice[:40]}' stands twice in one mapping")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _check(value: Any, levels: int) -> bool:
    """Whether there is an infinity among the numbers. Raise ValueError for deeper nesting than `levels`."""
    if not isinstance(value, (dict, list)):
        return isinstance(value, float) and math.isinf(value)
    if levels == 0:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    items = value if isinstance(value, list) else value.values()
    found = math.inf in items or -math.inf in items  # in C: a record has thousands of numbers
    if not {dict, list}.isdisjoint(map(type, items)):
        for item in items:
            if isinstance(item, (dict, list)):
                found |= _check(item, levels - 1)
    return found
