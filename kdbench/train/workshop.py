"""What one worker process keeps from one training to the next: data, views and teachers, each loaded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from kdbench import data
from kdbench.data.views import Views
from kdbench.errors import CheckpointError, KdbenchError
from kdbench.method import Method
from kdbench.models import model_from
from kdbench.nets.base import Network
from kdbench.nets.composite import Ensemble, Normalised
from kdbench.record import TrialSpec, canonical_json
from kdbench.seeds import seed_for
from kdbench.store import Store
from kdbench.train import checkpoint
from kdbench.train.engine import Engine
from kdbench.train.group import ALONE, Alone
from kdbench.train.loop import logits_of
from kdbench.train.serving import cache_in_use, served_by_cache
from kdbench.train.task import probe
from kdbench.train.teachers import CachedTeacher, LiveTeacher, Teacher
from kdbench.train.view_cache import ViewCache, weights_hash

T = TypeVar("T")
TEST_PHASES = ("teacher", "final", "evaluation")
AMOUNTS = ("validation", "split_seed", "train", "unlabelled", "crop", "flip")


class Source(Protocol):
    """Where a workshop's images and trained weights come from."""

    def splits(self, config: Mapping[str, Any], *, test: bool = False) -> data.Splits:
        """The images of a data configuration, the test images only where they are asked for."""

    def weights(self, spec: TrialSpec, role: str) -> Path:
        """The file of the weights that a training left, where the workshop's store has it. Raise CheckpointError that
        says which is missing; role: what messages call it."""


class Folder:
    """Images of this machine, weights of a study's own folder."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def splits(self, config: Mapping[str, Any], *, test: bool = False) -> data.Splits:
        """As `kdbench.data.load`."""
        return data.load(config, test=test)

    def weights(self, spec: TrialSpec, role: str) -> Path:
        """The file in the study's folder."""
        path = self.store.weights_path(spec.key)
        if path.exists():
            return path
        filed = self.store.record_path(spec.key)
        if not filed.exists():
            raise CheckpointError(f"the {role} {spec.key} is not trained yet: there are no weights at {path}.")
        record = self.store.read(spec.key)
        raise CheckpointError(
            f"the {role} {spec.key} has status '{record.status}' ({record.error or 'no error'}) and no weights at "
            f"{path}. Mend the cause, delete {filed}, and run the study again."
        )


