"""The best student of a study in MLflow's registry of models: with a signature, and under the alias `best`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdbench.labels import model_label
from kdbench.record import TrialRecord
from kdbench.store import Store
from kdbench.track.mlflow import Experiment, has_tag, save_as_model
from kdbench.track.payload import KEY
from kdbench.track.student import Best, best_student, deployable

ALIAS = "best"
EXAMPLES = 2  # images in the saved example: torch.export would take a batch of one for a constant


def register_best(experiment: Experiment, store: Store, records: Iterable[TrialRecord]) -> str | None:
    """Give the alias `best` to the best student; return the name of the registered model, which is the study's.

    None where there is no such student, or its weights are not at hand, as in a clone of committed results. What is
    registered already is not written again. Raise KdbenchError where its data are not at hand, or the name is taken.
    """
    known = {record.key: record for record in records}
    best = best_student(known.values())
    if best is None or not store.weights_path(best.record.key).exists():
        return None
    name = experiment.name
    version = registered(experiment, name, best.record.key) or register(experiment, store, known, name, best)
    experiment.alias(name, ALIAS, version)
    return name


def registered(experiment: Experiment, name: str, key: str) -> str | None:
    """The version of a registered model that has the weights of this record, or None."""
    versions = [version for version in experiment.versions(name) if version.tags.get(KEY) == key]
    return str(max(versions, key=lambda version: int(version.version)).version) if versions else None


def register(experiment: Experiment, store: Store, records: dict[str, TrialRecord], name: str, best: Best) -> str:
    """Save the student as a model of MLflow, and add it as a version; return the version."""
    spec = best.record.spec
    student = deployable(best, store, records)
    runs = experiment.runs(has_tag(KEY, best.record.key))
    run_id = runs[0].info.run_id if runs else None
    facts: dict[str, Any] = {"class_names": list(student.class_names), "spec": spec.to_json()}
    tags = {KEY: best.record.key, "method": spec.row, "student": model_label(spec.model)}
    with tempfile.TemporaryDirectory(prefix="kdbench-model-") as folder:
        path = Path(folder) / "model"
        save_as_model(student.net, path, student.shape, student.classes, EXAMPLES, facts)
        return experiment.add_version(name, path, run_id, tags, best.text)
