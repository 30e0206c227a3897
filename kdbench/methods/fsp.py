"""Flow of the solution procedure (FSP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("fsp")
@dataclass(frozen=True)
class FSP(Method):
    """Match how the channels of one stage go with those of the next, then learn the labels.

        loss = beta * sum_k mean((G_s^k - G_t^k)^2) before `share` of training, CE(z_s, y) after it

    with G^k[c, d] = mean over positions of f^k_c * f^(k+1)_d (form `squared`); form `columns` takes the L2 norms of the
    columns of the difference, summed, mean over the batch.

    Source: Yim, Joo, Bae, Kim 2017, 'A gift from knowledge distillation', CVPR, section 3.
    Differs: the first stage is a share of the training, where RepDistiller has 30 epochs before its 240. What a
        stage does not train keeps its weight decay. Pairs of stages that both networks have, without the stem. Of two
        neighbours that differ in size the larger is average-pooled as in RepDistiller (`squared`), or max-pooled as in
        torchdistill (`columns`). Where student and teacher have unequal channels, which RepDistiller refuses, a learned
        1x1 convolution maps the student's.
    Defaults: beta = 1, form = squared, share = 0.125, first_ce_weight = 0 (RepDistiller, CIFAR-100: 30 epochs of 240,
        weight 1; its option -b 50 is not used). For form = columns not stated. For one stage with both terms:
        first_ce_weight = 1, share = 1.
    """

    beta: float = hp(1.0, low=0.1, high=100, log=True, minimum=0, help="weight of the FSP term in the first stage")
    share: float = hp(0.125, minimum=0, maximum=1, help="share of training that is the first stage")
    first_ce_weight: float = hp(0.0, minimum=0, help="weight of the cross entropy in the first stage")
    form: str = static("squared", allowed=("squared", "columns"), help="distance and pooling")

    reads = ("features",)
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """1x1 convolutions for stages with unequal channels. Raise MethodError without two shared stages of maps."""
        modules: dict[str, nn.Module] = losses.regression.channel_maps(setup, losses.stages.chain("fsp", setup))
        return modules

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Distance of the FSP matrices in the first stage, cross entropy in the second."""
        names = losses.stages.shared(s.student.features, s.target.features)
        features = s.student.features
        student = [s.aux[name](features[name]) if name in s.aux else features[name] for name in names]
        distance = losses.flow.squared_form if self.form == "squared" else losses.flow.column_form
        first = losses.ramp.before(s.progress, self.share)
        ce_weight = first * self.first_ce_weight + (1 - first)
        return {
            "ce": ce_weight * losses.kl.cross_entropy(s.student.logits, s.labels),
            "fsp": first * self.beta * distance(student, [s.target.features[name] for name in names]),
        }
