"""One-for-all distillation between heterogeneous architectures (OFA-KD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.errors import MethodError, listed
from kdbench.method import Method, Setup, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("ofa")
@dataclass(frozen=True)
class OFA(Method):
    """Teach every stage of the student the teacher's class probabilities, through an exit of its own.

        loss = CE(z_s, y) + lambda * E(z_s) + beta * sum_k E(e_k(f_s^k))
        E(z) = -sum_c ((p_c + y_c)^gamma - y_c) log q_c,    p = softmax(z_t / T),    q = softmax(z / T)

    with e_k the exit of stage k, which makes logits of its features f_s^k, and y one-hot in E.

    Source: Hao, Guo, Han, Tang, Hu, Wang, Xu 2023, arXiv:2310.19444, section 3, and the authors' code, whose form of
        the enhanced target this is.
    Differs: as many exits as the student has stages, where the paper divides every network into four. A student whose
        stages have maps of one shape (ViT, MLP-Mixer) gets exits of transformer blocks, others get convolutional ones,
        Swin too, which has transformer blocks in the code. A vector counts as a map of one position.
    Defaults: beta = 1, lambda = 1, gamma = 1, T = 1 (authors' code; its commands have gamma = 1 for Swin-T to ResNet-18
        on CIFAR-100, and 1.5 for DeiT-T to ResNet-18 on ImageNet).
    """

    beta: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the exits")
    gamma: float = hp(1.0, low=1, high=2, minimum=0.01, help="how much the label's probability is enhanced")
    lambda_: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the same loss on the logits")
    temperature: float = hp(1.0, minimum=0.01, help="softens class probabilities")

    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The exits. Raise MethodError where the student has no stage."""
        from kdbench.nets import exits

        shapes = {name: setup.student[name] for name in self.stages(setup.student)}
        width = max(setup.student["pooled"][0], setup.teacher["pooled"][0])
        alike = len(shapes) > 1 and len(set(shapes.values())) == 1 and len(next(iter(shapes.values()))) == 3
        found: dict[str, nn.Module] = {}
        for number, (name, shape) in enumerate(shapes.items(), start=1):
            after = len(shapes) - number
            found[name] = (
                exits.token_exit(shape, after, setup.classes)
                if alike
                else exits.convolutional_exit(shape, after, width, setup.classes)
            )
        return found

    @staticmethod
    def stages(features: Mapping[str, object]) -> list[str]:
        """Names of the stages. Raise MethodError if there are none."""
        names = [name for name in features if name.startswith("stage")]
        if not names:
            raise MethodError(f"ofa needs stage1, stage2, ... in the student, but it has {listed(features)}")
        return names

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and with the enhanced teacher: of the logits, and of the exits, summed."""

        features, enhanced = s.student.features, losses.enhancement.enhanced_target
        common = s.target.logits, s.labels, self.gamma, self.temperature
        exits = [enhanced(s.aux[name](features[name])[0], *common) for name in self.stages(features)]
        return {
            "ce": losses.kl.cross_entropy(s.student.logits, s.labels),
            "kd": self.lambda_ * enhanced(s.student.logits, *common),
            "exits": self.beta * sum(exits),
        }
