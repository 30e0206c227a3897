"""What MLflow shows of a whole study: the view of its runs, its report, and its best student as a registered model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord, TrialSpec
from kdbench.store import Store
from kdbench.track import publish as publish_module
from kdbench.track.mirror import Mirror
from kdbench.track.mlflow import Experiment
from kdbench.track.publish import publish, publish_within
from kdbench.track.student import best_student, with_normalisation
from kdbench.track.view import METRIC_COLUMNS, VIEW, charts, view_state, view_tags
from kdbench.train import checkpoint
from kdbench.train.workshop import Workshop

PAIR = "cnn8 -> cnn"


def final(method: str, seed: int, val_top1_pct: float, test_top1_pct: float = 90.0, pair: str = PAIR) -> TrialRecord:
    spec = TrialSpec(
        phase="final",
        data={"name": "digits", "validation": 180},
        model={"name": "cnn", "depth": 5, "width": 0.25},
        method={"name": method},
        train={"epochs": 1, "lr": 0.1},
        seed=100 + seed,
        slot={"pair": pair, "final": seed, "chosen": "c" * 16},
    )
    return TrialRecord(
        spec=spec,
        status="finished",
        result={"val_top1_pct": val_top1_pct, "test_top1_pct": test_top1_pct, "params": 1000},
        curves={},
        environment={},
        attempts=1,
        started="2026-11-21T08:00:00+00:00",
        ended="2026-11-21T08:01:00+00:00",
        wall_s=60.0,
    )


RECORDS = {
    record.key: record
    for record in (
        final("scratch", 0, 80.0, 99.0), final("scratch", 1, 84.0, 99.0),
        final("kd", 0, 82.0), final("kd", 1, 86.0),
    )
}  # fmt: skip
BEST = final("kd", 1, 86.0)


def test_the_best_student_is_chosen_by_validation_and_not_by_test_accuracy() -> None:
    best = best_student(RECORDS.values())
    assert best is not None
    assert (best.record.key, best.seeds, best.val_top1_pct, best.test_top1_pct) == (BEST.key, 2, 84.0, 90.0)
    assert (
        "cnn5 x0.25 trained by kd (cnn8 -> cnn): the best mean validation accuracy of the study, 84.00 %" in best.text
    )


def test_equal_students_are_told_apart_by_name_and_seed() -> None:
    tie = [final("scratch", 1, 80.0), final("kd", 1, 80.0), final("kd", 0, 80.0)]
    best = best_student(tie)
    assert best is not None and best.record.key == final("kd", 0, 80.0).key
    assert best_student(reversed(tie)) == best


def test_all_pairs_of_a_study_compete_and_failed_trainings_do_not() -> None:
    other = final("kd", 0, 84.5, pair="cnn8 -> mlp")
    failed = replace(final("kd", 2, 99.0), status="failed")
    best = best_student([*RECORDS.values(), other, failed])
    assert best is not None and best.record.key == other.key
    assert best_student([failed]) is None


def test_the_view_shows_accuracy_against_parameters_and_latency() -> None:
    axes = [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in charts() if chart["type"] == "SCATTER"]
    assert axes == [("params", "test_top1_pct"), ("latency_b1_p50_ms", "test_top1_pct")]
    state = view_state()
    assert [f"metrics.`{name}`" for name in METRIC_COLUMNS] == state["selectedColumns"][: len(METRIC_COLUMNS)]
    assert state["columnOrder"] == state["selectedColumns"] and set(state["columnWidths"]) <= set(state["columnOrder"])
    assert json.loads(view_tags()[VIEW]) == state
    assert len(view_tags()[VIEW]) < 5000, "the longest tag that MLflow takes"


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_a_network_with_its_normalisation_takes_pixels_or_rows_as_they_are(shape: tuple[int, ...]) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return type("Outputs", (), {"logits": x.flatten(1).mean(1, keepdim=True)})

    channels = shape[0]
    mean, std = tuple(0.5 + 0.1 * i for i in range(channels)), tuple(2.0 + i for i in range(channels))
    raw = torch.randint(0, 256, (2, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    given = raw if len(shape) == 3 else raw.float()
    found = with_normalisation(Mean(), mean, std, shape)(given)
    pixels = raw.double() / (255 if len(shape) == 3 else 1)
    trailing = (1,) * (len(shape) - 1)
    wanted = (pixels - torch.tensor(mean).double().view(1, -1, *trailing)) / torch.tensor(std).view(1, -1, *trailing)
    torch.testing.assert_close(found, wanted.flatten(1).mean(1, keepdim=True).float())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    Experiment(path.parent, f"sqlite:///{path}").connect()
    return path


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A study's folder with a report, and with a mirror of its records."""
    folder = tmp_path / "digits"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    (folder / "leaderboard.md").write_text(
        "# digits\n\n| # | Method |\n| --- | --- |\n| 1 | kd |\n\n### Further\n\nno\n"
    )
    (folder / "leaderboard.html").write_text("<p>the page</p>")
    (folder / "pareto.png").write_bytes(b"figure")
    report = {"leaderboard.md": "", "leaderboard.html": "", "pareto.png": "", "gone.csv": ""}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "report": report}))
    Mirror(folder).sync(RECORDS.values())
    return folder