class Workshop:
    """The tools of one worker: a folder, a device, and what has been loaded so far. source: by default the folder."""

    def __init__(
        self, store: Store, device: torch.device, use_cache: bool = True, source: Source | None = None
    ) -> None:
        self.store = store
        self.source: Source = source or Folder(store)
        self.engine: Mapping[str, Any] | None = None  # what a record says of the one that trainings have to have
        self.group: Alone = ALONE  # of the processes that share each training
        self.device = device
        self.use_cache = use_cache and cache_in_use()
        self._kept: dict[Hashable, Any] = {}
        self._hashes: dict[str, str] = {}  # of the weights that were loaded, by key

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing filed under `key`, made at its first use."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Drop all that is kept, because somebody may have changed it: it is loaded again at its next use."""
        self._kept.clear()

    def splits(self, config: Mapping[str, Any]) -> data.Splits:
        """Training and validation images; never the test images."""
        return self.keep(("splits", canonical_json(dict(config))), lambda: self.source.splits(config))

    def views(self, config: Mapping[str, Any], split: str) -> Views:
        """Views of the `train` or `validation` images on this worker's device."""

        def make() -> Views:
            splits = self.splits(config)
            return self._views(splits, getattr(splits, split).images, augmented=split == "train")

        return self.keep(("views", canonical_json(dict(config)), split), make)

    def unlabelled(self, config: Mapping[str, Any]) -> Views | None:
        """Views of the training images without labels on this worker's device, or None where the data have none."""

        def make() -> Views | None:
            splits = self.splits(config)
            return None if splits.unlabelled is None else self._views(splits, splits.unlabelled, augmented=True)

        return self.keep(("unlabelled", canonical_json(dict(config))), make)

    def labels(self, config: Mapping[str, Any], split: str) -> Tensor:
        """Labels (n,) on this worker's device."""

        def make() -> Tensor:
            labels: Tensor = getattr(self.splits(config), split).labels.to(self.device)
            return labels

        return self.keep(("labels", canonical_json(dict(config)), split), make)

    def test(self, spec: TrialSpec) -> tuple[Views, Tensor, str]:
        """Views, labels and hash of the test images. Raise KdbenchError in a phase that must not see them."""
        if spec.phase not in TEST_PHASES:
            raise KdbenchError(f"a {spec.phase} training must not see the test split")

        def make() -> tuple[Views, Tensor, str]:
            splits = self.source.splits(spec.data, test=True)
            if splits.test is None or splits.test_hash is None:
                raise KdbenchError(f"data set '{data.label(spec.data)}' has no test split")
            views = self._views(splits, splits.test.images, augmented=False)
            return views, splits.test.labels.to(self.device), splits.test_hash

        return self.keep(("test", canonical_json(dict(spec.data))), make)

    def test_images(self, spec: TrialSpec) -> Tensor:
        """The test images as they are, uint8 (N, H, W, C). Raise KdbenchError as `test`, and for data of no images."""
        self.test(spec)  # refuses a phase that must not see them

        def make() -> Tensor:
            splits = self.source.splits(spec.data, test=True)
            if splits.test is None or splits.test.images.ndim != 4:
                raise KdbenchError(f"data set '{data.label(spec.data)}' has no test images that could be corrupted")
            return splits.test.images

        return self.keep(("test images", canonical_json(dict(spec.data))), make)

    def _views(self, splits: data.Splits, images: Tensor, *, augmented: bool) -> Views:
        crop, flip = (splits.crop, splits.flip) if augmented else (0, False)
        return Views(images, crop, flip, splits.mean, splits.std, device=self.device)

    def network(self, spec: TrialSpec, role: str = "student") -> Network:
        """A fresh network of the spec's model, with weights drawn from the spec's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(spec.seed, "init", role))
            return network_of(spec.model, self.splits(spec.data))

    def trained(self, spec: TrialSpec, role: str) -> Network:
        """The network of `spec` with the weights that its training left. Raise CheckpointError if there are none."""

        def make() -> Network:
            net = self.network(spec)
            checkpoint.load_weights(net, self.weights(spec, role), f"the {role} {spec.key}")
            return net.to(self.device).eval().requires_grad_(False)

        return self.keep(("trained", spec.key), make)

    def weights(self, spec: TrialSpec, role: str) -> dict[str, Tensor]:
        """Trained weights of an earlier training. Raise CheckpointError that says which is missing."""
        path = self.source.weights(spec, role)
        sha256 = file_hash(path)  # first: bytes that pass their checksum after it are those that it is of
        tensors = checkpoint.load(path)[0]
        self._hashes[spec.key] = sha256
        return tensors

    def weights_hash(self, spec: TrialSpec) -> str:
        """SHA-256 of the file of an earlier training's weights as it was when they were loaded, whatever has happened
        to it since."""
        return self._hashes.get(spec.key) or file_hash(self.store.weights_path(spec.key))

    def start_from(self, net: Network, source: TrialSpec, spec: TrialSpec) -> None:
        """Give `net` the weights of another network: all of them if that was trained on the same task as `spec` asks
        for, else all but the classifier."""
        what, role = f"the source network {source.key}", "source network"
        if source.model["name"] == "normalised":
            raise CheckpointError(
                f"{what} has a normalisation of its own, which a student does not share. Remove `normalise`."
            )
        skip = None if task_of(source.data) == task_of(spec.data) else net.head_prefix
        checkpoint.load_weights(net, self.weights(source, role), what, skip=skip)

    def teacher(self, spec: TrialSpec, engine: Engine | str) -> LiveTeacher:
        """The frozen teacher that `spec` trained, as a network that runs. engine: or a precision."""
        precision, fold = Engine.of(engine).precision, Engine.of(engine).batch_norm == "folded"

        return self.keep(
            ("teacher", spec.key, precision, fold),
            lambda: LiveTeacher(self.trained(spec, "teacher"), self.device, precision, fold),
        )

    def teacher_for(self, method: Method, teacher: TrialSpec, spec: TrialSpec, engine: Engine | str) -> Teacher:
        """The teacher as a method needs it: from the view cache where it reads logits and pooled features only."""
        if not self.use_cache or not served_by_cache(method):
            return self.teacher(teacher, engine)
        filler = replace(Engine.of(engine), precision="fp32")
        key = ("cached", teacher.key, canonical_json(dict(spec.data)), filler.batch_norm)
        return self.keep(key, lambda: self._cached(teacher, spec, filler))

    def _cached(self, teacher: TrialSpec, spec: TrialSpec, filler: Engine) -> CachedTeacher:
        live, views, splits = self.teacher(teacher, filler), self.views(spec.data, "train"), self.splits(spec.data)
        compute = CachedTeacher.compute_with(live, views)
        cache = ViewCache.open(
            folder=None,
            key_parts={
                "teacher": weights_hash(live.net.state_dict()),
                "data": splits.hash,
                "split": "train",
                "normalisation": normalisation_of(splits),
                "views": {"crop": splits.crop, "flip": splits.flip},
                "folding": "batch_norm" if filler.batch_norm == "folded" else "none",
                "precision": "fp32",
            },
            n_images=len(views),
            views=views.count,
            classes=splits.classes,
            pooled=probe(live.net, views).pooled.shape[1],
            verify=compute,
            device=self.device,
        )
        return CachedTeacher(cache, compute)

    def teacher_logits(self, teacher: TrialSpec, spec: TrialSpec, split: str, precision: str) -> Tensor:
        """The teacher's logits (n, C) on the unaugmented images of `validation` or `test`."""

        views = self.test(spec)[0] if split == "test" else self.views(spec.data, split)

        def make() -> Tensor:
            return logits_of(self.teacher(teacher, precision).net, views, precision)

        return self.keep(("logits", teacher.key, canonical_json(dict(spec.data)), split, precision), make)


def network_of(config: Mapping[str, Any], splits: data.Splits) -> Network:
    """A network for the images of `splits`, with fresh weights: of a model family, or made of other networks."""
    match config["name"]:
        case "normalised":
            given, wanted = (splits.mean, splits.std), (config["mean"], config["std"])
            return Normalised(network_of(config["model"], splits), given, wanted)
        case "ensemble":
            return Ensemble([network_of(member, splits) for member in config["members"]], config["average"])
    return model_from(config).network(splits.image_shape, splits.classes)


def normalisation_of(splits: data.Splits) -> Any:
    """Mean and std as a cache's key holds them: a table of many columns would not fit, so of these it holds a hash."""
    values = [list(splits.mean), list(splits.std)]
    short = len(splits.mean) <= 4
    return values if short else hashlib.sha256(canonical_json(values).encode()).hexdigest()


def task_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a data configuration asks a network to tell apart; how many images there are of it is another matter."""
    return {name: value for name, value in config.items() if name not in AMOUNTS}


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
