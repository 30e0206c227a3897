"""The sections of a study file as typed, frozen models. Descriptions feed `kdbench schema` and the messages.

Sizes of models and hyper-parameters of methods are declared where they belong (kdbench/fields.py) and are checked in
kdbench/study/check.py; here they are only values, lists and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from kdbench.data.corruptions import CORRUPTIONS, Corruption
from kdbench.record import METRICS
from kdbench.study.objectives import COSTS, DEFAULT_FRONTS, OBJECTIVES

Scalar = bool | int | float | str


class Section(BaseModel):
    """A mapping of the study file: unknown keys are errors, values are never converted, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dumped_if_written: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain values that read back as the same section: defaults are written out."""
        names = [n for n in type(self).model_fields if n not in self.dumped_if_written or n in self.model_fields_set]
        values = {name: getattr(self, name) for name in names} | (self.model_extra or {})
        return {name: plain(value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """A value of a section as JSON holds it."""
    if isinstance(value, Section):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


class RangeSetting(Section):
    """Numbers that are searched, both ends included."""

    dumped_if_written = frozenset({"log", "step"})

    low: int | float = Field(description="lowest value")
    high: int | float = Field(description="highest value")
    log: bool | None = Field(default=None, description="draw on a logarithmic scale; default: as the method declares")
    step: int | float | None = Field(
        default=None, description="distance between values; default: as the method declares"
    )


class Each(Section):
    """Values that are listed, not searched: every one gets its own row in the table."""

    each: Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False, description="one table row for each value")]


def kind_of_setting(value: Any) -> str:
    """Which form a setting is written in: the tag of its type."""
    if isinstance(value, (Mapping, Section)):
        return "<mapping>"
    return "<list>" if isinstance(value, (list, tuple)) else "<value>"


Listed = Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False)]
Setting = Annotated[
    Annotated[Scalar, Tag("<value>")] | Annotated[Listed, Tag("<list>")] | Annotated[RangeSetting, Tag("<mapping>")],
    Discriminator(kind_of_setting),
]
SizeSetting = Annotated[
    Annotated[Scalar, Tag("<value>")] | Annotated[Listed, Tag("<list>")] | Annotated[Each, Tag("<mapping>")],
    Discriminator(kind_of_setting),
]
Searched = Annotated[
    Annotated[Listed, Tag("<list>")] | Annotated[RangeSetting, Tag("<mapping>")],
    Discriminator(lambda value: "<list>" if isinstance(value, (list, tuple)) else "<mapping>"),
]


Objectives = Annotated[
    tuple[Annotated[str, Field(json_schema_extra={"enum": list(OBJECTIVES)})], ...],
    Field(
        strict=False,
        json_schema_extra={"minItems": 2, "maxItems": 3, "uniqueItems": True, "x-allowed": "two or three objectives"},
    ),
]
Values = Annotated[
    dict[str, float],
    Field(json_schema_extra={"propertyNames": {"enum": list(METRICS)}, "x-allowed": "a mapping of metrics to numbers"}),
]
Budget = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    Field(
        min_length=1,
        json_schema_extra={
            "propertyNames": {"enum": list(COSTS)},
            "x-allowed": "a mapping of costs to limits, such as {params: 3.0e5}",
        },
    ),
]


class Data(Section):
    """Which images, and how they are split and augmented: one of `name`, `folder` and `table`."""

    model_config = ConfigDict(json_schema_extra={"x-allowed": "a mapping with name, folder or table"})
    dumped_if_written = frozenset({"folder", "size", "grey", "table", "label", "test", "unlabelled"})

    name: str | None = Field(
        default=None, description="data set: one of `kdbench datasets`, or NAME of NAME.npz in the data root"
    )
    folder: str | None = Field(default=None, description="folder of images, one folder for each class")
    size: int | None = Field(default=None, ge=8, le=1024, description="side of the images in pixels, cut to a square")
    grey: bool = Field(default=False, description="one grey channel in place of three colours")
    table: str | None = Field(default=None, description=".csv, .tsv, .npy or .npz file of numbers, one row a sample")
    label: str | int | None = Field(default=None, description="column of the classes: its heading, or its place from 0")
    test: str | None = Field(default=None, description="file of the test rows; null: a tenth of the table")
    validation: int | None = Field(
        default=None, ge=1, description="training images held out for search; null: the set's own split, else a tenth"
    )
    split_seed: int = Field(default=0, ge=0, description="seed of the split into training and validation images")
    train: int | None = Field(
        default=None, ge=1, description="use only so many training images; null: all that are left"
    )
    unlabelled: int = Field(default=0, ge=0, description="further training images, whose labels are never read")
    classes: list[int] | None = Field(
        default=None, min_length=2, description="keep only these classes, numbered anew in this order; null: all"
    )
    rotate: Literal[0, 90, 180, 270] = Field(default=0, description="rotate every image by so many degrees")
    crop: int | None = Field(
        default=None, ge=0, description="pixels of padding of the random crop; null: as usual for the set"
    )
    flip: bool | None = Field(default=None, description="mirror at random; null: as usual for the data set")

    def config(self) -> dict[str, Any]:
        """A spec's `data`: what is left at its default is left out, so that a new option changes no old key."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)


