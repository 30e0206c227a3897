"""What is said of nodes that are not fit for a study, and of clusters that anybody could use."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kdbench
from kdbench.errors import KdbenchError, StudyError
from kdbench.search.capacity import Node, workers_on
from kdbench.search.place import inspection, preflight
from kdbench.search.place.connect import on_loopback, require_authentication
from kdbench.search.place.preflight import GIB, judge, oddities, put_marker
from kdbench.study.load import load_study
from kdbench.study.schema import Resources

NODE = Node("ab12", "worker-2", "10.0.0.2", cpus=4, gpus=0)
HERE: dict[str, Any] = {
    "python": "3.11.7",
    "versions": {"kdbench": "0.1.0", "torch": "2.15.0", "numpy": "2.4.6", "pydantic": "2.14.3", "scipy": "1.18.0"},
    "kdbench_sha256": "a" * 64,
    "plugins": {"kdbench-more": "b" * 64},
    "authentication": "token",
    "scratch": "/var/cache/kdbench/runs",
    "scratch_error": None,
    "disk_free_bytes": 50 * GIB,
    "memory_free_bytes": 16 * GIB,
    "storage_error": None,
    "cpu_flags": ["amx_bf16", "avx2", "avx512f"],
    "gpu": None,
    "clock_offset_s": 0.0,
}


def there(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(HERE), **changes}


def test_a_node_that_is_as_the_driver_s_is_fit() -> None:
    assert judge(NODE, HERE, there(), workers=4) == []
    assert oddities(NODE, HERE, there()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python": "3.12.1"}, "Python is 3.12.1, here 3.11.7. Install Python 3.11.7 there."),
        (
            {"versions": {**HERE["versions"], "torch": "2.14.0"}},
            "torch is 2.14.0, here 2.15.0. Run there: pip install 'torch==2.15.0'.",
        ),
        (
            {"versions": {**HERE["versions"], "pydantic": None}},
            "pydantic is missing, here it is 2.14.3. Run there: pip install 'pydantic==2.14.3'.",
        ),
        (
            {"kdbench_sha256": "c" * 64},
            "the source of kdbench is another one (cccccccccccc, here aaaaaaaaaaaa). Install the same kdbench there.",
        ),
        ({"plugins": {}}, "the plug-in kdbench-more is missing. Install the same there."),
        (
            {"plugins": {"kdbench-more": "d" * 64}},
            "the plug-in kdbench-more has another source (dddddddddddd, here bbbbbbbbbbbb). Install the same there.",
        ),
        (
            {"plugins": {**HERE["plugins"], "extra": "e"}},
            "the plug-in extra is installed, here it is not. Remove it there, or install it here.",
        ),
        (
            {"scratch_error": "Read-only file system"},
            "/var/cache/kdbench/runs cannot be written (Read-only file system). Set KDBENCH_CACHE there.",
        ),
        (
            {"disk_free_bytes": GIB // 2},
            "0.5 GiB are free in /var/cache/kdbench/runs, needed are 1. Set KDBENCH_CACHE there.",
        ),
        (
            {"memory_free_bytes": GIB},
            "1.0 GiB of memory are free, needed are 2 (0.5 for each of 4 trainings). Give Ray fewer CPUs there.",
        ),
        (
            {"storage_error": "PermissionError: /ckpt"},
            "resources.storage cannot be used (PermissionError: /ckpt). Name a place that every node can write.",
        ),
    ],
)
def test_what_is_wrong_with_a_node_is_said_with_its_name_and_what_to_do(changes: dict[str, Any], said: str) -> None:
    assert judge(NODE, HERE, there(**changes), workers=4) == [f"node worker-2 (10.0.0.2): {said}"]


def test_all_that_is_wrong_with_a_node_is_said_at_once() -> None:
    odd = there(python="3.10.1", scratch_error="no", memory_free_bytes=1, kdbench_sha256="f" * 64)
    assert len(judge(NODE, HERE, odd, workers=1)) == 4


def test_an_older_patch_of_a_package_that_decides_no_number_is_no_reason_to_stop() -> None:
    assert judge(NODE, HERE, there(versions={**HERE["versions"], "pydantic": "2.14.0"}), workers=4) == []


def test_of_a_head_node_that_trains_nothing_only_the_authentication_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    head = Node("cd", "head", "10.0.0.1", cpus=0, gpus=0, head=True)
    assert judge(head, HERE, there(python="3.9.0", disk_free_bytes=0), workers=0) == []
    (line,) = judge(head, HERE, there(authentication=""), workers=0)
    assert line.startswith("node head (10.0.0.1): its Ray runs without token authentication (RAY_AUTH_MODE=unset)")


def test_a_node_that_does_not_answer_is_named() -> None:
    (line,) = judge(NODE, HERE, "did not answer within 180 s", workers=1)
    assert line.startswith("node worker-2 (10.0.0.2): did not answer within 180 s.")


def test_gpus_that_torch_does_not_see_are_named() -> None:
    node = Node("ab12", "worker-2", "10.0.0.2", cpus=4, gpus=2)
    assert judge(node, HERE, there(gpu=""), workers=2) == [
        "node worker-2 (10.0.0.2): Ray has 2 GPUs there, but torch sees none. Install a torch for CUDA and the driver."
    ]
    assert judge(node, HERE, there(gpu="NVIDIA H100"), workers=2) == []


def test_clocks_and_processors_that_differ_are_noted_and_stop_nothing() -> None:
    odd = there(clock_offset_s=-75.2, cpu_flags=["avx2"])
    assert judge(NODE, HERE, odd, workers=4) == []
    assert oddities(NODE, HERE, odd) == [
        "node worker-2 (10.0.0.2): its clock is -75 s off this one's, and with it the times in records made there.",
        "node worker-2 (10.0.0.2): its processor differs from this one's in amx_bf16, avx512f, so precision and last "
        "digits may.",
    ]


def test_this_machine_sees_itself_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path))
    marker = put_marker(str(tmp_path / "storage"))
    facts = inspection.look(
        [*preflight.NEEDED, *preflight.AS_HERE], ["kdbench.methods"], str(tmp_path / "storage"), marker, 0
    )
    assert facts["versions"]["kdbench"] == kdbench.__version__
    assert facts["scratch"] == str(tmp_path / "runs") and facts["scratch_error"] is None
    assert facts["disk_free_bytes"] > 0 and facts["memory_free_bytes"] > 0
    assert facts["storage_error"] is None and abs(facts["clock_s"] - time.time()) < 60
    preflight.remove_marker(str(tmp_path / "storage"), marker)
    assert list((tmp_path / "storage").iterdir()) == []


def test_a_folder_that_is_another_one_on_a_node_is_found_out(tmp_path: Path) -> None:
    marker = put_marker(str(tmp_path / "driver"))
    (tmp_path / "node").mkdir()
    error = inspection.storage_error(str(tmp_path / "node"), marker)
    assert error == "the file that the driver wrote there is not there: it is another place than the driver's"


def test_a_storage_that_cannot_be_written_is_an_error_without_its_password() -> None:
    with pytest.raises(KdbenchError, match=r"resources\.storage: 'nosuch://me:\*\*\*@host/x' cannot be written"):
        put_marker("nosuch://me:hunter22@host/x")


def test_the_inspection_needs_nothing_of_kdbench() -> None:
    text = Path(inspection.__file__).read_text()
    assert "from kdbench" not in text and "import kdbench" not in text


def test_the_hash_of_a_package_changes_with_any_of_its_files(tmp_path: Path) -> None:
    code = "from importlib.util import spec_from_file_location, module_from_spec\n" + (
        f"spec = spec_from_file_location('inspection', {inspection.__file__!r}); m = module_from_spec(spec)\n"
        "spec.loader.exec_module(m); print(m.hash_of_package('some'), m.hash_of_package('absent_one'))"
    )
    (tmp_path / "some").mkdir()
    (tmp_path / "some/__init__.py").write_text("")

    def digest() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        return done.stdout

    before = digest()
    (tmp_path / "some/deep").mkdir()
    (tmp_path / "some/deep/er.py").write_text("x = 1\n")
    after = digest()
    (tmp_path / "some/notes.txt").write_text("no code")
    assert before != after == digest()
    assert before.endswith("None\n")


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379", "127.8.0.1:1"])
def test_a_cluster_on_the_loopback_address_needs_no_authentication(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert on_loopback(address)
    require_authentication(address)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "head:6379", "[fe80::1]:6379", "localhost.example.org:6379"])
def test_any_other_cluster_needs_authentication_or_the_user_s_word(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDBENCH_ALLOW_UNAUTHENTICATED_RAY", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(KdbenchError, match=r"RAY_AUTH_MODE=token and the same token .* --allow-unauthenticated-ray"):
        require_authentication(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    require_authentication(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("KDBENCH_ALLOW_UNAUTHENTICATED_RAY", "1")
    require_authentication(address)


def test_ray_client_is_refused() -> None:
    with pytest.raises(KdbenchError, match="one of Ray Client"):
        require_authentication("ray://127.0.0.1:10001")


def nodes(*rooms: tuple[float, float]) -> list[Node]:
    return [Node(f"id{n}", f"host{n}", f"10.0.0.{n}", cpus, gpus) for n, (cpus, gpus) in enumerate(rooms)]


def test_trainings_are_counted_by_what_fits_on_each_node() -> None:
    resources = Resources(cpus_per_trial=4)
    assert workers_on(resources, nodes((6, 0), (6, 0), (0, 0))) == 2  # 12 cores hold 3 trainings, but no node holds 2
    assert workers_on(resources, nodes((8, 0), (3, 0))) == 2
    assert workers_on(Resources(cpus_per_trial=1, gpus_per_trial=0.5), nodes((16, 1), (1, 4), (8, 0))) == 2 + 1


def test_nodes_without_a_gpu_train_nothing_where_others_have_one() -> None:
    assert workers_on(Resources(), nodes((8, 0), (4, 2))) == 2


def test_a_training_that_fits_on_no_node_is_an_error_that_names_them_all() -> None:
    with pytest.raises(KdbenchError) as caught:
        workers_on(Resources(cpus_per_trial=8), nodes((6, 0), (6, 0)))
    assert "8 CPU cores (cpus_per_trial)" in str(caught.value)
    assert "node host0 (10.0.0.0): 6 cores, 0 GPUs; node host1 (10.0.0.1): 6 cores, 0 GPUs" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "ray_address",
            "ray://head:10001",
            "resources.ray_address: got 'ray://head:10001', which is an address of Ray",
        ),
        ("ray_address", "head", "resources.ray_address: got 'head'. Allowed: auto, local, or host:port"),
        ("storage", "checkpoints", "resources.storage: got 'checkpoints'. Allowed: a folder with its whole path"),
    ],
)
def test_a_study_that_names_no_cluster_or_storage_is_refused(field: str, value: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: small\ndata: {name: digits, validation: 180}\nstudent: {model: cnn, width: [0.5, 1.0]}\n"
        "methods:\n  scratch:\nsearch: {trials: 3}\ntrain: {epochs: 5, lr: 0.1}\n"
        f"resources: {{{field}: '{value}'}}\n"
    )
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert [said in problem for problem in caught.value.problems] == [True], caught.value.problems
