"""What `kdbench reproduce` found out: the schema of `reproduction.json`, and how its verdict follows from numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import stats

from kdbench.errors import KdbenchError

NAME = "reproduction.json"
LEVEL = 0.95
ROUNDING = 1e-9  # percentage points: how a mean is rounded is no difference
TIMES = ("_wall_s", "_device_s")
MINIMUM = 2  # recorded trainings: of one alone there is no spread, and so no interval

Verdict = Literal["bit-equal", "inside", "outside", "undecided"]
Origin = Literal["weights of the study", "shelf of teachers", "checkpoint", "trained again"]


class Section(BaseModel):
    """Part of the file: nothing unknown is accepted, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SeedResult(Section):
    """One training of the row and the same training made again.

    seed: of the training. key: of the original record, and of the new one, for their specs are equal.
    recorded_top1_pct, reproduced_top1_pct: test top-1 accuracy; None where the training did not finish, or its network
    was not tested. recorded_status, reproduced_status: as in records. equal: the status and every result and curve that
    was recorded, times apart, are the same to the last bit. differs: names of those that are not.
    """

    seed: int
    key: str
    recorded_top1_pct: float | None
    reproduced_top1_pct: float | None
    equal: bool
    recorded_status: str = "finished"
    reproduced_status: str = "finished"
    differs: tuple[str, ...] = ()


class NetworkResult(Section):
    """A network that the row learns from or starts from: where its weights came from here.

    name: as the study calls it. sha256: of the weights that were used here, None where there are none.
    recorded_sha256: of those that the row's records name; None where they name none. equal: whether the two are the
    same weights; None where that cannot be said. reproduced: how its own training, made again, compares; None where it
    was not trained again.
    """

    name: str
    key: str
    origin: Origin
    recorded_sha256: str | None
    sha256: str | None
    equal: bool | None
    reproduced: SeedResult | None = None


class PredictionInterval(Section):
    """Where the mean of `m` new trainings lies with probability `level`, given the `n` recorded ones.

    kind: `prediction of the mean of <m> new trainings`. low, high: test top-1 accuracy in percent.
    """

    low: float
    high: float
    kind: str
    level: float = LEVEL
    n: int
    m: int


class Surroundings(Section):
    """The environments of the recorded and of the new training, and what differs, as `name: [recorded, now]`."""

    recorded: dict[str, Any]
    reproduced: dict[str, Any]
    differs: dict[str, tuple[Any, Any]] = Field(default_factory=dict)


class Reproduction(Section):
    """One row of a leaderboard, trained again from the specs of its records.

    row: its id. study, method, student, pair: what it stands for. protocol: of the records. by: who made it, where
    they say so. seeds: the trainings made again. networks: what they learnt from. recorded_mean_pct,
    reproduced_mean_pct: means of test top-1 accuracy, of all finished trainings of the row and of those made again.
    interval: None where there is none; `reason` says why. row_interval: the 95 % bootstrap interval of the mean that
    the leaderboard prints, for information. record_sha256: of the files of the row's original records, by key.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    row: str
    study: str
    pair: str = ""
    method: str = ""
    student: str = ""
    protocol: int
    by: str = ""
    seeds: tuple[SeedResult, ...]
    networks: tuple[NetworkResult, ...] = ()
    recorded_mean_pct: float | None = None
    reproduced_mean_pct: float | None = None
    interval: PredictionInterval | None = None
    row_interval: tuple[float, float] | None = None
    verdict: Verdict
    reason: str
    environment: Surroundings
    record_sha256: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as stored."""
        return self.model_dump(mode="json", by_alias=True)


def read_reproduction(path: Path) -> Reproduction:
    """Read a `reproduction.json`. Raise KdbenchError that names the file and every field that does not fit."""
    try:
        return Reproduction.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KdbenchError(f"{path}: {error.strerror}. Give the file that `kdbench reproduce` wrote.") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise KdbenchError(
            f"{path} is not a reproduction of schema 1: {wrong}. Run `kdbench reproduce` anew."
        ) from error


def prediction_interval(scores: Sequence[float], m: int, level: float = LEVEL) -> PredictionInterval | None:
    """Where the mean of m new values lies with probability `level`, after n values of the same normal distribution.

        mean +- t((1 + level) / 2; n - 1) * s * sqrt(1 / n + 1 / m)

    scores: (n,), finite; None for n < 2. An interval of the row's mean would be the wrong one: it is made to hold the
    true mean, and even the row's own trainings lie outside it. Source: Hahn and Meeker 1991, Statistical Intervals,
    section 4.8 (for m = 1, section 4.7).
    """
    values = np.asarray(scores, dtype=np.float64)
    if m < 1 or not np.isfinite(values).all():
        raise ValueError(f"a prediction needs finite scores and m >= 1; got {values!r} and m = {m}")
    n = len(values)
    if n < MINIMUM:
        return None
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) * math.sqrt(1 / n + 1 / m))
    centre, half = (float(values[0]), 0.0) if np.ptp(values) == 0 else (float(values.mean()), half)
    kind = f"prediction of the mean of {m} new training{'' if m == 1 else 's'}"
    return PredictionInterval(low=centre - half, high=centre + half, kind=kind, level=level, n=n, m=m)


def judged(recorded: Sequence[float], seeds: Sequence[SeedResult]) -> tuple[Verdict, str, PredictionInterval | None]:
    """The verdict on a row, in a word and in a sentence, and the interval behind it.

    recorded: test top-1 of all finished trainings of the row. seeds: the trainings made again, at least one.
    bit-equal: all of them are. Else inside or outside by the mean of those that had finished before; outside too where
    such a training did not finish this time. undecided: the row allows no interval.
    """
    tested = [s for s in seeds if s.recorded_top1_pct is not None]
    interval = prediction_interval(recorded, len(tested)) if tested else None
    if all(s.equal for s in seeds):
        return "bit-equal", "every result and every curve is the same to the last bit, times apart", interval
    if not tested:
        return "undecided", "none of these trainings had finished before, and they are not equal", None
    if ended := [s.reproduced_status for s in tested if s.reproduced_top1_pct is None]:
        words = f"{len(ended)} of {len(tested)} trainings that had finished ended otherwise: {', '.join(ended)}"
        return "outside", words, interval
    mean = math.fsum(s.reproduced_top1_pct or 0.0 for s in tested) / len(tested)
    found = f"{mean:.4f} %, recorded {float(np.mean(recorded)):.4f} %"
    if interval is None:
        why = f"n = {len(recorded)}: an interval needs at least {MINIMUM} finished trainings in the row"
        return "undecided", f"not equal ({found}), and {why}", None
    inside = interval.low - ROUNDING <= mean <= interval.high + ROUNDING
    if interval.low == interval.high and not inside:
        why = f"all {len(recorded)} trainings of the row have one accuracy, which says nothing of their spread"
        return "undecided", f"not equal ({found}), and {why}", None
    words = f"{found}; {'within' if inside else 'not within'} [{interval.low:.4f}, {interval.high:.4f}]"
    return ("inside" if inside else "outside"), f"{words}, the 95 % {interval.kind} after {interval.n}", interval


def comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Results or curves without times, which no training repeats."""
    return {name: value for name, value in values.items() if not name.endswith(TIMES)}
