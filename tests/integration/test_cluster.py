"""A study on a Ray cluster of several nodes, none of which has its folder, its data or its plug-in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from several_nodes import TRAININGS, Bench, finish, wait_for_training_on
from small import facts

import kdbench

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
TRUSTED = {"KDBENCH_ALLOW_UNAUTHENTICATED_RAY": "1"}  # the tests' clusters have no authentication


class Nodes:
    """A cluster on this machine: a head without room for trainings, and nodes with folders of their own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.count = folder, 0
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **environment: str) -> Any:
        """A node for one training. It has no data, and its cache is its own."""
        self.count += 1
        own = self.folder / f"node {self.count}"
        variables = {"KDBENCH_DATA": str(own / "no data"), "KDBENCH_CACHE": str(own / "cache"), **environment}
        return self.cluster.add_node(num_cpus=1, env_vars=variables)

    def cut(self, node: Any) -> None:
        """Kill all of a node."""
        self.cluster.remove_node(node, allow_graceful=False)

    def left_over(self) -> list[Path]:
        """Files of runs on the nodes."""
        return [path for path in self.folder.glob("node */cache/runs/*/**/*") if path.is_file()]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the study on one machine, without Ray."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    bench.run("local")
    return bench.results


def test_a_study_on_nodes_that_share_nothing_gives_the_records_of_one_machine(
    tmp_path: Path, nodes: Nodes, undisturbed: Path
) -> None:
    nodes.add()
    nodes.add()
    bench = Bench(tmp_path)
    bench.run("ray", "--set", f"resources.ray_address={nodes.address}", **TRUSTED)
    assert facts(bench.results) == facts(undisturbed)
    records = bench.records()
    assert len(records) == TRAININGS and all(record["attempts"] == 1 for record in records)
    for record in records:
        weights = bench.results / "weights" / f"{record['key']}.safetensors"
        assert weights.exists() == (record["spec"]["phase"] != "search")
    assert nodes.left_over() == [], "a run leaves nothing on the nodes"
    assert [path.name for path in (tmp_path / "node 1/cache").glob("*.views")], "the node had its own view cache"


@pytest.mark.parametrize("replaced", [True, False], ids=["another node comes", "no node comes"])
def test_a_node_that_dies_in_mid_study_changes_no_record(
    replaced: bool, tmp_path: Path, nodes: Nodes, undisturbed: Path
) -> None:
    nodes.add()
    lost = nodes.add()
    bench = Bench(tmp_path, slow_s=0.5)
    running = bench.start("ray", "--set", f"resources.ray_address={nodes.address}", **TRUSTED)
    try:
        interrupted = wait_for_training_on(tmp_path / "node 2")
        nodes.cut(lost)
        if replaced:
            nodes.add()
        finish(running)
    finally:
        running.kill()
    assert facts(bench.results) == facts(undisturbed)
    attempts = {record["key"]: record["attempts"] for record in bench.records()}
    assert attempts.pop(interrupted) == 2
    assert set(attempts.values()) == {1}


def test_nodes_that_are_not_fit_are_all_named_before_the_first_training(tmp_path: Path, nodes: Nodes) -> None:
    source = shutil.copytree(Path(kdbench.__file__).parent, tmp_path / "other/kdbench")
    (source / "seeds.py").write_text((source / "seeds.py").read_text() + "\n")
    (tmp_path / "a file").write_text("")
    nodes.add(PYTHONPATH=str(tmp_path / "other"))
    nodes.add(KDBENCH_CACHE=str(tmp_path / "a file"))
    bench = Bench(tmp_path)
    process = bench.start("ray", "--set", f"resources.ray_address={nodes.address}", **TRUSTED)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "the cluster is not ready:" in output
    assert output.count("the source of kdbench is another one") == 1
    assert "runs cannot be written (Not a directory). Set KDBENCH_CACHE there." in output
    assert "Traceback" not in output
    assert bench.records() == []


def test_a_cluster_without_authentication_is_refused_unless_the_user_accepts_the_risk(
    tmp_path: Path, nodes: Nodes
) -> None:
    bench = Bench(tmp_path)
    process = bench.start("ray", "--set", f"resources.ray_address={nodes.address}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "RAY_AUTH_MODE is not 'token'" in output and "--allow-unauthenticated-ray" in output
