"""Partial freezing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.errors import MethodError
from kdbench.method import Method, Setup, Step, register, static

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("partial_freeze")
@dataclass(frozen=True)
class PartialFreeze(Method):
    """Start from the source task, keep the first layers as they are, and train the later stages and the classifier.

        loss = CE(z_s, y), no gradient for the stem and for stage 1 to frozen_stages

    Source: Yosinski, Clune, Bengio, Lipson 2014, arXiv:1411.1792, section 2 (frozen transfer, 'AnB').
    Differs: counts stages, not layers; later stages start from the source task, where the paper draws them anew.
        Batch-norm statistics of frozen layers stay as they are.
    Defaults: frozen_stages = 1 (as detectors freeze a pre-trained ResNet); for classification not stated.
    """

    frozen_stages: int = static(1, allowed=(0, 1, 2, 3, 4, 5), help="stages that stay frozen; 0 freezes the stem alone")

    reads = ()
    frozen = ()
    starts_from = "source"
    mean_over_samples = True

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        """No modules. Raise MethodError where no stage would be left to train."""
        stages = sum(bool(re.fullmatch(r"stage\d+", name)) for name in setup.student)
        if self.frozen_stages >= stages:
            raise MethodError(
                f"partial_freeze: frozen_stages is {self.frozen_stages}, but the student has {stages} stages and one "
                "at least must be trained. Lower frozen_stages, or use linear_probe."
            )
        return {}

    def trains(self, parameter: str, head: str) -> bool:
        """The classifier and the later stages. Raise MethodError for a name that does not say where it belongs."""
        stage = re.match(r"stage(\d+)\.", parameter)
        if stage is None and not parameter.startswith((head, "stem.")):
            raise MethodError(
                f"partial_freeze: cannot tell which stage the parameter '{parameter}' belongs to. Names must start "
                f"with 'stem.', 'stage1.', 'stage2.', ... or '{head}'; use a model that does so, or finetune."
            )
        return parameter.startswith(head) or (stage is not None and int(stage[1]) > self.frozen_stages)

    def loss(self, s: Step) -> dict[str, Tensor]:
        """Cross entropy."""
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels)}
