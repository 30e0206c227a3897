"""Methods joined into one: the rows that a study file writes as `combine: [dkd, review_kd]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdbench import plugins
from kdbench.errors import KdbenchError, MethodError
from kdbench.fields import build
from kdbench.method import Method, Setup, Step, methods

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from kdbench.method import Networks
    from kdbench.nets.base import Network
    from kdbench.record import TrialSpec

COMBINE = "combine"
JOINT = "__"  # between the name of a part and what belongs to it; names of modules must not hold a dot


def method_from(config: Mapping[str, Any]) -> Method:
    """The method of a spec: `{"name", hyper-parameters...}`, or `{"name": "combine", "order", "parts", "weights"}`.

    Raise KdbenchError for an unknown name, and MethodError where the constructor of a plug-in refuses these values.
    """
    if config["name"] == COMBINE:
        names = config.get("order", list(config["parts"]))  # a record holds the parts in alphabetical order
        parts = {name: method_from({"name": name, **config["parts"][name]}) for name in names}
        return Combined(parts, config["weights"])
    hyper = {name: value for name, value in config.items() if name != "name"}
    try:
        return build(methods.get(config["name"]), hyper)  # type: ignore[no-any-return]
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        place = plugins.place_of(error)
        exits = not isinstance(error, Exception)
        if place is None or isinstance(error, KdbenchError) or (exits and not plugins.raised_by_code(error)):
            raise
        raise MethodError(f"{place}: {type(error).__name__}: {error}") from error


def kind_from(config: Mapping[str, Any]) -> Method:
    """The method of a spec, for what it needs and declares, not for what it computes.

    Where its constructor refuses the values of the spec, it is made with the published ones: it fails where the
    training begins, and there that costs one training and not the study.
    """
    try:
        return method_from(config)
    except MethodError:
        parts: dict[str, Any] | None = {name: {} for name in config["parts"]} if config["name"] == COMBINE else None
        plain = {"name": config["name"]}
        return method_from(plain if parts is None else {**plain, "parts": parts, "weights": config["weights"]})


def deployed(spec: TrialSpec) -> dict[str, Any]:
    """What a training deploys, as far as its speed goes: equal for equal networks.

    That is the model; where the method changes the student itself, the method and its teacher belong to it.
    """
    names = spec.method["parts"] if spec.method_name == COMBINE else (spec.method_name,)
    if any(name in methods and methods.get(name).adapt is not Method.adapt for name in names):
        return {"model": dict(spec.model), "method": dict(spec.method), "teacher": spec.teacher}
    return dict(spec.model)


class Combined(Method):
    """Several methods on one student: the sum of their terms, each method's multiplied by its weight.

    The cross entropy with the labels is counted once, unweighted: that of the first method that has one. A parameter is
    trained if all train it. Modules, state, draws and inputs of a method are kept apart from those of the others.

    parts: the methods by name, in the order of the study file. weights: by the same names.
    """

    name = COMBINE

    def __init__(self, parts: Mapping[str, Method], weights: Mapping[str, float]) -> None:
        self.parts, self.weights = dict(parts), dict(weights)
        self.reads = union(part.reads for part in parts.values())  # type: ignore[misc]
        self.trained = union(part.trained for part in parts.values())  # type: ignore[misc]
        self.frozen = union(part.frozen for part in parts.values())  # type: ignore[misc]
        starts = {part.starts_from for part in parts.values()}
        self.starts_from = "source" if "source" in starts else "scratch"  # type: ignore[misc]
        self.unlabelled = any(part.unlabelled for part in parts.values())  # type: ignore[misc]
        self.student_family = next((p.student_family for p in parts.values() if p.student_family), "")  # type: ignore[misc]

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Terms of all methods, named `<method>_<term>`, and `ce`."""
        terms: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            for term, value in part.loss(self.seen_by(name, s)).items():
                if term == "ce":
                    terms.setdefault("ce", value)
                else:
                    terms[f"{name}_{term}"] = self.weights[name] * value
        return terms

    def seen_by(self, name: str, s: Step) -> Step:
        """The step as one of the methods sees it: with its own modules, state, draws and inputs."""
        inputs = {key: value for key, value in s.more.items() if JOINT not in key} | own(name, s.more)
        return replace(s, aux=own(name, s.aux), state=own(name, s.state), draw=own(name, s.draw), more=inputs)

    def _joined(self, of: Callable[[str, Method], Mapping[str, Any]]) -> dict[str, Any]:
        return {f"{name}{JOINT}{key}": v for name, part in self.parts.items() for key, v in of(name, part).items()}

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """Modules of all methods."""
        return self._joined(lambda _, part: part.build(setup))

    @property
    def adapts(self) -> bool:
        """Whether one of the methods changes the student itself."""
        return any(part.adapts for part in self.parts.values())

    def adapt(self, student: Network, setup: Setup) -> Network:
        """The student as the method that changes it makes it. Raise MethodError if more than one does."""
        changing = [name for name, part in self.parts.items() if part.adapts]
        if len(changing) > 1:
            raise MethodError(f"{' and '.join(changing)} both change the student itself, so they cannot be combined")
        return self.parts[changing[0]].adapt(student, setup) if changing else student

    def init_state(self, setup: Setup) -> dict[str, Tensor]:
        """State of all methods."""
        return self._joined(lambda _, part: part.init_state(setup))

    def update(self, s: Step) -> dict[str, Tensor]:
        """New state of all methods."""
        return self._joined(lambda name, part: part.update(self.seen_by(name, s)))

    def sample(self, index: Tensor, setup: Setup, generator: Generator) -> dict[str, Tensor]:
        """Draws of all methods."""
        return self._joined(lambda _, part: part.sample(index, setup, generator))

    def inputs(self, images: Tensor, labels: Tensor, draw: Mapping[str, Tensor], nets: Networks) -> dict[str, Tensor]:
        """Further inputs of all methods."""
        return self._joined(lambda name, part: part.inputs(images, labels, own(name, draw), nets))

    def runs(self, name: str) -> tuple[str, ...] | None:
        """What the method that an input belongs to says."""
        part, _, inner = name.partition(JOINT)
        return self.parts[part].runs(inner) if inner else None

    @property
    def has_inputs(self) -> bool:
        """Whether one of the methods runs the networks on further images."""
        return any(part.has_inputs for part in self.parts.values())

    def followers(self) -> dict[str, float]:
        """Followers of all methods. Raise MethodError where two want one role at different momenta."""
        return agreed("the follower", (part.followers() for part in self.parts.values()))

    def trains(self, parameter: str, head: str) -> bool:
        """Whether all methods train the parameter."""
        return all(part.trains(parameter, head) for part in self.parts.values())

    def lr_factor(self, parameter: str, head: str) -> float:
        """The product of the methods' factors."""
        factor = 1.0
        for part in self.parts.values():
            factor *= part.lr_factor(parameter, head)
        return factor

    def optimiser(self) -> dict[str, Any]:
        """Settings that the methods fix. Raise MethodError where two fix one differently."""
        return agreed("the optimiser's", (part.optimiser() for part in self.parts.values()))


def union(names: Any) -> tuple[str, ...]:
    """All names of several tuples, each once, in order."""
    return tuple(dict.fromkeys(name for group in names for name in group))


def own(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to one of the methods, under the names that it gave."""
    prefix = f"{name}{JOINT}"
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def agreed(what: str, wishes: Any) -> dict[str, Any]:
    """All settings of several mappings. Raise MethodError where two differ."""
    out: dict[str, Any] = {}
    for wish in wishes:
        for key, value in wish.items():
            if out.setdefault(key, value) != value:
                raise MethodError(f"the combined methods set {what} {key} to {out[key]} and to {value}")
    return out
