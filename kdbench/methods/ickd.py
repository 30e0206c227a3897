"""Inter-channel correlation for knowledge distillation (ICKD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench import losses
from kdbench.errors import MethodError, listed
from kdbench.method import Method, Setup, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("ickd")
@dataclass(frozen=True)
class ICKD(Method):
    """Match how the channels of the last map correlate, sample by sample.

        loss = CE(z_s, y) + beta * mean_i ||g(r(f_s))_i - g(f_t)_i||^2,    g(f)_i = (f f^T)_i / ||(f f^T)_i||

    with f a map as (channels, positions), i its channels, r a 1x1 convolution with batch norm, and the mean over the
    batch too.

    Source: Liu, Huang, Lin, Xie, Wang, Chang, Liang 2021, 'Exploring Inter-Channel Correlation for Diversity-preserved
        Knowledge Distillation', ICCV, section 3, for classification (ICKD-C).
    Differs: nothing in the loss; the matrices are not formed, which their rows' products make unnecessary. No KL
        divergence beside it, as in the CIFAR-100 command of the authors' code; combine it with kd for one.
    Defaults: beta = 2.5 (authors' code, CIFAR-100).
    """

    beta: float = hp(2.5, low=0.25, high=25, log=True, minimum=0, help="weight of the distance of the correlations")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The convolution with batch norm. Raise MethodError unless both networks' last features are maps."""
        mine, theirs = self.last("student", setup.student), self.last("teacher", setup.teacher)
        for role, name in (("student", mine), ("teacher", theirs)):
            losses.stages.require_maps("ickd", setup, [name], [role])
        return {"embed": losses.margin.connector(setup.student[mine][0], setup.teacher[theirs][0])}

    @staticmethod
    def last(role: str, features: Mapping[str, Any]) -> str:
        """Name of a network's last stage. Raise MethodError if it has none."""
        names = [name for name in features if name.startswith("stage")]
        if not names:
            raise MethodError(f"ickd needs stage1, stage2, ... in both networks, but the {role} has {listed(features)}")
        return names[-1]

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and the distance of the correlations."""
        student, teacher = s.student.features, s.target.features
        mine = s.aux["embed"](student[self.last("student", student)])
        distance = losses.channels.inter_channel(mine, teacher[self.last("teacher", teacher)])
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "correlation": self.beta * distance}
