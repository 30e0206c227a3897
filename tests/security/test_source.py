"""Nothing in the sources runs what it reads: no pickle, no eval, no shell, no archive that is unpacked unseen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kdbench

ROOT = Path(kdbench.__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("kdbench", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
# Running the file that a user names as a plug-in is what a plug-in is.
ALLOWED = {("kdbench/plugins.py", "exec"), ("kdbench/plugins.py", "compile")}

FORBIDDEN = {
    "eval", "exec", "compile", "__import__",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "dill.loads", "cloudpickle.load",
    "cloudpickle.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle",
    "pd.read_pickle", "jsonpickle.decode",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "subprocess.getoutput", "subprocess.getstatusoutput",
    "shutil.unpack_archive", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "runpy.run_path",
}  # fmt: skip
METHODS = {"extractall", "extract"}  # of archives, whatever the variable is called
UNSAFE_LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader"}


def dotted(node: ast.expr) -> str:
    """`torch.load` for an attribute of a name, `load` for a name, nothing for other expressions."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def full_names(tree: ast.AST) -> dict[str, str]:
    """What names mean that were imported: `{"load": "pickle.load", "np": "numpy"}`."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call passes as a keyword; None where it passes none."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def dangers(source: str) -> list[str]:
    """Names of calls and bases in a source text that run, or could run, what they read."""
    tree = ast.parse(source)
    names = full_names(tree)
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            out += [base for base in map(dotted, node.bases) if base.rpartition(".")[2] in UNSAFE_LOADERS]
        if not isinstance(node, ast.Call):
            continue
        written = dotted(node.func)
        first, dot, rest = written.partition(".")
        name = names.get(first, first) + dot + rest
        if name in FORBIDDEN:
            out.append(name)
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            out.append(node.func.attr)
        elif name == "torch.load" and keyword(node, "weights_only") is not True:
            out.append("torch.load without weights_only=True")
        elif name == "numpy.load" and keyword(node, "allow_pickle") is not False:
            out.append("numpy.load without allow_pickle=False")
        if keyword(node, "shell") is True:
            out.append("shell=True")
        if keyword(node, "weights_only") is False:
            out.append("weights_only=False")
        if keyword(node, "allow_pickle") is True:
            out.append("allow_pickle=True")
    return out


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_source_runs_nothing_that_it_reads(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    assert [danger for danger in dangers(path.read_text()) if (name, danger) not in ALLOWED] == []


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle\npickle.load(f)", "pickle.load"),
        ("import pickle as p\np.loads(f)", "pickle.loads"),
        ("from pickle import loads as read\nread(f)", "pickle.loads"),
        ("import torch\ntorch.load(f)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(f, weights_only=False)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(f, weights_only=flag)", "torch.load without weights_only=True"),
        ("from torch import load\nload(f)", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load(f)", "numpy.load without allow_pickle=False"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", "allow_pickle=True"),
        ("eval('1')", "eval"),
        ("exec(text)", "exec"),
        ("import yaml\nyaml.load(f, Loader=yaml.SafeLoader)", "yaml.load"),
        ("import yaml\nclass L(yaml.FullLoader): pass", "yaml.FullLoader"),
        ("import os\nos.system('x')", "os.system"),
        ("import subprocess\nsubprocess.run(x, shell=True)", "shell=True"),
        ("import tarfile\ntarfile.open(f).extractall(d)", "extractall"),
        ("load_it(f, weights_only=False)", "weights_only=False"),
    ],
)
def test_the_guard_notices(source: str, danger: str) -> None:
    assert danger in dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "net.eval()", "self.net.eval()", "import re\nre.compile('x')", "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)", "import json\njson.load(f)",
        "import torch\ntorch.compile(f)", "import yaml\nclass L(yaml.SafeLoader): pass",
        "'pickle.load(f)'", "# exec(x)",
    ],
)  # fmt: skip
def test_the_guard_lets_what_is_safe_pass(source: str) -> None:
    assert dangers(source) == []
