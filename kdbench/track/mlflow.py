"""The store that a study is mirrored to: an experiment of MLflow. MLflow is imported here, at the first use."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kdbench.errors import KdbenchError
from kdbench.redact import shown
from kdbench.store import Store
from kdbench.track.address import is_server, with_password, without_password
from kdbench.track.payload import STUDY, Point
from kdbench.track.view import view_tags

# Set before MLflow is imported, unless the user has set them. Without the last three, a server that is gone blocks each
# call for four minutes (MLflow 3.17: seven retries with growing pauses).
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
MISSING = "MLflow is not installed (mlflow-skinny is not enough). Install it: pip install 'kdbench[mlflow]'."
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000 - 2 * PARAMS_PER_BATCH  # a batch holds 1000 metrics, parameters and tags together
RUNS_PER_PAGE = 1000


def available() -> bool:
    """Whether MLflow is installed, found out without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("mlflow", "sqlalchemy", "flask"))


def default_uri(folder: Path) -> str:
    """The store inside the study's folder."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def has_tag(name: str, value: str) -> str:
    """A condition for `Experiment.runs`."""
    return f"tags.`{name}` = '{value}'"


def require_writable(uri: str, patience_s: float = 5.0) -> None:
    """Raise KdbenchError for an sqlite file that is damaged, cannot be written, or is locked for so long. MLflow itself
    waits for minutes before it says so."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_file():
        return
    if not os.access(path, os.W_OK):  # on such a file SQLite begins to write without complaint
        raise KdbenchError(f"MLflow at {without_password(uri)}: the file is read-only (make it, or its disk, writable)")
    try:
        with closing(sqlite3.connect(path, timeout=patience_s, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        held = "another process holds it: wait for that, and run the same command again"
        broken = "see that it can be written; if it is damaged, delete it and run kdbench sync, which rebuilds it"
        what = held if "locked" in str(error) else broken
        raise KdbenchError(f"MLflow at {without_password(uri)}: {error} ({what})") from error


def save_as_model(
    net: Any, path: Path, shape: tuple[int, ...], classes: int, examples: int, facts: Mapping[str, Any]
) -> None:
    """Write a network as a model of MLflow that is loaded without pickle and without kdbench.

    net: takes uint8 images (B, *shape), or float32 rows where `shape` has one number; returns float32 (B, classes).
    It is stored as the graph that torch.export makes of it. examples: how many inputs of zeros are stored as an
    example; at least two. facts: kept in the model's metadata. Raise what torch.export and MLflow raise.
    """
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    kind = np.dtype("uint8" if len(shape) == 3 else "float32")
    inputs = Schema(
        [TensorSpec(kind, (-1, *shape))]
    )  # without a name: of named ones, MLflow's torch flavour takes none
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found in the group")  # of weights that are all on the CPU
        mlflow.pytorch.save_model(
            net,
            str(path),
            signature=ModelSignature(inputs, Schema([TensorSpec(np.dtype("float32"), (-1, classes))])),
            input_example=np.zeros((examples, *shape), kind),
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
            metadata=dict(facts),
        )


class Experiment:
    """The runs of one study, in an MLflow server or database. Nothing is imported or touched before the first call.

    folder: `results/<study>`; its name is the experiment's. uri: by default `mlflow.db` and `mlartifacts` inside it.
    Calls raise what MLflow raises, unless they are made within `explained()`.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder = folder.resolve()
        self.name = self.folder.name
        self.uri = with_password(uri) if uri else default_uri(self.folder)
        self._id = ""
        self._client: Any = None

    @property
    def id(self) -> str:
        """MLflow's id of the experiment, which is created if it is not there."""
        self.connect()
        return self._id

    def connect(self) -> Any:
        """Import MLflow, open the store (the first time, create its tables), find or create the experiment."""
        if self._client is None:
            for name, setting in ENVIRONMENT.items():
                os.environ.setdefault(name, setting)
            try:
                import mlflow
            except ImportError as error:
                raise KdbenchError(f"{MISSING} ({error})") from error
            require_writable(self.uri)
            logging.getLogger("alembic").setLevel(logging.ERROR)
            # it prints the traceback of what it raises, and who listens to that says it on one line
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            if self.uri == default_uri(self.folder):
                self._make_store(mlflow)
            client = mlflow.MlflowClient(tracking_uri=self.uri)
            self._id = self._find_or_create(client)
            self._client = client
        return self._client

    def runs(self, condition: str = "") -> list[Any]:
        """Runs that are not deleted and meet the condition, with their tags, parameters and latest metrics."""
        client = self.connect()
        found: list[Any] = []
        token: str | None = None
        while True:
            page = client.search_runs([self._id], condition, max_results=RUNS_PER_PAGE, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def run(self, run_id: str) -> Any:
        """One run by its id."""
        return self.connect().get_run(run_id)

    def create(self, name: str, start_ms: int, tags: Mapping[str, str]) -> Any:
        """Start a run. It is RUNNING until `end`."""
        return self.connect().create_run(self._id, start_ms, dict(tags), name)

    def log(
        self,
        run_id: str,
        points: list[Point] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write all in one batch where MLflow's limits allow it; the tags go with the last batch, as its last part."""
        client = self.connect()
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.name, p.value, p.timestamp_ms, p.step) for p in points or ()]
        parameters = [Param(name, value) for name, value in (params or {}).items()]
        labels = [RunTag(name, value) for name, value in (tags or {}).items()]
        if not (metrics or parameters or labels):
            return
        batches = max(1, math.ceil(len(metrics) / METRICS_PER_BATCH), math.ceil(len(parameters) / PARAMS_PER_BATCH))
        for i in range(batches):
            client.log_batch(
                run_id,
                metrics=metrics[i * METRICS_PER_BATCH : (i + 1) * METRICS_PER_BATCH],
                params=parameters[i * PARAMS_PER_BATCH : (i + 1) * PARAMS_PER_BATCH],
                tags=labels if i == batches - 1 else [],
                synchronous=True,
            )

    def attach(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts."""
        self.connect().log_artifact(run_id, str(path), folder)

    def attach_tree(self, run_id: str, folder: Path, under: str) -> None:
        """Copy all files of a folder to the run's artifacts, below `under`."""
        self.connect().log_artifacts(run_id, str(folder), under)

    def show(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment, such as its view; those that are there already are not written."""
        client = self.connect()
        has = client.get_experiment(self._id).tags
        for name, value in tags.items():
            if has.get(name) != value:
                client.set_experiment_tag(self._id, name, value)

    def end(self, run_id: str, status: str, end_ms: int) -> None:
        """Set the status and the end of a run. status: FINISHED or FAILED."""
        self.connect().set_terminated(run_id, status, end_ms)

    def delete(self, run_id: str) -> None:
        """Delete a run (MLflow keeps it in its bin)."""
        self.connect().delete_run(run_id)

    def delete_tag(self, run_id: str, name: str) -> None:
        """Take a tag off a run."""
        self.connect().delete_tag(run_id, name)

    def versions(self, name: str) -> list[Any]:
        """All versions of a registered model; none where there is no such model."""
        return list(self.connect().search_model_versions(f"name='{name}'"))

    def alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name this version of a registered model, and no other one."""
        client = self.connect()
        if client.get_registered_model(name).aliases.get(alias) != version:
            client.set_registered_model_alias(name, alias, version)

    def add_version(self, name: str, model: Path, run_id: str | None, tags: Mapping[str, str], text: str) -> str:
        """Upload a model's folder, tie it to the run that made it, and register it; return its version.

        The registered model is created if it is not there. text: a description for people. Raise KdbenchError where
        the registry has a model of that name that somebody else made.
        """
        client = self.connect()
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name, {STUDY: self.name})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if client.get_registered_model(name).tags.get(STUDY) != self.name:
                raise KdbenchError(f"the registry has a model '{name}' that is not of this study.") from error
        logged = client.create_logged_model(self._id, "student", run_id, dict(tags), model_type="kdbench student")
        client.log_model_artifacts(logged.model_id, str(model))
        client.finalize_logged_model(logged.model_id, "READY")
        if run_id is not None:
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
        made = client.create_model_version(
            name, logged.artifact_location, run_id, dict(tags), description=text, model_id=logged.model_id
        )
        return str(made.version)

    def _make_store(self, mlflow: Any) -> None:
        """Make the database inside the folder, if it is not there; under another name first, because MLflow can never
        open one whose making was broken off half-way."""
        path, new = self.folder / "mlflow.db", self.folder / "mlflow.db.new"
        if path.exists():
            return
        for left in self.folder.glob("mlflow.db.new*"):
            left.unlink()
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
        new.replace(path)

    def _find_or_create(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        artifacts = None if is_server(self.uri) else (self.folder / "mlartifacts").as_uri()
        experiment = client.get_experiment_by_name(self.name)
        if experiment is None:
            try:
                return str(client.create_experiment(self.name, artifacts, self._description()))
            except MlflowException:
                experiment = client.get_experiment_by_name(self.name)  # another process was quicker
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if self.uri == default_uri(self.folder) and experiment.artifact_location != artifacts:
            raise KdbenchError(
                f"{self.folder / 'mlflow.db'} was written for another folder ({experiment.artifact_location}). "
                "Delete the file and run `kdbench sync`: all that is in it is rebuilt from the records."
            )
        return str(experiment.experiment_id)

    def _description(self) -> dict[str, str]:
        """The study's question, which MLflow shows above the runs, and the view of them."""
        question = (Store(self.folder).read_study() or {}).get("question")
        return view_tags() | ({"mlflow.note.content": str(question)} if question else {})

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what MLflow and its store raise into a KdbenchError of one line that names the store."""
        try:
            yield
        except KdbenchError:
            raise
        except Exception as error:
            origin = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and origin not in ("mlflow", "sqlalchemy", "alembic", "requests"):
                raise
            reason = shown(next(iter(str(error).strip().splitlines()), ""))[:300]  # hidden before it is cut
            raise KdbenchError(f"MLflow at {without_password(self.uri)}: {type(error).__name__}: {reason}") from error
