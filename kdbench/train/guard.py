"""What a method must leave as it found it, and how one that does not is stopped before it harms the others.

A worker trains many methods, one after the other, with one teacher, one set of labels and one process. A Guard stands
between the trainer and a method: it hands every call on, looks at what comes back, and compares what all of them share
before and after. What it finds is a MethodError that names the plug-in; settings of the process are put back at once,
and networks and labels are loaded again (`contained`).
"""

from __future__ import annotations

import functools
import io
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdbench import plugins
from kdbench.errors import KdbenchError, MethodError, listed
from kdbench.method import Method, Setup, Step

if TYPE_CHECKING:
    from kdbench.train.task import Task
    from kdbench.train.workshop import Workshop

F = TypeVar("F", bound=Callable[..., Any])
EXITS = (SystemExit, KeyboardInterrupt)
LONGEST_OUTPUT = 64 * 1024  # characters that a method may print in one training
DRAWS = 5  # looks in a row at which a call must have drawn from a global generator: another thread may draw once
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")

log = logging.getLogger(__name__)


def guarded(method: Method, task: Task) -> Method:
    """The method, watched. What it shares with other trainings of this process is what `task` holds."""
    return cast(Method, Guard(method, task))


def watched(epoch: F) -> F:
    """A method of Training, at whose end the guard of its `method` compares what trainings share."""

    @functools.wraps(epoch)
    def run(training: Any, *arguments: Any) -> Any:
        with training.method.watch("loss"):
            return epoch(training, *arguments)

    return cast(F, run)


