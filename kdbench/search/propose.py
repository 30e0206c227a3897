"""What to try next: Optuna, asked so that its answer is a pure function of the study and of finished trials.

An Optuna study is rebuilt from the records for each proposal, so there is no state to lose, nothing stays RUNNING, and
a study that was killed proposes what it would have proposed. With `tpe` and `random` every hyper-parameter has a
sampler of its own, seeded by its name, so that adding one never shifts the draws of the others; `gp` draws jointly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from kdbench.fields import Choice, Space
from kdbench.search.past import Past, learns
from kdbench.seeds import seed_for

SAMPLERS = ("tpe", "random", "gp")
STATES = {
    "complete": TrialState.COMPLETE,
    "fail": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
}


def distribution(space: Space) -> BaseDistribution:
    """The space of one hyper-parameter as Optuna writes it."""
    if isinstance(space, Choice):
        return CategoricalDistribution(space.values)
    if space.integer:
        return IntDistribution(int(space.low), int(space.high), log=space.log, step=int(space.step or 1))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


class ByName(BaseSampler):
    """Draws every hyper-parameter with a sampler of its own, seeded by the hyper-parameter's name."""

    def __init__(self, make: type[TPESampler] | type[RandomSampler], seed: int, number: int, **options: Any) -> None:
        self._make = lambda name: make(seed=seed_for(seed, "draw", name, number) % 2**32, **options)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one hyper-parameter."""
        return self._make(param_name).sample_independent(study, trial, param_name, param_distribution)


def sampler_for(kind: str, seed: int, number: int, startup: int) -> BaseSampler:
    """The sampler of trial `number`; the first `startup` trials are drawn at random whatever the kind."""
    if not learns(kind, number, startup):
        return ByName(RandomSampler, seed, number)
    if kind == "tpe":
        return ByName(TPESampler, seed, number, n_startup_trials=0, multivariate=False, constant_liar=True)
    if kind == "gp":
        return GPSampler(seed=seed_for(seed, "draw", "", number) % 2**32, n_startup_trials=0)
    raise ValueError(f"unknown sampler '{kind}'. Allowed: {', '.join(SAMPLERS)}.")


def propose(
    space: Mapping[str, Space],
    default: Mapping[str, Any],
    past: Sequence[Past],
    *,
    number: int,
    directions: Sequence[str],
    sampler: str,
    startup: int,
    seed: int,
) -> dict[str, Any]:
    """The values that a trial tries, by name. Trial 0 is the published default.

    past: the trials before it, or nothing where it does not learn from them (`learns`). number: its own.
    directions: `max` or `min` for each objective. startup: trials drawn at random before the sampler learns.
    """
    if number == 0 or not space:
        return dict(default)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: distribution(item) for name, item in space.items()}
    study = optuna.create_study(
        directions=["maximize" if d == "max" else "minimize" for d in directions],
        sampler=sampler_for(sampler, seed, number, startup),
    )
    for trial in past:
        study.add_trial(
            optuna.trial.create_trial(
                state=STATES[trial.state], params=dict(trial.params), distributions=distributions, values=trial.values
            )
        )
    asked = study.ask(distributions)
    return {name: asked.params[name] for name in space}