def files_of(experiment: Experiment, run: Any) -> set[str]:
    listed = experiment.connect().list_artifacts(run.info.run_id, "report")
    return {Path(file.path).name for file in listed}


def test_the_report_has_a_run_and_every_parent_its_table_and_figure(folder: Path) -> None:
    assert publish(folder, None, RECORDS) == ["MLflow: the report is in the run 'report: digits'."]
    experiment = Mirror(folder).experiment
    runs = experiment.runs()
    (report,) = [run for run in runs if run.info.run_name == "report: digits"]
    assert files_of(experiment, report) == {"leaderboard.md", "leaderboard.html", "pareto.png", "manifest.json"}
    assert (report.info.status, report.data.metrics) == ("FINISHED", {"trainings_finished": 4.0})
    note = report.data.tags["mlflow.note.content"]
    assert "| 1 | kd |" in note and "Further" not in note and "report/leaderboard.html" in note
    parents = [run for run in runs if "kdbench.parent" in run.data.tags]
    assert len(parents) == 2
    for parent in parents:
        assert files_of(experiment, parent) == {"leaderboard.md", "pareto.png"}
    assert len({run.data.tags["mlflow.runColor"] for run in parents}) == 2
    assert VIEW in experiment.connect().get_experiment(experiment.id).tags


def test_publishing_again_changes_nothing_until_the_report_does(folder: Path) -> None:
    publish(folder, None, RECORDS)
    before = {run.info.run_id: run.to_dictionary() for run in Mirror(folder).experiment.runs()}
    publish(folder, None, RECORDS)
    assert {run.info.run_id: run.to_dictionary() for run in Mirror(folder).experiment.runs()} == before
    (folder / "leaderboard.md").write_text("# digits\n\nanother table\n")
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "report": {"leaderboard.md": "new"}}))
    publish(folder, None, RECORDS)
    (report,) = [run for run in Mirror(folder).experiment.runs() if run.info.run_name == "report: digits"]
    assert "another table" in report.data.tags["mlflow.note.content"]


@pytest.fixture
def with_weights(folder: Path) -> Iterator[Path]:
    """The same folder with weights of the best student, as a final training leaves them."""
    store = Store(folder)
    for record in RECORDS.values():
        store.write(record)
    net = Workshop(store, torch.device("cpu")).network(BEST.spec)
    store.weights_path(BEST.key).parent.mkdir(exist_ok=True)
    checkpoint.save(store.weights_path(BEST.key), net.state_dict(), {})
    yield folder


@pytest.mark.slow  # torch.export, and a process of its own
def test_the_best_student_is_a_registered_model_that_runs_without_kdbench(with_weights: Path) -> None:
    said = publish(with_weights, None, RECORDS)
    assert said[-1] == "MLflow: the best student is registered: models:/digits@best"
    assert publish(with_weights, None, RECORDS) == said
    client = Mirror(with_weights).experiment.connect()
    version = client.get_model_version_by_alias("digits", "best")
    assert (version.version, version.tags["kdbench.key"], version.tags["method"]) in [
        ("1", BEST.key, "kd"),
        (1, BEST.key, "kd"),
    ]
    assert client.get_run(version.run_id).data.tags["kdbench.key"] == BEST.key
    code = """
import sys
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@best")
out = model.predict(numpy.full((3, 1, 8, 8), 7, "uint8"))
assert "kdbench" not in sys.modules
print(model.metadata.signature.inputs.to_json(), out.dtype, out.shape)
numpy.save(sys.argv[2], out)
"""
    saved = with_weights / "out.npy"
    arguments = [sys.executable, "-c", code, f"sqlite:///{with_weights / 'mlflow.db'}", str(saved)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=with_weights, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert '"dtype": "uint8", "shape": [-1, 1, 8, 8]' in done.stdout and "float32 (3, 10)" in done.stdout
    shop = Workshop(Store(with_weights), torch.device("cpu"))
    splits = shop.splits(BEST.spec.data)
    pixels = torch.full((3, 1, 8, 8), 7 / 255).sub(splits.mean[0]).div(splits.std[0])
    wanted = shop.trained(BEST.spec, "student")(pixels).logits.detach()
    torch.testing.assert_close(torch.from_numpy(np.load(saved)), wanted, rtol=1e-5, atol=1e-5)


def test_a_model_of_somebody_else_is_left_alone_and_said(with_weights: Path) -> None:
    client = Mirror(with_weights).experiment.connect()
    client.create_registered_model("digits")
    said = publish(with_weights, None, RECORDS)[-1]
    assert (
        said
        == "MLflow: no student is registered as a model: the registry has a model 'digits' that is not of this study."
    )
    assert client.search_model_versions("name='digits'") == []


def test_at_the_end_of_a_run_an_mlflow_that_fails_or_hangs_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> list[str]:
        raise KdbenchError("server gone")

    monkeypatch.setattr(publish_module, "publish", fails)
    (line,) = publish_within(folder, None, RECORDS)
    assert line == f"MLflow lacks the report; write it with: kdbench sync {folder} (server gone)"
    done = threading.Event()
    monkeypatch.setattr(publish_module, "publish", lambda *_: [str(done.wait(20))])
    (line,) = publish_within(folder, None, RECORDS, patience_s=0.05)
    assert line.startswith("MLflow does not answer, and lacks the report")
    done.set()
