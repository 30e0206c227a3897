"""Networks that a study need not train: from an earlier study, or from a checkpoint; and what it leaves for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping

from kdbench import data
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord, canonical_json
from kdbench.search.agenda import Agenda
from kdbench.store import Store
from kdbench.study.checkpoints import checkpoint_file
from kdbench.study.networks import section_of
from kdbench.study.schema import Study

Hashes = tuple[str, str | None]  # of the training and validation images, and of the test images where they were loaded


def take_teachers(store: Store, agenda: Agenda, hashes: Mapping[str, Hashes], again: Container[str] = ()) -> list[str]:
    """Take networks of the study that an earlier study has trained, alike in everything; return what to say of it.

    again: keys of those that are to be trained again, whoever has them.
    """
    from kdbench.train.shelf import take

    taken = []
    for name, spec in agenda.fixed.items():
        if spec.key in agenda.records or spec.key in again:
            continue
        record = take(store, spec, *hashes[canonical_json(spec.data)])
        if record is not None:
            agenda.records[record.key] = record
            taken.append(name)
    return [f"Taken from an earlier study, where it was trained alike: {', '.join(taken)}."] if taken else []


def share_teachers(store: Store, agenda: Agenda) -> None:
    """Keep the networks that this study has trained for other studies that need the same."""
    from kdbench.train.shelf import put

    for spec in agenda.fixed.values():
        if spec.key in agenda.records and store.weights_path(spec.key).exists():
            put(store, agenda.records[spec.key])


def stale_plugins(records: Mapping[str, TrialRecord]) -> list[str]:
    """A line for each plug-in whose source has changed since records of it were made, which still count."""
    with_plugins = [record for record in records.values() if record.environment.get("plugins")]
    if not with_plugins:
        return []
    from kdbench.train.environment import changed_plugins

    changed = Counter(name for record in with_plugins for name in changed_plugins(record))
    return [
        f"The source of the {name} has changed since {count} of its trainings were made, and they are kept. Delete "
        "their records, or give the study another name, to train them again."
        for name, count in changed.items()
    ]


def import_checkpoints(study: Study, store: Store, agenda: Agenda) -> None:
    """Bring the weights of checkpoints into the store, where they are not there yet and may be needed.

    Raise CheckpointError for a file that does not fit, KdbenchError for one that is gone.
    """
    for name, spec in agenda.fixed.items():
        section = section_of(study, name)
        if section is None or section.checkpoint is None or store.weights_path(spec.key).exists():
            continue
        from kdbench.train.imported import import_checkpoint

        path = checkpoint_file(section.checkpoint)
        if path is None:
            raise KdbenchError(
                f"the checkpoint {section.checkpoint} of '{name}' is neither here nor in the data root "
                f"{data.data_root()}. Put it there."
            )
        import_checkpoint(path, spec, store)
