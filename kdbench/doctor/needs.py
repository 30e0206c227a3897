"""What one study needs of a machine: packages, data, checkpoints, a cluster, room for its trainings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdbench import data
from kdbench.data_check import data_sections
from kdbench.doctor.finding import Finding
from kdbench.errors import DataError, KdbenchError, StudyError
from kdbench.labels import plural
from kdbench.record import TrialRecord
from kdbench.search.capacity import cores, workers_for
from kdbench.session import edited, sound_records
from kdbench.store import Store
from kdbench.study.checkpoints import checkpoint_file
from kdbench.study.diff import written
from kdbench.study.load import load_study
from kdbench.study.schema import Study
from kdbench.study.yaml_source import Tree


@dataclass(frozen=True)
class Needs:
    """A study with the folder of its results, or nothing but what is the default."""

    study: Study | None = None
    folder: Path | None = None
    tree: Tree | None = None
    problems: tuple[str, ...] = ()
    records: Mapping[str, TrialRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path | None, results: Path) -> Needs:
        """Read a study file; what is wrong with it is kept in `problems`."""
        if file is None:
            return cls()
        try:
            study = load_study(file)
        except StudyError as error:
            return cls(problems=error.problems)
        folder = results / study.study
        return cls(study, folder, written(file.read_text("utf-8-sig"), str(file)), (), sound_records(Store(folder)))

    @property
    def ray(self) -> bool:
        """Whether it runs on Ray."""
        return self.study is not None and self.study.resources.executor == "ray"

    @property
    def ray_address(self) -> str | None:
        """The cluster that it names, or RAY_ADDRESS."""
        own = None if self.study is None else self.study.resources.ray_address
        return own or os.environ.get("RAY_ADDRESS") or None

    @property
    def mlflow(self) -> str:
        """Where it is mirrored."""
        return "auto" if self.study is None else self.study.track.mlflow

    @property
    def extras(self) -> list[str]:
        """Optional packages that it cannot do without."""
        named = self.mlflow not in ("auto", "off")
        return [*(["ray"] if self.ray else []), *(["mlflow"] if named else [])]

    def findings(self) -> Iterator[Finding]:
        """Everything about the study itself, and about the data root."""
        root = data.data_root()
        yield Finding("data", "ok", f"data root {root}{'' if root.is_dir() else ', which is made when data come'}")
        yield from (Finding("study", "problem", line, "Mend the study file.") for line in self.problems)
        if self.study is None or self.folder is None:
            return
        yield from self._edited()
        yield from self._data(self.study)
        yield from self._checkpoints(self.study)
        try:
            workers_for(self.study.resources, float(cores()), float(_gpus()))
        except KdbenchError as error:
            if self.ray_address in (None, "local"):
                yield Finding("study", "problem", str(error), "Lower it in the study: resources.")

    def _edited(self) -> Iterator[Finding]:
        """Whether the study may go on in its folder."""
        if self.study is None or self.folder is None:
            return
        try:
            said = edited(self.study, Store(self.folder), self.tree)
        except StudyError as error:
            *changes, advice = error.problems
            yield from (Finding("study", "problem", change, advice) for change in changes)
        else:
            done = f", {plural(len(self.records), 'record')} in {self.folder}" if self.records else ""
            yield Finding("study", "ok", " ".join([f"{self.study.study}: the study file is right{done}.", *said]))

    def _data(self, study: Study) -> Iterator[Finding]:
        for name, section in data_sections(study).items():
            config = section.config()
            try:
                info = data.describe(config)
            except (DataError, OSError) as error:
                yield Finding("data", "problem", f"{name}: {error}", "Put it there; see `kdbench datasets`.")
                continue
            if info.available:
                yield Finding("data", "ok", f"{name}: {data.label(config)} is here")
            else:
                todo = f"`kdbench run` tries to fetch it. Without a network, put it into {data.data_root()}."
                yield Finding("data", "warning", f"{name}: {data.label(config)} is not on this machine yet", todo)

    def _checkpoints(self, study: Study) -> Iterator[Finding]:
        named = {"teacher": study.teacher, **{f"networks.{name}": one for name, one in study.networks.items()}}
        for name, section in named.items():
            if section is None or section.checkpoint is None:
                continue
            if checkpoint_file(section.checkpoint) is None:
                yield Finding("data", "problem", f"{name}: the checkpoint {section.checkpoint} is not here",
                              f"Put it into the data root {data.data_root()}.")  # fmt: skip
            else:
                yield Finding("data", "ok", f"{name}: the checkpoint {section.checkpoint} is here")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
