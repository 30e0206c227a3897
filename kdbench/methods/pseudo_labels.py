"""Pseudo-labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor


@register("pseudo_labels")
@dataclass(frozen=True)
class PseudoLabels(Method):
    """Learn from images without labels what the teacher says of them, where it is sure.

        loss = CE(z_s, y) + lambda * mean_u(1[max_k p_t(u)_k >= threshold] * CE(z_s(u), q(u)))

    over a batch of images u without labels, with p_t = softmax(z_t) and q(u) the teacher's class (labels `hard`), or
    p_t itself (`soft`).

    Source: Lee 2013, 'Pseudo-label: The simple and efficient semi-supervised learning method for deep neural networks',
        ICML workshop; labels of a frozen teacher as Xie, Luong, Hovy, Le 2020, arXiv:1911.04252, section 2;
        threshold as Sohn et al. 2020, arXiv:2001.07685, equation 4.
    Differs: teacher and student see the same view of an image, and labelled and unlabelled batches are of one size. The
        mean is over all images of the batch, sure or not, as in Sohn et al.
    Defaults: lambda = 1, threshold = 0.95 (Sohn et al., CIFAR-10), labels = hard (Lee); with a teacher Xie et al. have
        threshold 0.3 and soft labels, ImageNet.
    """

    lambda_: float = hp(1.0, low=0.1, high=10, log=True, minimum=0, help="weight of the images without labels")
    threshold: float = hp(
        0.95, low=0.3, high=0.99, minimum=0, maximum=1, help="least confidence of a label that counts"
    )
    labels: str = static("hard", allowed=("hard", "soft"), help="the teacher's class, or its probabilities")

    unlabelled = True
    mean_over_samples = True

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, and with the teacher's labels."""
        outputs = s.more["unlabelled"]
        form = losses.pseudo.hard_labels if self.labels == "hard" else losses.pseudo.soft_labels
        unsupervised = form(outputs["student"].logits, outputs["teacher"].logits, self.threshold)
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels), "pseudo": self.lambda_ * unsupervised}
