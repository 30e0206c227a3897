"""Layer-wise distillation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.errors import MethodError, listed
from kdbench.method import Method, Setup, Step, hp, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("layerwise")
@dataclass(frozen=True)
class Layerwise(Method):
    """Match every stage of the student with the teacher's: in the student as it runs, or each fed by the teacher.

        loss = CE(z_s, y) + beta * sum_k mean((r_k(f_s^k) - f_t^k)^2)    (form `matched`)
        loss = alpha * CE(z_s, y) + (1 - alpha) * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))
               + beta / K * sum_k mean((r_k(g_k) - f_t^k)^2)             (form `fed`)

    with f^k the features of stage k and r_k a learned 1x1 convolution from the student's to the teacher's. In form
    `fed`, g_k = S_k(q_k(f_t^(k-1))): stage S_k of the student runs on what the teacher's stage before it gives, q_k a
    learned 1x1 convolution to what S_k reads; stage 1 reads the student's own stem. K is the number of stages.

    Source: `matched`: Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, arXiv:1412.6550, equation 3, at all stages
        at once, as FitNet in the code of Hao, Guo, Han, Tang, Hu, Wang, Xu 2023, arXiv:2310.19444. `fed`: Koratana,
        Kang, Bailis, Zaharia 2019 (LIT), arXiv:1810.01937, and its code, stanford-futuredata/lit-code.
    Differs: where sizes of maps differ, which those codes cannot take, r and q have the stride or kernel of
        RepDistiller's ConvReg. They have a bias. Vectors take linear layers. Stages are paired by number as far as
        both networks have them. `fed`: r and q are there only where shapes differ; LIT, whose student is as wide as
        its teacher, has none. LIT copies stem and classifier from the teacher and freezes them; here they are the
        student's own, and trained. Its second phase, the first two terms alone, is a stage of a study: `kd` with
        ce_weight = 0.95 and lambda = 0.05 from what this trained. Its loss is 3/8 of this one, which scales the
        learning rate, and has the cross entropy with soft targets for KL, which has the same gradient. As in LIT, the
        statistics of the student's batch norms move with its own features and with the teacher's.
    Defaults: beta = 1, form = matched (code of arXiv:2310.19444, with four stages). For form = fed beta = 1, alpha =
        0.95, temperature = 6 (LIT's code, CIFAR-10 with three stages, where its beta of 0.75 weighs the first two terms
        and 0.25 the sum over stages).
    """

    beta: float = hp(1.0, low=0.1, high=100, log=True, minimum=0, help="weight of the squared distances, all stages")
    form: str = static("matched", allowed=("matched", "fed"), help="what a stage of the student reads")
    alpha: float = hp(0.95, minimum=0, maximum=1, help="share of the labels against the teacher's logits, form fed")
    temperature: float = hp(6.0, minimum=0.01, help="softens both distributions, form fed")

    reads = ("logits", "features")
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """The r_k by name of the stage, and the q_k as `into_` and that name.

        Raise MethodError where the networks share no stage and, for form `fed`, where the student cannot run its stages
        one by one.
        """
        student, teacher = setup.student, setup.teacher
        names = losses.stages.shared(student, teacher)
        projection = losses.regression.projection
        if self.form == "matched":
            return {name: projection(student[name], teacher[name]) for name in names}
        require_runnable(setup, names)
        shapes = {name: (student[name], teacher[name]) for name in names}
        shapes |= {f"into_{name}": (teacher[before], student[before]) for before, name in pairwise(names)}
        return {name: projection(given, wanted) for name, (given, wanted) in shapes.items() if given != wanted}

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy with the labels, squared distance from the teacher's features, and, for form `fed`, divergence
        from the teacher's logits."""
        teacher, ce = s.target.features, losses.kl.cross_entropy(s.student.logits, s.labels)
        names = losses.stages.shared(s.student.features, teacher)
        student = s.student.features if self.form == "matched" else fed_features(s, names)
        layers = sum(losses.regression.mse(mapped(s, name, student[name]), teacher[name]) for name in names)
        if self.form == "matched":
            return {"ce": ce, "layers": self.beta * layers}
        return {
            "ce": self.alpha * ce,
            "kd": (1 - self.alpha) * losses.kl.distillation(s.student.logits, s.target.logits, self.temperature),
            "layers": self.beta / len(names) * layers,
        }


def fed_features(s: Step, names: list[str]) -> dict[str, Tensor]:
    """What each stage of the student makes of the teacher's features of the stage before it; of the first, its own."""
    features = {names[0]: s.student.features[names[0]]}
    for before, name in pairwise(names):
        hidden = mapped(s, f"into_{name}", s.target.features[before])
        features[name] = s.networks["student"].run_stage(name, hidden)
    return features


def mapped(s: Step, name: str, features: Tensor) -> Tensor:
    """Features through the module of that name, if there is one."""
    return s.aux[name](features) if name in s.aux else features


def require_runnable(setup: Setup, names: list[str]) -> None:
    """Raise MethodError unless the student can run its first stages, which must be `names`, one by one."""
    student = setup.trained.get("student")
    runnable = () if student is None else student.runnable_stages
    if list(runnable[: len(names)]) != names:
        raise MethodError(
            f"layerwise with form = fed runs {listed(names)} of the student on features of the teacher, but the "
            f"student, {type(student).__name__}, can run {listed(runnable)} alone. Use a student of kdbench's own "
            "families of networks with stages (resnet, wrn, vgg, ...), or form = matched."
        )
