"""The study file as one typed, frozen model: what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from kdbench.study import space
from kdbench.study.network_sections import Network, Pair, Source, Teacher
from kdbench.study.rows import Row
from kdbench.study.sections import (
    Data,
    Evaluation,
    Final,
    Pareto,
    Resources,
    Search,
    Section,
    Student,
    Track,
    Train,
    plain,
)
from kdbench.study.space import Cell

if TYPE_CHECKING:
    from kdbench.fields import Space

__all__ = [
    "Cell", "Data", "Evaluation", "Final", "Network", "Pair", "Pareto", "Resources", "Row", "Search", "Source",
    "Student", "Study", "Teacher", "Track", "Train", "train_config",
]  # fmt: skip

SLUG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

OptionalRow = Annotated[Row, BeforeValidator(lambda value: {} if value is None else value)]


class Study(Section):
    """One question to kdbench: data, teacher, students, methods, search and final."""

    dumped_if_written = frozenset({"networks", "student", "pairs", "evaluation"})

    study: str = Field(
        pattern=SLUG,
        description="name of the study; results go to results/<name>",
        json_schema_extra={"x-allowed": "up to 100 letters, digits, '-', '_' and '.', starting with a letter or digit"},
    )
    question: str = Field(default="", description="what the study asks, in one sentence; printed above the table")
    data: Data = Field(description="which images, and how they are split and augmented")
    source: Source | None = Field(default=None, description="source task of the transfer-learning methods; null: none")
    teacher: Teacher | None = Field(default=None, description="the teacher of the distillation methods; null: none")
    networks: dict[str, Network] = Field(
        default_factory=dict, description="further networks, by name, that rows learn from or start from"
    )
    student: Student | None = Field(
        default=None,
        description="model family and sizes of the student",
        json_schema_extra={"x-allowed": "a mapping with model"},
    )
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1, strict=False)] | None = Field(
        default=None,
        description="pairs of teacher and student, in place of student and teacher; null: there is one student",
        json_schema_extra={"x-allowed": "a list of pairs {teacher: ..., student: {model: ...}}"},
    )
    methods: Annotated[dict[str, OptionalRow], Field(min_length=1)] = Field(
        description="rows of the table: methods to compare; hyper-parameters of each may be fixed or narrowed",
        json_schema_extra={"x-allowed": "a mapping of at least one method, such as scratch"},
    )
    search: Search = Field(description="the search that every method gets alike")
    final: Final = Field(default=Final(), description="what is retrained on fresh seeds and tested")
    evaluation: Evaluation | None = Field(
        default=None, description="what else is measured of the retrained students; null: nothing"
    )
    train: Train = Field(description="how every network is trained")
    pareto: Pareto = Field(default=Pareto(), description="reference of the Pareto figures")
    resources: Resources = Field(default=Resources(), description="where trials run and what each may use")
    track: Track = Field(default=Track(), description="where results are mirrored")

    def cells(self) -> list[Cell]:
        """The students of the study: one for each combination of `each:` values, or a single one; with pairs, those of
        each pair."""
        if self.student is not None:
            return space.cells(self.student, self.data)
        return [cell for pair in self.pairs or () for cell in space.cells_of_pair(pair, self.data)]

    def space(self, row: str, cell: Cell) -> dict[str, Space]:
        """What is searched for a row: hyper-parameters by name, then `student.<size>`, then `shared.<setting>`.

        Where the study limits the student's parameters, all searched sizes are one choice, `student.size`.
        """
        return space.searched(self, row, cell)

    def fixed(self, row: str) -> dict[str, Any]:
        """Hyper-parameters of a row that are not searched, defaults included."""
        return space.fixed(self, row)

    def defaults(self, row: str, cell: Cell) -> dict[str, Any]:
        """Trial 0: the published default of all that `space` searches, moved into the study's ranges where needed."""
        return space.defaults(self, row, cell)


def train_config(train: Train, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of one training as plain values: those of `train`, replaced by the overrides where these have them."""
    values = {name: getattr(train, name) for name in Train.model_fields}
    return {name: plain(overrides.get(name, value)) for name, value in values.items()}