class Train(Section):
    """How every network is trained, whatever the method."""

    epochs: int = Field(ge=1, description="passes over the training images")
    batch_size: int = Field(
        default=128, ge=2, description="images in a step; two at least: batch norm and relations need more than one"
    )
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="optimiser")
    lr: float = Field(gt=0, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(default=False, description="Nesterov's form of momentum")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay")
    schedule: Literal["cosine", "step", "constant"] = Field(
        default="cosine", description="learning rate over the epochs"
    )
    milestones: Annotated[tuple[int, ...], Field(strict=False)] = Field(
        default=(), description="epochs after which a step schedule multiplies the learning rate by gamma"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor at each milestone")
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs in which the learning rate rises from 0")
    clip_norm: float | None = Field(default=None, gt=0, description="limit of the gradient's L2 norm; null: none")
    target_top1_pct: float | None = Field(
        default=None, gt=0, le=100, description="stop at this validation accuracy in per cent; null: train all epochs"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware has it"
    )
    time_limit_s: float | None = Field(
        default=None, gt=0, description="end a training after so many seconds; null: no limit"
    )


class Student(Section):
    """The student: a model family; a list of sizes is searched, `each:` lists sizes that get a table row each."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SizeSetting]

    dumped_if_written = frozenset({"max_params"})

    model: str = Field(description="model family: one of `kdbench models`")
    max_params: int | None = Field(
        default=None, ge=1, description="only sizes with at most so many parameters; null: all that are listed"
    )

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes as written, by public name: a value, a tuple (searched) or Each."""
        return dict(self.model_extra or {})


class Shared(Section):
    """Training settings that are searched for every method alike, so that no method is held back by them."""

    dumped_if_written = frozenset({"lr", "weight_decay"})

    lr: Searched | None = Field(default=None, description="range or list of peak learning rates")
    weight_decay: Searched | None = Field(default=None, description="range or list of weight decays")


class Search(Section):
    """The search that every method gets alike."""

    trials: int = Field(ge=1, description="trials of each method and repeat; trial 0 is the published default")
    repeats: int = Field(default=3, ge=1, description="independent searches of each method")
    sampler: Literal["tpe", "random", "gp"] = Field(default="tpe", description="how the next trial is proposed")
    objectives: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        default=("val_top1_pct", "params"), description="what is optimised, on the validation split"
    )
    seed: int = Field(default=0, ge=0, description="seed of all that the search draws")
    startup: int | None = Field(
        default=None, ge=1, description="random trials before the sampler learns; null: a third of trials"
    )
    batch: int = Field(default=1, ge=1, description="trials of one method that are proposed together")
    shared: Shared = Field(default=Shared(), description="training settings that are searched for every method alike")


class Final(Section):
    """Which configurations are retrained on fresh seeds and meet the test split."""

    select: Literal["best", "best_per_size", "pareto"] = Field(
        default="best",
        description="best: one of each method; best_per_size: one of each size; pareto: the validation front",
    )
    seeds: int = Field(default=5, ge=1, description="fresh seeds of each chosen configuration")


class Corruptions(Section):
    """Which corruptions of the test images the retrained students meet (kdbench/data/corruptions.py)."""

    names: Annotated[
        Annotated[Literal["all"], Tag("<value>")]
        | Annotated[tuple[Corruption, ...], Field(min_length=1, strict=False), Tag("<list>")],
        Discriminator(kind_of_setting),
    ] = Field(
        default="all",
        json_schema_extra={"x-allowed": f"all, or a list of {', '.join(CORRUPTIONS)}"},
        description="corruptions; all: those that such images can have",
    )
    severities: Annotated[tuple[Literal[1, 2, 3, 4, 5], ...], Field(min_length=1, strict=False)] = Field(
        default=(1, 2, 3, 4, 5), description="severities of each, from 1 (mild) to 5"
    )
    images: int | None = Field(
        default=None, ge=1, description="test images, each class in proportion; null: all of the test split"
    )


class Evaluation(Section):
    """What is measured of the retrained students beside accuracy, on test images. Nothing is selected by it."""

    agreement: bool = Field(
        default=False, description="agreement with the teacher of every row, also of those that do not learn from it"
    )
    corruptions: Corruptions | None = Field(
        default=None, description="accuracy on corrupted test images; null: not measured"
    )


class Pareto(Section):
    """What the fronts are made of, and the points that their indicators refer to. Nothing of it is taken from the data.

    Metrics are named without a split: the reported front is of test means, the search front of validation.
    """

    dumped_if_written = frozenset({"ideal", "fronts", "budgets", "reference_set"})

    reference: Values = Field(
        default_factory=dict, description="metric -> worst value that still counts, for the hypervolume"
    )
    ideal: Values = Field(
        default_factory=dict, description="metric -> best value there is, for the normalisation; default: 100 % or 0"
    )
    fronts: Annotated[tuple[Objectives, ...], Field(strict=False)] = Field(
        default=DEFAULT_FRONTS,
        description="pairs or triples of objectives, one reported front each",
        json_schema_extra={"minItems": 1},
    )
    budgets: Annotated[tuple[Budget, ...], Field(strict=False)] = Field(
        default=(),
        description="limits of costs: the report names the best row within each",
        json_schema_extra={"x-allowed": "a list of budgets, such as [{params: 3.0e5}]"},
    )
    reference_set: Annotated[tuple[Values, ...], Field(strict=False)] = Field(
        default=(),
        description="points to measure epsilon and IGD+ against; default: the front of all ranked rows",
        json_schema_extra={"x-allowed": "a list of points, such as [{top1_pct: 92, params: 1.0e5}]"},
    )


class Resources(Section):
    """Where trials run and what each of them may use."""

    dumped_if_written = frozenset({"storage", "gpus_per_teacher", "processes_per_trial", "students_per_stream"})

    executor: Literal["ray", "local"] = Field(
        default="ray", description="ray: several at once; local: one after another"
    )
    cpus_per_trial: int = Field(default=1, ge=1, description="CPU cores of a trial")
    cpus_per_teacher: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="CPU cores while a teacher trains; auto: all"
    )
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="GPUs of a trial, also a share such as 0.25; auto: one where there is one"
    )
    gpus_per_teacher: int | None = Field(
        default=None, ge=1, description="GPUs over which a teacher trains; null: as a trial"
    )
    processes_per_trial: int = Field(
        default=1, ge=1, description="without GPUs: processes over which a training is spread, a teacher's too"
    )
    students_per_stream: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="search trials of one repeat that train side by side in a worker, with one forward pass of the "
        "teacher, where the view cache does not serve their methods; 1: none; auto: up to 8",
    )
    ray_address: str | None = Field(
        default=None,
        json_schema_extra={"pattern": r"^(auto|local|[^/]+:[0-9]+)$"},
        description="running Ray cluster to use: auto, or host:port; null: start one on this machine",
    )
    storage: str | None = Field(
        default=None,
        json_schema_extra={
            "pattern": r"^(/|[a-z][a-z0-9+.-]*://)",
            "x-allowed": "a folder with its whole path, or a URL such as s3://bucket/prefix",
        },
        description="where nodes of a cluster keep checkpoints of trainings under way; null: each on its own disk",
    )
    max_retries: int = Field(default=2, ge=0, description="how often a trial is started again after its worker died")


class Track(Section):
    """Where results are mirrored for people."""

    mlflow: str = Field(
        default="auto",
        json_schema_extra={"x-allowed": "auto, off, or a tracking URI such as http://host:5000"},
        description="auto: beside the results if MLflow is installed; off; or a tracking URI",
    )
