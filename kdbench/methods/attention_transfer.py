"""Attention transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench import losses
from kdbench.errors import MethodError, listed
from kdbench.method import Method, Shapes, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("attention_transfer")
@dataclass(frozen=True)
class AttentionTransfer(Method):
    """Match where in the image the features of each stage are strong.

        loss = CE(z_s, y) + beta * sum_k d(a(f_s^k), a(f_t^k)),    a(f) = normalise(mean_c f_c^2)

    with d the squared difference, mean over pixels (form `code`), or the L2 norm (form `paper`).

    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2; their code has another d, hence the two forms.
    Differs: stages are paired by number as far as both networks have them; of two maps of unequal size the larger is
        average-pooled, as in RepDistiller. No factor 1/2 before beta.
    Defaults: beta = 1000, form = code (RepDistiller and mdistiller, CIFAR-100). For form = paper not stated: its values
        are larger by about the number of pixels of a map, so narrow beta to [1, 100] with it.
    """

    beta: float = hp(1000.0, low=1, high=10000, log=True, minimum=0, help="weight of the attention term")
    form: str = static("code", allowed=("code", "paper"), help="distance of the authors' code, or of their paper")

    reads = ("features",)

    def build(self, shapes: Shapes) -> dict[str, nn.Module]:
        """No modules. Raise MethodError where the networks share no stage that has feature maps."""
        for name in shared_stages(shapes.student, shapes.teacher):
            for role in ("student", "teacher"):
                if len(shape := shapes.stage(role, name)) != 3:
                    raise MethodError(f"attention needs feature maps (c, h, w), but {name} of the {role} is {shape}")
        return {}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the distance of the attention maps, summed over stages."""
        distance = losses.attention.code_form if self.form == "code" else losses.attention.paper_form
        student, teacher = s.student.features, s.target.features
        stages = [distance(student[name], teacher[name]) for name in shared_stages(student, teacher)]
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "attention": self.beta * sum(stages)}


def shared_stages(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    """Names of the stages that both have, in order. Raise MethodError if there are none."""
    shared = [name for name in student if name.startswith("stage") and name in teacher]
    if not shared:
        raise MethodError(
            "student and teacher share no stage. Features of the student: "
            f"{listed(student)}; of the teacher: {listed(teacher)}. Needed: stage1, stage2, ... in both."
        )
    return shared