class Guard:
    """A method with a watch on it; what is not below is the method's own. To be used as a Method, see `guarded`."""

    def __init__(self, method: Method, task: Task) -> None:
        self._method = method
        self._who = who(method)
        self._shared = Shared(task)
        self._student: nn.Module | None = None
        self._before: dict[str, int] = {}  # hooks
        self._output = Output(self._who)
        self._looked: set[str] = set()  # calls that were looked at in this epoch
        self._drew: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "_method":  # not there yet, as while it is copied
            raise AttributeError(name)
        return getattr(self._method, name)

    def adapt(self, student: Any, setup: Setup) -> Any:
        """As of the method. Hooks that are on the student afterwards are part of it, others are not."""
        with self.watch("adapt"):
            adapted = self._call("adapt", self._method.adapt, student, setup)
        if not isinstance(adapted, nn.Module):
            self._refuse(f"adapt() returned {kind(adapted)}", "a network, as a module of torch")
        self._student = adapted
        return adapted

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """As of the method: modules by name."""
        with self.watch("build"):
            return self._mapping("build", nn.Module, self._call("build", self._method.build, setup))

    def init_state(self, setup: Setup) -> dict[str, Tensor]:
        """As of the method: tensors by name."""
        with self.watch("init_state"):
            return self._mapping("init_state", Tensor, self._call("init_state", self._method.init_state, setup))

    def sample(self, index: Tensor, setup: Setup, generator: torch.Generator) -> dict[str, Tensor]:
        """As of the method: tensors by name."""
        drawn = self._call("sample", self._method.sample, index, setup, generator, given={"the index": index})
        return self._mapping("sample", Tensor, drawn)

    def inputs(self, images: Tensor, labels: Tensor, draw: Mapping[str, Tensor], nets: Any) -> dict[str, Tensor]:
        """As of the method: tensors by name."""
        given = {"the images": images, "the labels": labels}
        return self._mapping(
            "inputs", Tensor, self._call("inputs", self._method.inputs, images, labels, draw, nets, given=given)
        )

    def loss(self, s: Step) -> dict[str, Tensor]:
        """As of the method: scalars by name, of which one at least depends on what is trained."""
        terms = self._mapping("loss", Tensor, self._call("loss", self._method.loss, s, given=given_by(s)))
        odd = [f"{name} of shape {tuple(term.shape)}" for name, term in terms.items() if term.ndim]
        if odd or not terms:
            got = f"loss() must return {{name: scalar tensor}}, but got {listed(odd)}. Take mean() or sum()"
            self._refuse(got, "one scalar for each term, and one term at least")
        if torch.is_grad_enabled() and not any(term.requires_grad for term in terms.values()):
            self._refuse(
                f"loss() returned {listed(terms)}, and nothing that is trained has a part in it",
                "terms that are computed from the student's outputs or the method's modules, with their gradients",
            )
        return terms

    def update(self, s: Step) -> dict[str, Tensor]:
        """As of the method: tensors by name."""
        return self._mapping("update", Tensor, self._call("update", self._method.update, s, given=given_by(s)))

    @contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Compare at the end of the block what trainings share. Settings of the process are put back in any case."""
        self.begin()
        with self.turn(what, plugins.settings()):
            yield
        self.compare(what)

    def begin(self) -> None:
        """From here on `compare` looks at what has changed."""
        self._before = self._hooked()
        self._looked.clear()

    @contextmanager
    def turn(self, what: str, before: dict[str, Any]) -> Iterator[None]:
        """A part of what is watched: settings of the process must be as before at its end, and are put back if not."""
        try:
            with self._output.instead_of_stdout():
                yield
        except BaseException as error:
            changed = plugins.changed(before, plugins.settings())
            plugins.put_back(before)
            if changed and isinstance(error, Exception):
                raise self._error(*of_process(what, changed)) from error
            raise
        if changed := plugins.changed(before, plugins.settings()):
            plugins.put_back(before)
            self._refuse(*of_process(what, changed))

    def compare(self, what: str) -> None:
        """Refuse changes of what trainings share, since `begin` for hooks, and ever for weights, modes and labels."""
        if touched := self._shared.touched():
            self._refuse(
                f"{what}() or another call changed {listed(touched)}",
                "to read them: they belong to every method. Change a copy (copy.deepcopy)",
            )
        if left := [name for name, count in self._hooked().items() if self._before[name] != count]:
            self._refuse(
                f"{what}() or another call left hooks on {listed(left)}, or took some off",
                "hooks on the student in adapt() alone, which is done again wherever the student is used",
            )

    def _hooked(self) -> dict[str, int]:
        """How many hooks are on each network."""
        own = {"the student": self._student} if self._student is not None else {}
        return {name: hooks(net) for name, net in {**self._shared.networks, **own}.items()}

    def _call(self, what: str, function: Callable[..., Any], *arguments: Any, given: Any = None) -> Any:
        """Call the method; given: tensors by what they are called, that must not be changed in place."""
        versions = {name: tensor._version for name, tensor in given.items()} if given else {}
        seed = torch.initial_seed()
        if what not in self._looked or self._drew.get(what):
            self._looked.add(what)
            with unlike_any() as before:
                out = function(*arguments)
                self._drew[what] = self._drew.get(what, 0) + 1 if generators() != before else 0
        else:
            out = function(*arguments)
        if torch.initial_seed() != seed:
            self._refuse(f"{what}() set the seed of torch's global generator", "draws in sample(), of its generator")
        if self._drew[what] >= DRAWS:
            self._refuse(
                f"{what}() draws from the global generator of random or numpy.random, or seeds it",
                "draws in sample(), of its generator: others do not come out the same twice",
            )
        if changed := [name for name, version in versions.items() if given[name]._version != version]:
            self._refuse(f"{what}() changed {listed(changed)} in place", "new tensors: x = x / 2, not x.div_(2)")
        return out

    def _mapping(self, what: str, wanted: type, value: Any) -> dict[str, Any]:
        """The value, if it is a dictionary of names to things of that type."""
        name = "module of torch" if wanted is nn.Module else "tensor"
        if not isinstance(value, dict):
            self._refuse(f"{what}() returned {kind(value)}", f"a dictionary of names to a {name} each")
        odd = [f"{k!r}: {kind(v)}" for k, v in value.items() if not (isinstance(k, str) and isinstance(v, wanted))]
        if odd:
            self._refuse(f"{what}() returned {listed(odd)}", f"a dictionary of names to a {name} each")
        return cast(dict[str, Any], value)

    def _refuse(self, what: str, allowed: str) -> NoReturn:
        raise self._error(what, allowed)

    def _error(self, what: str, allowed: str) -> MethodError:
        return MethodError(f"{self._who}: {what}. Allowed: {allowed}.")


def of_process(what: str, changed: list[str]) -> tuple[str, str]:
    """What is said of a change of settings, and what is allowed."""
    told = f"{what}() or another call changed {listed(changed)}, which holds for the whole process"
    return told, "no setting outside of the method's own tensors and modules"


class Shared:
    """What a training has in common with others: the frozen networks by role, and the labels."""

    def __init__(self, task: Task) -> None:
        self.networks: dict[str, nn.Module] = {f"the {role}": net for role, net in task.frozen.items()}
        live = getattr(task.teacher, "net", None)  # in another memory layout it may be another copy
        if isinstance(live, nn.Module) and all(live is not net for net in self.networks.values()):
            self.networks["the live teacher"] = live
        self.labels = task.train_labels
        self.before = self._state()

    def touched(self) -> list[str]:
        """What is not as it was, by its name."""
        now = self._state()
        return [name for name, state in now.items() if state != self.before[name]]

    def _state(self) -> dict[str, Any]:
        """By name: checksum and version of every tensor, since one in-place operation may leave the checksum as it was,
        and one on `.data` leaves the version; modes of the modules."""
        state: dict[str, Any] = {"the labels of the training images": (checksums([self.labels]), self.labels._version)}
        for role, net in self.networks.items():
            tensors = [*net.parameters(), *net.buffers()]
            state[f"the weights of {role}"] = (checksums(tensors), [tensor._version for tensor in tensors])
            state[f"the mode of {role}"] = ([m.training for m in net.modules()], [t.requires_grad for t in tensors])
        return state


def checksums(tensors: list[Tensor]) -> list[int]:
    """One number for each tensor that has elements, read from the device in one go."""
    with torch.no_grad():
        plain = [torch.view_as_real(t) if t.is_complex() else t for t in tensors if t.numel()]
        sums = [torch.hash_tensor(t).view(torch.int64) for t in plain]
        return torch.stack(sums).tolist() if sums else []


def hooks(net: nn.Module) -> int:
    """How many hooks are on a network and all that it holds."""
    return sum(len(getattr(module, name)) for module in net.modules() for name in HOOKS)


def generators() -> tuple[Any, ...]:
    """State of the global generators of Python and NumPy, to be compared."""
    name, key, *rest = np.random.get_state(legacy=True)
    return random.getstate(), name, np.asarray(key).tobytes(), *rest


@contextmanager
def unlike_any() -> Iterator[tuple[Any, ...]]:
    """Within, the global generators of Python and NumPy are in a state that no seed gives, so that seeding one is seen
    even if it was seeded alike before. Yields that state; the one before comes back."""
    python, numpy = random.getstate(), np.random.get_state(legacy=True)
    random.random()
    np.random.random_sample()
    try:
        yield generators()
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def given_by(s: Step) -> dict[str, Tensor]:
    """The tensors of a step that a method reads most, by what they are called."""
    given = {"the labels": s.labels, "the index": s.index}
    for role, outputs in s.nets.items():
        given[f"the {role}'s logits"], given[f"the {role}'s pooled features"] = outputs.logits, outputs.pooled
    return given


class Output(io.TextIOBase):
    """Standard output of a method: it goes to standard error, and no further than LONGEST_OUTPUT in all.

    Standard output is kdbench's own, where it may be read by programs. Other threads are left alone.
    """

    def __init__(self, who: str) -> None:
        self.who, self.written = who, 0
        self.thread = 0
        self.before: TextIO = sys.stdout

    @contextmanager
    def instead_of_stdout(self) -> Iterator[None]:
        """Take what this thread prints within the block."""
        self.before, self.thread = sys.stdout, threading.get_ident()
        sys.stdout = cast(TextIO, self)
        try:
            yield
        finally:
            sys.stdout = self.before

    def write(self, text: str) -> int:
        """Pass on what still has room."""
        if threading.get_ident() != self.thread:
            return self.before.write(text)
        room = LONGEST_OUTPUT - self.written
        self.written += len(text)
        if room > 0:
            sys.stderr.write(text[:room])
            if self.written >= LONGEST_OUTPUT:
                log.warning("%s has printed %d KiB; the rest is dropped", self.who, LONGEST_OUTPUT // 1024)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def writable(self) -> bool:
        """Yes."""
        return True


def who(method: Method) -> str:
    """`method 'mine' (plug-in mine.py)`: of a method, or of all that are joined into one."""
    parts = list(getattr(method, "parts", {}).values()) or [method]
    names = " + ".join(f"'{part.name or type(part).__name__}'" for part in parts)
    files = dict.fromkeys(owner for part in parts if (owner := plugins.owner(type(part).__module__)) is not None)
    return f"method {names} ({', '.join(files)})" if files else f"method {names}"


def kind(value: Any) -> str:
    """What a value is, in a few words."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def contained(error: BaseException, shop: Workshop) -> Exception:
    """An error of a training as it goes into its record; where it arose in a plug-in, with file, line and function.

    What the worker has loaded is dropped if plug-ins are there, for one that broke off may have changed any of it.
    Raise the error again if it wants to end the process and comes from the user or the system, not from a plug-in.
    """
    place = plugins.place_of(error)
    if isinstance(error, EXITS):
        if place is None or not plugins.raised_by_code(error):
            raise error
        text = f"{type(error).__name__}({error}), which would end the whole process"
    else:
        text = str(error) if isinstance(error, KdbenchError) else f"{type(error).__name__}: {error}"
    if plugins.loaded():
        shop.forget()
    if place is None:
        return cast(Exception, error)
    told = MethodError(f"{place}: {text}")
    told.__cause__, told.__traceback__ = error, error.__traceback__
    return told
