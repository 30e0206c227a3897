"""From a job to its student: with all that it learns from, or as it is deployed."""

from __future__ import annotations

from dataclasses import replace

from kdbench.combine import method_from
from kdbench.nets.base import Network
from kdbench.record import Job
from kdbench.train.engine import Engine
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task
from kdbench.train.workshop import Workshop


def training_of(job: Job, shop: Workshop, recipe: Recipe, engine: Engine | str) -> Training:
    """The job's student before its first step, with all that it learns from. engine: or a precision."""
    spec, teacher = job.spec, job.teacher
    method = method_from(spec.method)
    net = shop.network(spec)
    frozen = {}
    if job.init is not None:
        shop.start_from(net, job.init, spec)
    for role, network in (("teacher", teacher), ("source", job.init)):
        if role in method.frozen and network is not None:
            frozen[role] = shop.trained(network, role)
    task = Task(
        train=shop.views(spec.data, "train"),
        train_labels=shop.labels(spec.data, "train"),
        validation=shop.views(spec.data, "validation"),
        validation_labels=shop.labels(spec.data, "validation"),
        frozen=frozen,
        unlabelled=shop.unlabelled(spec.data) if method.unlabelled else None,
        group=shop.group,
    )
    if teacher is not None:
        task = replace(
            task,
            teacher=shop.teacher_for(method, teacher, spec, engine),
            teacher_validation=shop.teacher_logits(teacher, spec, "validation", Engine.of(engine).precision),
        )
    peers = {role: shop.network(spec, role) for role in method.trained if role != "student"}
    return Training(method, net, task, recipe, spec.seed, engine, peers)


def deployed(job: Job, shop: Workshop) -> Network:
    """The network that a job's method deploys, with fresh weights: the spec's model, or what the method makes of it."""
    if not method_from(job.spec.method).adapts:
        return shop.network(job.spec)
    return training_of(job, shop, Recipe(), "fp32").student
