"""A study on two hosts with addresses of their own: network namespaces of this machine, joined by a cable (veth).

The second host sees nothing of the study's folder and has no data. Needs root and iproute2: `make test-hosts`.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from several_nodes import TRAININGS, Bench, finish, wait_for_records, wait_for_training_on
from small import facts

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.netns, pytest.mark.timeout(600)]
PORT = 6399
# A node counts as dead after 1 + 3 x (1 + 2) s instead of about a minute, and calls to it fail after 6 s.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "2000",
    "RAY_grpc_client_keepalive_timeout_ms": "4000",
}


def run_as_root(*command: str) -> None:
    """Run a command of iproute2. Fail with what to do where that is not allowed."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        pytest.fail(
            f"`{' '.join(command)}` failed: {str(reason).strip()}. These tests make network namespaces: run them as "
            "root, with iproute2 installed and CAP_NET_ADMIN and CAP_SYS_ADMIN in a container; or leave them out with "
            "-m 'not netns'.",
            pytrace=False,
        )


class Host:
    """A machine with its own network, name and mounts. hides: folders that it does not see."""

    def __init__(self, name: str, address: str, folder: Path, hides: tuple[Path, ...], token: Path) -> None:
        self.name, self.address, self.folder, self.hides = name, address, folder, hides
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(folder),
            "KDBENCH_CACHE": str(folder / "cache"),
            "KDBENCH_DATA": str(folder / "no data"),
            **QUICK,
        }
        folder.mkdir()
        run_as_root("ip", "netns", "add", name)
        run_as_root("ip", "-n", name, "link", "set", "lo", "up")

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command on this host."""
        mounts = "".join(f"mount -t tmpfs none {shlex.quote(str(path))} && " for path in self.hides)
        inside = f'{mounts}hostname {self.name} && exec "$@"'
        return ("ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c", inside, "sh")

    def start_ray(self, *arguments: str) -> subprocess.Popen[str]:
        """`ray start` on this host, with one CPU."""
        command = [*self.prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        command += [f"--node-ip-address={self.address}", "--disable-usage-stats", *arguments]
        log = (self.folder / "ray start.log").open("a")
        return subprocess.Popen(
            command, env={**os.environ, **self.environment}, stdout=log, stderr=subprocess.STDOUT, text=True
        )

    def link(self, state: str) -> None:
        """Plug the cable in (up) or out (down)."""
        run_as_root("ip", "-n", self.name, "link", "set", "cable", state)

    def kill(self) -> None:
        """End every process of this host."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        for pid in map(int, pids):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


class Hosts:
    """Two hosts, a cable between them, Ray on both."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        mark = secrets.token_hex(3)
        self.first = Host(f"kdb{mark}a", "10.77.0.1", folder / "a", (), token)
        self.second = Host(f"kdb{mark}b", "10.77.0.2", folder / "b", (bench.folder,), token)
        ends = [("name", "cable", "netns", host.name) for host in (self.first, self.second)]
        run_as_root("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in (self.first, self.second):
            run_as_root("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            host.link("up")
        temporary = f"--temp-dir={self.first.folder}"
        self.first.start_ray("--head", f"--port={PORT}", "--include-dashboard=false", temporary)
        self.join()

    def join(self) -> subprocess.Popen[str]:
        """Start Ray on the second host, and wait until the cluster has both."""
        command = [*self.first.prefix, sys.executable, "-m", "ray.scripts.scripts", "health-check"]
        command += ["--address", f"{self.first.address}:{PORT}"]
        environment = {**os.environ, **self.first.environment}
        limit = time.monotonic() + 60
        while subprocess.run(command, env=environment, capture_output=True).returncode:
            assert time.monotonic() < limit, (self.first.folder / "ray start.log").read_text()
        return self.second.start_ray(f"--address={self.first.address}:{PORT}")

    def start(self) -> subprocess.Popen[str]:
        """The study, with its driver on the first host."""
        environment = {**self.first.environment, **self.bench.environment}
        environment = {name: value for name, value in environment.items() if name not in self.bench.environment}
        address = f"resources.ray_address={self.first.address}:{PORT}"
        return self.bench.start("ray", "--set", address, prefix=self.first.prefix, **environment)

    def remove(self) -> None:
        """End all that runs on the hosts, and the hosts."""
        for host in (self.second, self.first):
            host.kill()
            subprocess.run(["ip", "netns", "delete", host.name], check=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    folder = Path(tempfile.mkdtemp(prefix="kd"))  # short, because Ray's sockets lie below
    made = None
    try:
        made = Hosts(Bench(tmp_path, slow_s=0.5), folder)
        yield made
    finally:
        if made is not None:
            made.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the study on one machine, without Ray."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    bench.run("local")
    return bench.results


def test_a_host_that_is_cut_off_in_mid_study_and_comes_back_changes_no_record(hosts: Hosts, undisturbed: Path) -> None:
    bench, second = hosts.bench, hosts.second
    running = hosts.start()
    try:
        interrupted = wait_for_training_on(second.folder)
        second.link("down")
        cut = len(bench.records())
        wait_for_records(bench, cut + 2)  # the first host goes on alone
        second.link("up")
        second.kill()  # as whoever looks after the machine would
        hosts.join()
        finish(running)
    finally:
        running.kill()
    assert facts(bench.results) == facts(undisturbed)
    attempts = {record["key"]: record["attempts"] for record in bench.records()}
    assert len(attempts) == TRAININGS
    assert attempts[interrupted] == 2


def test_a_cable_that_is_out_for_a_moment_costs_no_training_an_attempt(hosts: Hosts, undisturbed: Path) -> None:
    bench = hosts.bench
    running = hosts.start()
    try:
        wait_for_training_on(hosts.second.folder)
        hosts.second.link("down")
        time.sleep(2)
        hosts.second.link("up")
        finish(running)
    finally:
        running.kill()
    assert facts(bench.results) == facts(undisturbed)
    assert all(record["attempts"] == 1 for record in bench.records())


def test_a_driver_with_another_token_is_refused_and_no_token_is_printed(hosts: Hosts, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong token"
    wrong.write_text(secrets.token_hex(32))
    hosts.first.environment["RAY_AUTH_TOKEN_PATH"] = str(wrong)
    output, _ = (process := hosts.start()).communicate(timeout=120)
    assert process.returncode == 2, output
    assert f"could not be reached at '{hosts.first.address}:{PORT}'" in output
    assert "Traceback" not in output
    for token in (wrong, hosts.first.folder.parent / "token"):
        assert token.read_text() not in output
