"""Distillation by knowledge review (ReviewKD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("review_kd")
@dataclass(frozen=True)
class ReviewKD(Method):
    """Match every stage of the teacher with the student's stage and all deeper ones, fused.

        loss = CE(z_s, y) + w * beta * sum_k HCL(ABF_k(f_s^k, f_s^(k+1), ...), p_t^k)

    with f the features, p those before the activation, the pooled features as the deepest stage of both, ABF the
    attention based fusion, HCL the squared difference of maps and of their averages on grids of 4x4, 2x2 and 1x1, with
    weights 1, 1/2, 1/4 and 1/8 over their sum, and w rising from 0 to 1 over the first `warmup` of training.

    Source: Chen, Liu, Zhao, Jia 2021, arXiv:2104.09044, section 3.
    Differs: all shapes follow from the two networks, where the authors' code and mdistiller list those of some pairs.
        Stages are paired by number as far as both networks have them; a vector counts as a map of one position. The
        warm-up rises at every step, in the code at every epoch. As in the code, the student's features are those after
        the activation, and fused maps have as many channels as the student's pooled features, `mid_channels` at most.
    Defaults: beta = 1, warmup = 1/12 (20 of 240 epochs), mid_channels = 512 (authors' code and mdistiller, CIFAR-100:
        beta = 0.6 for resnet56 to resnet20, 1 for resnet110 to resnet32, 5 for resnet32x4 and WRN, 8 for ShuffleNetV2).
    """

    beta: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the distance, all stages")
    warmup: float = hp(20 / 240, minimum=0, maximum=1, help="share of training over which the distance sets in")
    mid_channels: int = static(512, help="limit of the channels of fused maps")

    reads = ("preactivations", "pooled")
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The fusion. Raise MethodError where the networks share no stage."""
        names = self.names(setup.student, setup.teacher)
        shapes = [[shapes[name] for name in names] for shapes in (setup.student, setup.teacher)]
        return {"review": losses.review.Review(*shapes, self.mid_channels)}

    @staticmethod
    def names(student: Mapping[str, object], teacher: Mapping[str, object]) -> list[str]:
        """Names of the levels, from shallow to deep."""
        return [*losses.stages.shared(student, teacher), "pooled"]

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the distance of the reviewed features."""
        mine = {**s.student.features, "pooled": s.student.pooled}
        theirs = {**s.target.preactivations, "pooled": s.target.pooled}
        names = self.names(mine, theirs)
        reviewed = s.aux["review"]([mine[name] for name in names])
        distance = losses.review.hierarchical_context(reviewed, [losses.margin.as_maps(theirs[n]) for n in names])
        weight = losses.ramp.ramp(s.progress, self.warmup) * self.beta
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "review": weight * distance}
