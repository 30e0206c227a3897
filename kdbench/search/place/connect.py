"""Start a Ray cluster on this machine, or find the one that the study names."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray

from kdbench.errors import KdbenchError
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


def environment_of_workers() -> dict[str, str]:
    """Environment of workers on a cluster that was started without kdbench's settings."""
    own = {name: os.environ[name] for name in ("KDBENCH_DATA", "KDBENCH_CACHE") if name in os.environ}
    paths = {name: str(Path(value).resolve()) if value != "off" else value for name, value in own.items()}
    plugins = {"KDBENCH_PLUGINS": os.environ["KDBENCH_PLUGINS"]} if "KDBENCH_PLUGINS" in os.environ else {}
    return {**QUIET, **paths, **plugins}


def connect(resources: Resources) -> bool:
    """Reach the cluster at `resources.ray_address` or RAY_ADDRESS, or start one on this machine.

    Returns whether the connection is ours to close: not where this process was connected already. Raise KdbenchError
    where there is no cluster.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return False
    address = resources.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    dashboard = False if address == "local" else None
    try:
        ray.init(
            address=address,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment_of_workers()} if address != "local" else None,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        raise KdbenchError(
            f"Ray did not start or could not be reached at '{address}' ({' '.join(str(error).split())[:300]}). "
            "Check resources.ray_address, or leave it out to start Ray on this machine."
        ) from error
    return True
