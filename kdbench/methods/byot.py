"""Be your own teacher: self-distillation through exits (BYOT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.errors import MethodError, listed
from kdbench.method import Method, Setup, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("byot")
@dataclass(frozen=True)
class BYOT(Method):
    """Let a network's last classifier teach classifiers on its own earlier stages. There is no other teacher.

        loss = CE(z, y) + sum_k (1 - alpha) * CE(z_k, y) + alpha * T^2 * KL(softmax(z / T) || softmax(z_k / T))
                        + beta * ||F_k - F||^2

    with z_k the logits and F_k the pooled features of the exit after stage k, F those of the network itself, and no
    gradient to what teaches: z in the second term, F in the third.

    Source: Zhang, Song, Gao, Chen, Bao, Ma 2019, arXiv:1905.08094, section 3.
    Differs: the exits are those of the implementation luanyunteng/pytorch-be-your-own-teacher, with kernels that follow
        from the sizes of the maps; a vector counts as a map of one position. The squared distance is averaged over the
        batch, where that code sums. The exits are not deployed.
    Defaults: alpha = 0.1, T = 3, beta = 1.28e-4 (that implementation, CIFAR-100: 1e-6 times 128 samples; the authors'
        later code has alpha = 0.3, T = 3 and no such distance).
    """

    alpha: float = hp(
        0.1, low=0.05, high=0.9, minimum=0, maximum=1, help="share of the last classifier in the teaching"
    )
    temperature: float = hp(3.0, low=1, high=20, log=True, minimum=0.01, help="softens class probabilities")
    beta: float = hp(
        1.28e-4, low=1e-5, high=1e-1, log=True, minimum=0, help="weight of the distance of pooled features"
    )

    reads = ()
    frozen = ()
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The exits. Raise MethodError where the student has fewer than two stages."""
        from kdbench.nets.exits import bottleneck_exit

        names, width = self.stages(setup.student), setup.student["pooled"][0]
        last = setup.student[names[-1]]
        return {name: bottleneck_exit(setup.student[name], last, width, setup.classes) for name in names[:-1]}

    @staticmethod
    def stages(features: Mapping[str, object]) -> list[str]:
        """Names of the stages. Raise MethodError if there are fewer than two."""
        names = [name for name in features if name.startswith("stage")]
        if len(names) < 2:
            raise MethodError(f"byot needs two stages or more, stage1, stage2, ..., but has {listed(features)}")
        return names

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropies with the labels, divergence and distance from the last classifier, each summed over exits."""
        features, teacher, target = s.student.features, s.student.logits.detach(), s.student.pooled.detach()
        names = self.stages(features)[:-1]
        logits, pooled = zip(*(s.aux[name](features[name]) for name in names), strict=True)
        taught = [losses.kl.distillation(z, teacher, self.temperature) for z in logits]
        distances = [losses.regression.mse(values, target) * target.shape[1] for values in pooled]
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "exits": (1 - self.alpha) * sum(losses.kl.cross_entropy(z, s.labels) for z in logits),
            "kd": self.alpha * sum(taught),
            "hint": self.beta * sum(distances),
        }
