"""The one training loop, for every method, on CPU and GPU.

Everything random is drawn from a seed with a name and the number of the epoch (kdbench/seeds.py), so an epoch is a
function of the state before it: a training that goes on from a checkpoint equals one that was never interrupted.
Nothing inside a step waits for the device; sums are read once an epoch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdbench.data.views import Views
from kdbench.errors import CheckpointError, MethodError, listed
from kdbench.method import Method, Outputs, Step
from kdbench.nets.base import Network
from kdbench.seeds import seed_for
from kdbench.train import checkpoint
from kdbench.train.engine import INFERENCE_BATCH, MEMORY_FORMATS, Engine
from kdbench.train.epoch import Epoch
from kdbench.train.graphs import GraphedStep
from kdbench.train.group import ALONE, Alone, Share
from kdbench.train.guard import guarded, watched
from kdbench.train.metrics import evaluate
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task, probe, set_train_mode, setup_of, shapes_of
from kdbench.train.teachers import in_float, precision_of


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of a method's terms. Raise MethodError unless they are scalars with names."""
    odd = [f"{name} of shape {tuple(term.shape)}" for name, term in terms.items() if term.ndim]
    if odd or not terms:
        raise MethodError(f"loss() must return {{name: scalar tensor}}, but got {listed(odd)}. Take mean() or sum().")
    return torch.stack(list(terms.values())).sum()


