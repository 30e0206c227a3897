"""A module imports only downwards: the floors of the architecture, read off the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdbench

ROOT = Path(kdbench.__file__).parent
FLOORS = {
    "errors": 0, "registry": 0, "seeds": 0, "lazy": 0, "fields": 0, "record": 0, "plugins": 0, "redact": 0,
    "strict_json": 0, "lock": 0, "record_shape": 0, "caches": 0, "record_index": 0,
    "method": 1, "combine": 1, "losses": 1, "nets": 1, "models": 1, "data": 1, "store": 1, "labels": 2,
    "methods": 2, "train": 2,
    "study": 3, "search": 3, "track": 3, "testing": 3,
    "report": 4,
    "status": 5, "data_check": 5, "rerun": 5, "logs": 5, "doctor": 5,
    "terminal": 5, "handover": 5, "session": 5, "estimate": 5, "scaffold": 5, "submission": 5, "standings": 5,
    "trace": 5, "verify": 5, "reproduce": 5, "cli": 5,
}  # fmt: skip
APART = [("methods", "train"), ("train", "methods")]
HEAVY = {"ray": "search/place", "mlflow": "track/mlflow.py"}


def imports_of(source: str) -> set[str]:
    """Every module that a source text imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "kdbench":
                found |= {f"kdbench.{alias.name}" for alias in node.names}
    return found


def floor_of(module: str) -> str | None:
    """`kdbench.train.loop` -> `train`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "kdbench" and len(parts) > 1 and parts[1] != "__version__" else None


def problems(name: str, source: str) -> list[str]:
    """Imports of one file that go up, or across between floors that must not know each other."""
    own = name.split("/")[0].removesuffix(".py")
    out = []
    for module in imports_of(source):
        other = floor_of(module)
        if other is None or other == own or own == "__init__":
            continue
        if FLOORS[other] > FLOORS[own] or (own, other) in APART:
            out.append(f"kdbench/{name} ({own}) imports {module}")
    return out


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_downwards(path: Path) -> None:
    assert problems(str(path.relative_to(ROOT)), path.read_text()) == []


@pytest.mark.parametrize("package", HEAVY)
def test_ray_and_mlflow_are_imported_in_one_place_each(package: str) -> None:
    users = [path for path in ROOT.rglob("*.py") if package in {m.split(".")[0] for m in imports_of(path.read_text())}]
    place = ROOT / HEAVY[package]
    assert users and all(path == place or place in path.parents for path in users)


def test_an_upward_import_is_noticed() -> None:
    assert problems("losses/kl.py", "from kdbench.search import propose") == [
        "kdbench/losses/kl.py (losses) imports kdbench.search"
    ]


def test_methods_and_train_do_not_know_each_other() -> None:
    assert problems("methods/kd.py", "def f():\n    from kdbench.train import loop") != []
    assert problems("train/loop.py", "from kdbench.methods import kd") != []


def test_training_needs_torch_numpy_and_yaml_alone() -> None:
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
BLOCKED = {"pydantic", "ray", "optuna", "mlflow", "safetensors", "platformdirs", "rich", "typer", "pandas", "scipy",
           "sklearn", "matplotlib", "moocore", "jinja2", "torchvision", "timm"}
sys.meta_path.insert(0, Missing())
import kdbench.train.run, kdbench.search.budget, kdbench.methods.kd, kdbench.models.resnet
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr
