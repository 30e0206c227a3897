"""Methods, model families and data sets that are not kdbench's own: files named by a user, and installed packages.

A file is named with `--plugin my_method.py` or in the environment variable KDBENCH_PLUGINS, which workers inherit. A
package is found by its entry points in the groups `kdbench.methods`, `kdbench.models` and `kdbench.data`; each names a
module, or a class in it, that registers itself at import. A named file that cannot be imported stops kdbench; an
installed one is left out with a warning. Nothing else is imported, whatever lies beside a study. A plug-in is code and
runs with the rights of whoever named it, so one that other users could have written is warned about.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import importlib.metadata
import logging
import os
import stat
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kdbench.errors import KdbenchError, listed
from kdbench.redact import redact
from kdbench.registry import Registry, undone_on_failure

ENVIRONMENT = "KDBENCH_PLUGINS"
GROUPS = {"kdbench.methods": "kdbench.methods", "kdbench.models": "kdbench.models", "kdbench.data.sets": "kdbench.data"}

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]  # how it is read, how it is set

log = logging.getLogger(__name__)
_files: dict[Path, ModuleType] = {}
_hashes: dict[str, str] = {}  # module -> sha256 of the source that was run
_distributions: dict[str, tuple[str, str]] = {}  # top-level package -> name and version


def name_files(paths: Iterable[Path]) -> None:
    """Load files, and name them to the processes that this one starts. Raise KdbenchError for one that cannot be."""
    for path in paths:
        load_file(path)
        named = [*_named(), path.expanduser().resolve()]
        os.environ[ENVIRONMENT] = os.pathsep.join(dict.fromkeys(map(str, named)))


def load_named() -> None:
    """Load the files of KDBENCH_PLUGINS that are not loaded yet. Raise KdbenchError for one that cannot be."""
    for path in _named():
        load_file(path)


def _named() -> list[Path]:
    return [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]


def load_file(path: Path) -> ModuleType:
    """Import a Python file, once; what it registers is there afterwards.

    Raise KdbenchError that names file, line and cause, with nothing of the file left registered.
    """
    path = path.expanduser().resolve()
    if path in _files:
        return _files[path]
    try:
        source = path.read_bytes()
        writable = writable_by_all(path)
    except OSError as error:
        raise KdbenchError(
            f"plug-in {path}: cannot be read ({error.strerror or error}). Give the path of a Python file."
        ) from error
    if writable is not None:
        log.warning(
            "plug-in %s: every user of this machine may change %s, and what stands in a plug-in is run. Take that "
            "right away: chmod o-w '%s'", path, "it" if writable == path else "what lies in its folder", writable,
        )  # fmt: skip
    # A name of its own for each path: two files of one name may be plug-ins, and none may shadow a package.
    name = f"{path.stem}__{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    _files[path] = sys.modules[name] = module  # dataclasses look their module up
    _hashes[name] = hashlib.sha256(source).hexdigest()
    if b"torch" in source:
        import torch  # noqa: F401  # before the file does, so that what it changes of torch's settings is noticed
    try:
        with undone_on_failure(), _without_effect(f"plug-in {path}"):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        _pass_on_interrupt(error)
        del _files[path], sys.modules[name], _hashes[name]
        raise KdbenchError(
            f"{path}:{_line(error, path)}: {_cause(error)} Mend the plug-in, or leave it out."
        ) from error
    return module


@contextlib.contextmanager
def _without_effect(name: str) -> Iterator[None]:
    """Put back what an import changes for the whole process, and warn about it; what it prints is no output of ours."""
    before = settings()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if done := changed(before, settings()):
            log.warning("%s changed %s at import, which is put back: it would hold for every method.", name,
                        listed(done))  # fmt: skip
            put_back(before)


def _pass_on_interrupt(error: BaseException) -> None:
    """Raise Ctrl-C again, but not a KeyboardInterrupt that a plug-in raises itself."""
    if isinstance(error, KeyboardInterrupt) and not raised_by_code(error):
        raise error


def writable_by_all(path: Path) -> Path | None:
    """The file, or the first folder above it, that every user may write; None where there is none. In a folder such as
    /tmp, whose sticky bit is set, nobody can replace the files of others."""
    for place in (path, *path.parents):
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            return place
    return None


def _line(error: BaseException, path: Path) -> int:
    """The line of a file at which an error came about."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 1


def _cause(error: BaseException) -> str:
    if isinstance(error, KdbenchError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    beside = " A plug-in is one file; what takes several is installed as a package with entry points."
    hint = beside if isinstance(error, ModuleNotFoundError) else ""
    return redact(f"{type(error).__name__}: {text}.{hint}".replace("..", "."))


def load_installed(registry: Registry[Any]) -> None:
    """Load the installed packages that offer entries of this registry; one that cannot be is a warning."""
    group = GROUPS.get(registry.package)
    if group is None:
        return
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda point: (point.name, point.value)):
        package = point.module.partition(".")[0]
        if point.dist is not None:
            _distributions[package] = (point.dist.name, point.dist.version)
        try:
            with undone_on_failure(), _without_effect(_described(point)):
                point.load()
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            _pass_on_interrupt(error)
            log.warning("%s is left out: %s", _described(point), _where(error))
            continue
        if not any(entry.__module__.partition(".")[0] == package for entry in registry.registered().values()):
            log.warning("%s registers no %s: write @register('its_name')", _described(point), registry.kind)


