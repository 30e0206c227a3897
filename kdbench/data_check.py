"""The data of a study before it runs: fetched, split, and the same as those of the records that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench import data
from kdbench.errors import DataError
from kdbench.handover import Hashes
from kdbench.record import TrialRecord, canonical_json
from kdbench.store import Store, write_json
from kdbench.study.schema import Data, Study


def data_sections(study: Study) -> dict[str, Data]:
    """The data of the study, of its source task, and of those networks that have data of their own, by their place."""
    sections = {"data": study.data}
    if study.source is not None:
        sections["source"] = study.source.data
    named = {"teacher": study.teacher, **{f"networks.{name}": section for name, section in study.networks.items()}}
    own = {name: section.data for name, section in named.items() if section is not None and section.data is not None}
    return sections | own


def provenance(study: Study) -> str:
    """What the data sets of a study say about themselves: `cifar10: Krizhevsky 2009; ...`."""
    configs = {data.label(section.config()): section.config() for section in data_sections(study).values()}
    notes = {name: data.describe(config).note.rstrip(".") for name, config in configs.items()}
    return "; ".join(f"{name}: {note}" for name, note in notes.items() if note)


def check_data(study: Study, store: Store, records: Mapping[str, TrialRecord]) -> dict[str, Hashes]:
    """Fetch what is missing, and store the splits with their hashes, the test split's too.

    Returns the hashes of the data and of its test split by the canonical JSON of a data configuration. Raise DataError
    if data are missing, or if earlier records of this study were trained or tested on other data.
    """
    splits: dict[str, Any] = {}
    hashes: dict[str, Hashes] = {}
    for name, section in data_sections(study).items():
        config = section.config()
        loaded = data.load(config, test=name == "data")
        splits[name] = data.split_indices(loaded)
        now = {"data_hash": loaded.hash, "test_hash": loaded.test_hash}
        hashes.setdefault(canonical_json(config), (loaded.hash, loaded.test_hash))
        for record in (r for r in records.values() if r.spec.data == config):
            for kind, value in now.items():
                if (then := record.environment.get(kind)) is not None and value is not None and then != value:
                    raise DataError(
                        f"{store.record_path(record.key)} has {kind} {then[:12]}, but '{data.label(config)}' now has "
                        f"{value[:12]}: the images or labels changed. Put the old ones back, or give the study "
                        "another name."
                    )
    write_json(store.folder / "splits.json", splits)
    return hashes