class Training:
    """One student being trained. `epoch()` until `over`; `save` and `restore` between epochs.

    net: the student, with its starting weights. seed: of everything random. engine: how its steps are computed, or a
    precision. curves: one number per epoch and name.
    """

    def __init__(
        self, method: Method, net: Network, task: Task, recipe: Recipe, seed: int, engine: Engine | str,
        peers: dict[str, Network] | None = None,
    ) -> None:  # fmt: skip
        method = guarded(method, task)
        self.method, self.task, self.recipe, self.seed = method, task, recipe, seed
        self.precision = Engine.of(engine).precision
        self.device, self.group = task.train.device, task.group
        self.setup = setup_of(net.to(self.device), task)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "init", "aux"))
            self.nets = {"student": method.adapt(net, self.setup), **(peers or {})}
            self.engine = Engine.of(engine).sound_for(self.nets.values(), self.device)
            memory_format = MEMORY_FORMATS[self.engine.memory_format]
            for role, module in self.nets.items():
                self.nets[role] = module.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
            self.student = self.nets["student"]
            self.setup = replace(self.setup, trained=self.nets)
            if self.student is not net:
                self.setup = replace(self.setup, student=shapes_of(probe(self.student, task.train)))
            self.aux = nn.ModuleDict(method.build(self.setup)).to(self.device)
            self.state = {k: v.to(self.device) for k, v in method.init_state(self.setup).items()}
        self.start = {name: p.detach().clone() for name, p in self.student.named_parameters()}
        self.momenta = method.followers()
        self.followers = {role: copy.deepcopy(self.student).requires_grad_(False) for role in self.momenta}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(method.trains(name, self.student.head_prefix))
        self.optimizer = recipe.build_optimizer(self.by_lr_factor(), method.optimiser(), self.engine.optimizer)
        self.graph = GraphedStep(self) if self.engine.step == "graph" else None
        if self.engine.compile == "on":
            for module in self.nets.values():
                module.compile()
        self.epochs_done = 0
        self.wall_s = 0.0
        self.diverged = False
        self.in_stream = False  # whether it takes turns with others, and shares images and teacher with them
        self.curves: dict[str, list[float]] = {}

    def trained_parameters(self) -> list[Tensor]:
        """Every parameter that the optimiser changes: of the student, its peers, and the method's own modules."""
        modules: list[nn.Module] = [*self.nets.values(), self.aux]
        found: list[Tensor] = [p for module in modules for p in module.parameters() if p.requires_grad]
        if not found:
            raise MethodError(f"'{self.method.name}' trains no parameter: trains() is False for every name")
        return found

    def by_lr_factor(self) -> dict[float, list[Tensor]]:
        """The trained parameters by the factor of their learning rate."""
        own = {id(p): self.method.lr_factor(k, self.student.head_prefix) for k, p in self.student.named_parameters()}
        groups: dict[float, list[Tensor]] = {}
        for parameter in self.trained_parameters():
            groups.setdefault(own.get(id(parameter), 1.0), []).append(parameter)
        return groups

    @property
    def over(self) -> bool:
        """Whether training has ended: all epochs done, target reached, or diverged."""
        target, reached = self.recipe.target_top1_pct, self.curves.get("val_top1_pct", [])
        hit = target is not None and bool(reached) and reached[-1] >= target
        return self.diverged or hit or self.epochs_done >= self.recipe.last_epoch

    def generator(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for one kind of draw in this epoch."""
        return torch.Generator(device).manual_seed(seed_for(self.seed, name, self.epochs_done))

    def draw_unlabelled(self, n: int) -> tuple[Tensor, Tensor] | None:
        """Positions and views (n,) of images without labels for this epoch: the pool in random order, again and again.

        Raise MethodError if the method needs them and the data have none.
        """
        pool = self.task.unlabelled
        if not self.method.unlabelled:
            return None
        if pool is None:
            raise MethodError(
                f"'{self.method.name}' learns from images without labels, but the data have none. "
                "Say how many there are with data.unlabelled."
            )
        generator = self.generator("unlabelled")
        rounds = [torch.randperm(len(pool), generator=generator) for _ in range(math.ceil(n / len(pool)))]
        index = torch.cat(rounds)[:n]
        return index.to(self.device), pool.draw(n, generator).to(self.device)

    def train_mode(self) -> None:
        """Train mode for all that trains; what is frozen is in eval mode."""
        for net in self.nets.values():
            set_train_mode(net)
        for follower in self.followers.values():
            follower.train()
        for module in self.aux.values():
            set_train_mode(module, before=True)

    @watched
    def epoch(self) -> dict[str, float]:
        """Train one epoch, evaluate on the validation images, and return this epoch's point of every curve."""
        began = time.monotonic()
        epoch = Epoch(self)
        with epoch.settings():
            while not epoch.complete:
                epoch.step()
        return self.note(epoch.end(), time.monotonic() - began)

    def note(self, point: dict[str, float], seconds: float) -> dict[str, float]:
        """An epoch has ended: add its point and the time that it took to the curves; returns both together."""
        self.wall_s += seconds
        point = {**point, "epoch_wall_s": seconds}
        for name, value in point.items():
            curve = self.curves.setdefault(name, [])
            curve += [math.nan] * (self.epochs_done - len(curve))  # a method may begin or leave out a term at any epoch
            curve.append(value)
        self.epochs_done += 1
        return point

    def set_lr(self, moment: float) -> None:
        """Set the learning rate of a moment of training, in epochs from 0."""
        for group in self.optimizer.param_groups:
            lr = self.recipe.lr * self.recipe.lr_factor(moment) * group["lr_factor"]
            if isinstance(group["lr"], Tensor):  # a graph reads it from where it is
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def batches(self, n: int) -> list[tuple[int, int]]:
        """First and last position of each batch of an epoch; a last batch of one sample is left out of this epoch,
        because batch normalisation has no variance of one."""
        size = self.recipe.batch_size
        bounds = [(low, min(low + size, n)) for low in range(0, n, size)]
        return bounds[:-1] if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1 else bounds

    def networks(self, index: Tensor, view: Tensor) -> dict[str, Callable[[Tensor], Outputs]]:
        """Every network of the method by role, to be run on images; index and view: what the teacher is told."""

        def run(net: Network) -> Callable[[Tensor], Outputs]:
            def outputs(images: Tensor) -> Outputs:
                with precision_of(self.device, self.precision):
                    return in_float(net(self.engine.laid_out(images)))

            return outputs

        def without_gradient(net: Network) -> Callable[[Tensor], Outputs]:
            return torch.no_grad()(run(net))

        found = {role: run(net) for role, net in self.nets.items()}
        found |= {role: without_gradient(net) for role, net in self.followers.items()}
        if "source" in self.method.frozen:
            found["source"] = without_gradient(self.task.frozen["source"])
        if (teacher := self.task.teacher) is not None:
            found["teacher"] = lambda images: teacher(images, index, view)
        return found

    @staticmethod
    def run_on(
        images: Tensor, nets: Mapping[str, Callable[[Tensor], Outputs]], roles: tuple[str, ...] | None
    ) -> dict[str, Outputs]:
        """Outputs of the networks of some roles, or of all."""
        return {role: net(images) for role, net in nets.items() if roles is None or role in roles}

    def step(
        self, index: Tensor, view: Tensor, draws: torch.Generator, progress: float,
        further: tuple[Tensor, Tensor] | None = None, share: Share | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """One optimiser step on one batch; returns the loss and its terms, detached.

        index, view: (B,) positions and views of the images; further: the same of images without labels. share: of which
        batch these are this process's samples; by default they are all of it.
        """
        draw = self.method.sample(index, self.setup, draws)
        learn = self.learn if self.graph is None or self.in_stream else self.graph
        return learn(index, view, draw, progress, further, share)

    def learn(
        self, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float | Tensor,
        further: tuple[Tensor, Tensor] | None = None, share: Share | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """As `step`, with what was drawn for the batch. progress: a scalar tensor where a graph is recorded."""
        seen: list[tuple[Step, dict[str, Tensor]]] = []

        def loss_of() -> Tensor:
            step = self.look(index, view, draw, progress, further)
            terms = self.method.loss(step)
            loss = total(terms)
            seen.append((step, {"loss": loss, **{f"loss_{name}": term for name, term in terms.items()}}))
            return loss

        loss = self.group.forward(loss_of, share or self.group.share(0, len(index)))
        step, terms = seen[0]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained_parameters(), self.recipe.clip_norm)
        with torch.no_grad():
            self.state = {**self.state, **self.method.update(step)}  # of the weights that the step was made with
        self.optimizer.step()
        self.follow()
        return {name: term.detach() for name, term in terms.items()}

    def look(
        self, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float | Tensor,
        further: tuple[Tensor, Tensor] | None,
    ) -> Step:  # fmt: skip
        """Run every network of the method on a batch: all that its loss may look at. Arguments as of `learn`."""
        images, labels = self.task.train.batch(index, view), self.task.train_labels[index]
        nets = self.networks(index, view)
        outputs = {role: net(images) for role, net in nets.items()}
        inputs = self.method.inputs(images, labels, draw, nets) if self.method.has_inputs else {}
        more = {name: self.run_on(x, nets, self.method.runs(name)) for name, x in inputs.items()}
        if further is not None and self.task.unlabelled is not None:
            x = self.task.unlabelled.batch(*further)
            more["unlabelled"] = {role: net(x) for role, net in self.networks(*further).items()}
        return Step(
            labels=labels,
            index=index,
            student=outputs["student"],
            teacher=outputs.get("teacher"),
            nets=outputs,
            more=more,
            aux=dict(self.aux.items()),
            state=self.state,
            draw=draw,
            networks=self.nets,
            params=dict(self.student.named_parameters()),
            start=self.start,
            head=self.student.head_prefix,
            progress=cast(float, progress),  # a scalar tensor does all that arithmetic needs
        )

    @torch.no_grad()
    def follow(self) -> None:
        """Move the weights of every follower towards the student's."""
        for role, follower in self.followers.items():
            torch._foreach_lerp_(list(follower.parameters()), list(self.student.parameters()), 1 - self.momenta[role])

    def validate(self) -> dict[str, float]:
        """Metrics of the student on the validation images."""
        logits = logits_of(self.student, self.task.validation, self.precision, self.group)
        return evaluate(logits, self.task.validation_labels, self.task.teacher_validation)

    @property
    def stored(self) -> dict[str, Network]:
        """The networks that a checkpoint holds: those that change."""
        return {**self.nets, **self.followers}

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write a checkpoint from which `restore` goes on bit-equal (on a CPU)."""
        tensors = {f"{role}.{k}": v for role, net in self.stored.items() for k, v in net.state_dict().items()}
        tensors |= {f"aux.{k}": v for k, v in self.aux.state_dict().items()}
        tensors |= {f"state.{k}": v for k, v in self.state.items()}
        tensors |= checkpoint.optimizer_tensors(self.optimizer, "optimizer.")
        own = {"epochs_done": self.epochs_done, "wall_s": self.wall_s, "diverged": self.diverged, "curves": self.curves}
        checkpoint.save(path, tensors, {**facts, **own})

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raise CheckpointError if it does not fit."""
        tensors, facts = checkpoint.load(path)
        if lacking := {"epochs_done", "wall_s", "diverged", "curves"} - set(facts):
            raise CheckpointError(f"{path} is no checkpoint of a training: it lacks {listed(sorted(lacking))}.")

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v.to(self.device) for k, v in tensors.items() if k.startswith(prefix)}

        for role, net in self.stored.items():
            checkpoint.load_weights(net, under(f"{role}."), f"{path} ({role})")
        checkpoint.load_weights(self.aux, under("aux."), f"{path} (aux)")
        state = under("state.")
        if lacking := set(self.state) - set(state):
            raise CheckpointError(f"{path} does not fit the method: it lacks the state {listed(sorted(lacking))}.")
        self.state = state
        checkpoint.load_optimizer(self.optimizer, tensors, "optimizer.")
        self.graph = self.graph and GraphedStep(self)  # the optimiser's tensors are other ones now
        self.epochs_done, self.wall_s = facts["epochs_done"], facts["wall_s"]
        self.diverged, self.curves = facts["diverged"], facts["curves"]


def logits_of(net: Network, views: Views, precision: str, group: Alone = ALONE) -> Tensor:
    """Logits (n, C) in float32 of all images, unaugmented, in eval mode; the mode is put back.

    group: processes that each run a part of the batches, and all have the logits of all images then.
    """
    was_training = net.training
    net.eval()

    def run(index: Tensor) -> Tensor:
        logits: Tensor = net(views.plain(index)).logits.float()
        return logits

    size = INFERENCE_BATCH[views.device.type]
    starts = range(0, len(views), size)
    batches = [torch.arange(low, min(low + size, len(views)), device=views.device) for low in starts]
    with torch.no_grad(), precision_of(views.device, precision):
        logits = group.evaluate(batches, run)
    net.train(was_training)
    return logits
