"""Fuzz what reads the files of others: `python benchmarks/fuzz.py --examples 12000 --seed 1`.

Each generated input must be accepted, or refused with a message: one line for each mistake, nothing that a terminal
obeys, in less than TIME_LIMIT_S. Any other exception, a hang, or an accepted value that does not survive being written
and read again is a failure; the command then ends with status 1. `--out FILE` writes the counts as Markdown. It needs
no data set beyond `digits` and takes one core. The test suite runs the same targets with fewer examples.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kdbench.errors import KdbenchError, RecordError, StudyError
from kdbench.record import TrialSpec
from kdbench.store import Store, parse_record
from kdbench.study.load import load_study
from kdbench.study.schema import Study

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT_S = 10.0  # of one input; the slowest takes some tenths of a second on two busy cores

WORDS = (
    "study", "data", "name", "digits", "wine", "folder", "table", "label", "test", "size", "teacher", "student",
    "model", "cnn", "mlp", "resnet", "depth", "width", "each", "max_params", "methods", "kd", "fitnet", "scratch",
    "temperature",
    "lambda", "layer", "stage1", "combine", "weights", "method", "start", "low", "high", "log", "step", "search",
    "trials", "repeats", "shared", "lr", "train", "epochs", "milestones", "schedule", "objectives", "val_top1_pct",
    "params", "reference", "pareto", "source", "finetune", "classes", "auto", "final", "select", "seeds", "networks",
    "checkpoint", "sha256", "ensemble", "pairs", "resources", "executor", "local", "ray_address", "track", "mlflow",
    "off", "question", "", "..", "../../etc/passwd", "/dev/zero", "/etc", "a\x00b", "\x1b[31m", "x" * 300, "é",
    "\u202e", "http://me:secret@host:1", "__proto__", "{{7*7}}", "<script>", "=1+1", "~", "-", "*", "&a",
    "!!python/object:os.system",
)  # fmt: skip
PIECES = (
    *WORDS, ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "? ", "|\n", ">", "'", '"', "#",
    "\t", "---\n", "...\n", "%YAML 1.2\n", "%TAG ! x\n", "<<", "\\U", "\\x1b", "\ufeff", "\x85", "\u2028", "\x00",
    "\ud800", "0x1", "1e999", ".nan", "-.inf", "9" * 20, "9" * 5000,
    "true", "null", "2026-01-01", "1_000", "[" * 40, "{a: " * 40,
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 1e308, 5e-324, 0.1, 1e-9)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(NUMBERS), st.sampled_from(WORDS),
    st.text(max_size=8),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def studies() -> list[str]:
    """The texts of the reference studies."""
    return [path.read_text() for path in sorted((ROOT / "studies").glob("*.yaml"))]


def records() -> list[dict[str, Any]]:
    """One committed record of each phase and status of each reference study."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in sorted((ROOT / "results").glob("*/records/*.json")):
        value = json.loads(path.read_text())
        found.setdefault((path.parts[-3], value["spec"]["phase"], value["status"]), value)
    return list(found.values())


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for part in path:
        value = value[part]
    return value


@st.composite
def mutated(draw: st.DrawFn, bases: list[Any]) -> Any:
    """One of the values with one to three of its parts replaced, removed, renamed, moved or wrapped."""
    value = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(value))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        holder, key = at(value, path[:-1]), path[-1]
        match draw(st.sampled_from(["replace", "remove", "rename", "move", "wrap"])):
            case "replace":
                holder[key] = draw(values)
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS))] = holder.pop(key)
            case "move":
                holder[key] = copy.deepcopy(at(value, draw(st.sampled_from(paths))))
            case _:
                holder[key] = draw(st.sampled_from([[holder[key]], {"low": holder[key]}, str(holder[key])]))
    return value


@st.composite
def edited(draw: st.DrawFn, bases: list[bytes]) -> bytes:
    """One of the texts with one to four bytes flipped, spans removed or repeated, or pieces put in."""
    text = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(text) - 1, 0)))
        stop = min(start + draw(st.integers(1, 40)), len(text))
        match draw(st.sampled_from(["flip", "remove", "repeat", "insert", "cut"])):
            case "flip" if text:
                text[start] ^= 1 << draw(st.integers(0, 7))
            case "remove":
                del text[start:stop]
            case "repeat":
                text[start:start] = text[start:stop] * draw(st.integers(1, 50))
            case "cut":
                del text[start:]
            case _:
                text[start:start] = draw(st.sampled_from(PIECES)).encode("utf-8", "surrogatepass")
    return bytes(text)


@st.composite
def with_fitting_key(draw: st.DrawFn, bases: list[Any]) -> Any:
    """A mutated record whose key is that of its spec, as far as it still has one: what a forger would write."""
    value = draw(mutated(bases))
    try:
        value["key"] = TrialSpec.from_json(value["spec"]).key
    except Exception:  # there is no spec left that has a key
        return value
    return value


def as_yaml(value: Any) -> bytes:
    """A study as text; what YAML cannot hold is left to the reader to refuse."""
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_json(value: Any) -> bytes:
    """A record as text, with NaN where there is one."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def read_study(content: bytes) -> None:
    """Load a study; raise StudyError, or AssertionError where what was accepted is not what is stored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.yaml"
        path.write_bytes(content)
        study = load_study(path)
    assert Study.model_validate(json.loads(json.dumps(study.to_json()))) == study
    for cell in study.cells():
        for row in study.methods:
            assert list(study.space(row, cell)) == list(study.defaults(row, cell))


def read_override(content: bytes) -> None:
    """Load a sound study with an override."""
    load_study(ROOT / "studies" / "digits.yaml", [content.decode("utf-8", "replace")])


def read_record(content: bytes) -> None:
    """Read a record; raise RecordError, or AssertionError where what was accepted is not what is stored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records" / "0123456789abcdef.json"
        path.parent.mkdir()
        path.write_bytes(content)
        found, messages = Store(Path(folder)).read_all()
        assert not found or found.popitem()[0] == "0123456789abcdef"
        assert all("\n" not in message for message in messages)
    try:
        record = parse_record(content)
    except (ValueError, TypeError, KeyError) as error:  # which Store.read names the file in
        raise RecordError(" ".join(str(error).split()) or type(error).__name__) from error
    stored = json.dumps(record.to_json(), allow_nan=False, ensure_ascii=False).encode()
    assert parse_record(stored) == record


def read_study_json(content: bytes) -> None:
    """Read the resolved study of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.json").write_bytes(content)
        Store(Path(folder)).read_study()


Read = Callable[[bytes], None]
pieces = st.lists(st.sampled_from(PIECES), max_size=30).map(
    lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
)


def targets() -> dict[str, tuple[st.SearchStrategy[bytes], Read]]:
    """What is fuzzed: by name, how inputs are made and what reads them."""
    texts, documents, stored = studies(), [yaml.safe_load(text) for text in studies()], records()
    names = st.sampled_from([".".join(map(str, path)) for path in places(documents[0])]) | st.text(max_size=20)
    return {
        "study: bytes": (st.binary(max_size=200), read_study),
        "study: pieces of YAML": (pieces, read_study),
        "study: any YAML values": (
            st.dictionaries(st.sampled_from(WORDS), values, max_size=6).map(as_yaml),
            read_study,
        ),
        "study: mutated": (mutated(documents).map(as_yaml), read_study),
        "study: edited text": (edited([text.encode() for text in texts]), read_study),
        "study: overrides": (
            st.tuples(names, pieces).map(lambda pair: pair[0].encode() + b"=" + pair[1]),
            read_override,
        ),
        "record: bytes": (st.binary(max_size=200), read_record),
        "record: any JSON values": (values.map(as_json), read_record),
        "record: mutated": (mutated(stored).map(as_json), read_record),
        "record: mutated, key made to fit": (with_fitting_key(stored).map(as_json), read_record),
        "record: edited text": (edited([as_json(value) for value in stored]), read_record),
        "study.json: edited text": (edited([json.dumps(value).encode() for value in documents]), read_study_json),
    }


@dataclass
class Count:
    """What came of the inputs of one target. failures: one line each, with what was raised and the input's repr."""

    accepted: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


@contextmanager
def limited(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError within the block after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(read: Read, content: bytes, count: Count) -> None:
    """Give one input to a reader and count what comes of it."""
    began = time.monotonic()
    try:
        with limited(TIME_LIMIT_S):
            read(content)
        count.accepted += 1
    except KdbenchError as error:
        lines = error.problems if isinstance(error, StudyError) else str(error).split("\n")
        if all(line.strip() and line.isprintable() for line in lines):
            count.refused += 1
        else:
            count.failures.append(f"a message of several lines or with control characters: {lines!r}: {content!r}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        count.failures.append(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno}): {content!r}")
    count.slowest_s = max(count.slowest_s, time.monotonic() - began)


def fuzz(strategy: st.SearchStrategy[bytes], read: Read, examples: int, seed: int) -> Count:
    """Give a reader so many inputs."""
    count = Count()

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(content: bytes) -> None:
        judge(read, content, count)

    run()
    return count


def table(counts: dict[str, Count], seed: int, examples: int, wall_s: float) -> str:
    """The counts as Markdown, with all that is needed to make them again."""
    total = Count(sum(c.accepted for c in counts.values()), sum(c.refused for c in counts.values()))
    total.failures = [failure for c in counts.values() for failure in c.failures]
    total.slowest_s = max(c.slowest_s for c in counts.values())
    rows = [
        f"| {name} | {c.accepted + c.refused + len(c.failures)} | {c.accepted} | {c.refused} | {len(c.failures)} | "
        f"{c.slowest_s:.2f} |"
        for name, c in [*counts.items(), ("**all**", total)]
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("kdbench", "hypothesis", "PyYAML", "pydantic"))
    return "\n".join([
        "# Fuzzing the study loader and the record reader", "",
        "Each input must be accepted, or refused with a message of one printable line for each mistake, within "
        f"{TIME_LIMIT_S:g} s. Anything else", "is a failure: another exception, a hang, an accepted value that is not "
        "the same after being written and read again.", "",
        f"    python benchmarks/fuzz.py --examples {examples} --seed {seed}", "",
        f"{datetime.now(UTC):%Y-%m-%d}; {packages}; Python {platform.python_version()}; {platform.system()} "
        f"{platform.machine()}; one thread; {wall_s:.0f} s.", "",
        "| target | inputs | accepted | refused with a message | failures | slowest, s |",
        "|---|---:|---:|---:|---:|---:|",
        *rows, "",
    ])  # fmt: skip


def main() -> int:
    """Fuzz all targets, print the counts, return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=12_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a Markdown file for the counts")
    arguments = parser.parse_args()
    began = time.monotonic()
    counts: dict[str, Count] = {}
    found = targets()
    for number, (name, (strategy, read)) in enumerate(found.items()):
        counts[name] = fuzz(strategy, read, -(-arguments.examples // len(found)), arguments.seed + number)
        print(f"{name}: {counts[name].accepted} accepted, {counts[name].refused} refused", flush=True)
        for failure in counts[name].failures[:5]:
            print(f"  FAILURE {failure[:2000]}")
    text = table(counts, arguments.seed, arguments.examples, time.monotonic() - began)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)
    return 1 if any(count.failures for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
