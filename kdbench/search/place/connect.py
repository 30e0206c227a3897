"""Start a Ray cluster on this machine, or find the one that the study names."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from pathlib import Path

import ray

from kdbench.errors import KdbenchError
from kdbench.redact import shown
from kdbench.search.capacity import Node, cores
from kdbench.study.schema import Resources

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "600",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}
REACH_S = 10.0
ALLOW = "KDBENCH_ALLOW_UNAUTHENTICATED_RAY"


def environment_of_driver() -> dict[str, str]:
    """Where this process keeps data, caches and plug-ins, with absolute paths: it holds on this machine alone."""
    own = {name: os.environ[name] for name in ("KDBENCH_DATA", "KDBENCH_CACHE") if name in os.environ}
    paths = {name: str(Path(value).expanduser().resolve()) if value != "off" else value for name, value in own.items()}
    plugins = {"KDBENCH_PLUGINS": os.environ["KDBENCH_PLUGINS"]} if "KDBENCH_PLUGINS" in os.environ else {}
    return {**paths, **plugins}


def environment_of_workers() -> dict[str, str]:
    """Environment of all workers on a cluster that was started without kdbench's settings."""
    off = {"KDBENCH_CACHE": "off"} if os.environ.get("KDBENCH_CACHE") == "off" else {}
    engine = {"KDBENCH_ENGINE": os.environ["KDBENCH_ENGINE"]} if "KDBENCH_ENGINE" in os.environ else {}
    return {**QUIET, **off, **engine}


def address_of(resources: Resources) -> str:
    """The cluster that is asked for: `host:port`, "auto", or "local" for one of our own."""
    return resources.ray_address or os.environ.get("RAY_ADDRESS") or "local"


def connect(resources: Resources) -> bool:
    """Reach the cluster at `resources.ray_address` or RAY_ADDRESS, or start one on this machine.

    Every node of a cluster that is not our own is checked (see `preflight`). Returns whether the connection is ours to
    close: not where this process was connected already. Raise KdbenchError where there is no cluster, where it has no
    authentication, and with all that is wrong on its nodes.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return False
    address = address_of(resources)
    if address not in ("auto", "local"):
        require_authentication(address)
        require_reachable(address)
    dashboard = False if address == "local" else None
    try:
        ray.init(
            address=address,
            # of those that this process may use; Ray would count all that the machine has
            num_cpus=cores() if address == "local" else None,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment_of_workers()} if address != "local" else None,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        raise KdbenchError(
            f"Ray did not start or could not be reached at '{shown(address)}' "
            f"({' '.join(shown(str(error)).split())[:300]}). "
            "Check resources.ray_address, or leave it out to start Ray on this machine."
        ) from error
    if address == "local":
        return True
    try:
        if address == "auto":
            require_authentication(ray.get_runtime_context().gcs_address)
        from kdbench.search.place.preflight import preflight

        preflight(resources, nodes())
    except BaseException:
        ray.shutdown()
        raise
    return True


def require_reachable(address: str) -> None:
    """Raise KdbenchError if nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        raise KdbenchError(
            f"Ray could not be reached at '{shown(address)}' ({error}). Check resources.ray_address and that the "
            "cluster runs (`ray status` there), or leave it out to start Ray on this machine."
        ) from error


def require_authentication(address: str) -> None:
    """Raise KdbenchError for the address of another machine, unless this process asks Ray for token authentication or
    the user has accepted the risk. ray:// is refused too: Ray Client gives the driver no node of its own."""
    if address.startswith("ray://"):
        raise KdbenchError(
            f"the Ray address '{shown(address)}' is one of Ray Client, and the driver of a study has to run on a node "
            "of the cluster. Run kdbench there (docs/cluster.md) with the address auto, or host:port of the head node."
        )
    if on_loopback(address) or authenticated() or os.environ.get(ALLOW) == "1":
        return
    raise KdbenchError(
        f"the Ray cluster at '{shown(address)}' can be reached from other machines, and RAY_AUTH_MODE is not 'token': "
        "without authentication, whoever reaches its ports can run any code in your name on every node and on this "
        "machine. Start every node, and this command, with RAY_AUTH_MODE=token and the same token (docs/cluster.md); "
        "or, in a network that you trust, accept the risk with --allow-unauthenticated-ray."
    )


def authenticated() -> bool:
    """Whether this process asks Ray for token authentication."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def on_loopback(address: str) -> bool:
    """Whether `host:port` can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive, that of the driver first."""
    home = ray.get_runtime_context().get_node_id()
    found = [
        Node(
            id=facts["NodeID"],
            host=facts["NodeManagerHostname"],
            address=facts["NodeManagerAddress"],
            cpus=facts["Resources"].get("CPU", 0.0),
            gpus=facts["Resources"].get("GPU", 0.0),
            head="node:__internal_head__" in facts["Resources"],
        )
        for facts in ray.nodes()
        if facts["Alive"]
    ]
    return sorted(found, key=lambda node: (node.id != home, node.address, node.id))