def _described(point: importlib.metadata.EntryPoint) -> str:
    owner = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a package"
    return f"plug-in {point.name} ({point.value}) of {owner}"


def _where(error: BaseException) -> str:
    """Cause, file and line of an error in somebody else's module."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and not isinstance(error, KdbenchError) else ""
    return f"{_cause(error)}{place}"


def origin(entry: type) -> dict[str, str] | None:
    """Where a registered class comes from: `file`, `sha256` of its source (of a package: of all its Python files),
    `distribution` and `version` where it is installed; None for kdbench's own."""
    module, package = entry.__module__, entry.__module__.partition(".")[0]
    if package == "kdbench":
        return None
    facts = {}
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None:
        facts = {"file": Path(file).name, "sha256": _hashes.get(module) or _package_hash(package) or _file_hash(file)}
    if package in _distributions:
        facts["distribution"], facts["version"] = _distributions[package]
    return facts


@functools.cache
def _file_hash(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@functools.cache
def _package_hash(package: str) -> str | None:
    """SHA-256 of the names and contents of all Python files of an imported package; None for a single module."""
    folders = getattr(sys.modules.get(package), "__path__", None)
    if not folders:
        return None
    digest = hashlib.sha256()
    for folder in sorted(map(Path, folders)):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder).as_posix()}\0{_file_hash(str(file))}\n".encode())
    return digest.hexdigest()


def owner(module: str) -> str | None:
    """The plug-in that a module belongs to, as it is named to people; None for kdbench and for libraries."""
    if module in _hashes:
        return f"plug-in {Path(str(sys.modules[module].__file__)).name}" if module in sys.modules else "a plug-in"
    if (package := module.partition(".")[0]) in _distributions:
        return "plug-in " + " ".join(_distributions[package])
    return None


def loaded() -> bool:
    """Whether any plug-in is loaded."""
    return bool(_files or _distributions)


def place_of(error: BaseException) -> str | None:
    """`plug-in mine.py, line 12, in loss()`: the innermost place of a plug-in that an error came through, if any."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if (name := owner(frame.f_globals.get("__name__", ""))) is not None:
            inside = "" if Path(frame.f_code.co_filename).name in name else f" ({Path(frame.f_code.co_filename).name})"
            return f"{name}{inside}, line {line}, in {frame.f_code.co_name}()"
    return None


def raised_by_code(error: BaseException) -> bool:
    """Whether an error that ends the process was raised by a program, not by a signal that arrived while it ran.

    Ctrl-C strikes between any two instructions; `raise` and `sys.exit` are instructions of their own. kdbench and Ray,
    whose handlers of signals raise too, are taken at their word.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    frame = last.tb_frame
    if frame.f_globals.get("__name__", "").partition(".")[0] in ("kdbench", "ray", "signal"):
        return False
    if isinstance(error, SystemExit):
        return True
    return any(i.offset == last.tb_lasti and i.opname == "RAISE_VARARGS" for i in dis.get_instructions(frame.f_code))


def settings() -> dict[str, Any]:
    """What holds for the whole process and no plug-in may change, by the name that a person knows it by."""
    return {name: read() for name, (read, _) in _settings().items()}


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`torch's default dtype (from torch.float32 to torch.float64)`, for every setting that is another one now."""
    return [f"{name} (from {_brief(value)} to {_brief(now[name])})" for name, value in before.items() if
            name in now and now[name] != value]  # fmt: skip


def put_back(before: dict[str, Any]) -> None:
    """Make the settings what they were."""
    table = _settings()
    for name, value in before.items():
        if table[name][0]() != value:
            table[name][1](value)


def _brief(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, dict) else str(value)


@functools.cache
def _torch_settings() -> dict[str, Setting]:
    import torch
    from torch.nn.modules import module

    def default_device(name: str) -> None:
        torch.set_default_device(None if name == "cpu" else name)

    def hooks(table: dict[Any, Any]) -> Setting:
        def reset(entries: dict[Any, Any]) -> None:
            table.clear()
            table.update(entries)

        return (lambda: dict(table)), reset

    def deterministic(mode: int) -> None:
        torch.set_deterministic_debug_mode(mode)

    cudnn = torch.backends.cudnn
    kinds = ("forward_pre", "forward", "backward_pre", "backward")
    return {
        "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch's default device": (lambda: str(torch.get_default_device()), default_device),
        "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
        "torch's deterministic mode": (torch.get_deterministic_debug_mode, deterministic),
        "torch's precision of matrix products": (
            torch.get_float32_matmul_precision, torch.set_float32_matmul_precision,
        ),
        "whether torch records gradients": (torch.is_grad_enabled, torch._C._set_grad_enabled),
        "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        "autocast": (
            lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on),
        ),
        "cudnn.benchmark": (lambda: cudnn.benchmark, functools.partial(setattr, cudnn, "benchmark")),
        "cudnn.deterministic": (lambda: cudnn.deterministic, functools.partial(setattr, cudnn, "deterministic")),
        **{f"torch's global {kind} hooks": hooks(getattr(module, f"_global_{kind}_hooks")) for kind in kinds},
    }  # fmt: skip


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # deleted by somebody
        return None


def _go_to(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _settings() -> dict[str, Setting]:
    """How each setting is read and set; those of torch once it is imported."""
    plain: dict[str, Setting] = {"the working directory": (_working_directory, _go_to)}
    return {**plain, **_torch_settings()} if "torch" in sys.modules else plain
