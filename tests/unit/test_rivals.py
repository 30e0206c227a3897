"""The rivals of benchmarks/sweep.py train what kdbench trains."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdbench.models import model_from

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from rivals.agreement import Setting, field_losses, kdbench_losses, largest
from rivals.trial import Trial, datasets

TINY = {"name": "resnet", "depth": 8, "width": 0.25}


# A hint of weight 100 multiplies each rounding by about ten a step, so that its curve is compared over one epoch.
@pytest.mark.parametrize(("method", "epochs"), [("kd", 2), ("fitnet", 1)])
def test_the_fields_loop_has_the_loss_curve_of_kdbench(method: str, epochs: int) -> None:
    setting = Setting.random(48, method, side=16)
    field, own = field_losses(setting, epochs), kdbench_losses(setting, epochs)
    assert len(field) == len(own) == 3 * epochs
    assert largest(own, field) < 1e-4


def test_the_view_cache_has_the_loss_curve_of_a_live_teacher(tmp_path: Path) -> None:
    setting = Setting.random(48, side=16)
    assert largest(kdbench_losses(setting, 2, tmp_path), field_losses(setting, 2)) < 1e-3  # logits rounded to fp16


def test_channels_last_alone_changes_no_loss_of_the_cheap_rival() -> None:
    setting = Setting.random(32, side=16)
    assert largest(field_losses(setting, 1, cheap=True), field_losses(setting, 1)) < 1e-2  # bf16 where the CPU has it


def test_other_views_are_noticed() -> None:
    setting = Setting.random(48, side=16)
    other = Setting.random(48, side=16)
    other.seed = 1
    assert largest(kdbench_losses(other, 1), field_losses(setting, 1)) > 1e-3


def test_a_trial_comes_back_from_its_file_and_hands_out_pictures_as_torchvision_does(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    labels = np.array([0, 1, 2, 1])
    parts = {f"{name}_{what}": value for name in ("train", "validation")
             for what, value in (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(tmp_path / "images.npz", **parts, mean=np.array([0.5] * 3), std=np.array([0.25] * 3))
    torch.manual_seed(0)
    save_file(model_from(TINY).network((3, 32, 32), 3).state_dict(), tmp_path / "teacher.safetensors")
    trial = Trial(TINY, TINY, str(tmp_path / "teacher.safetensors"), str(tmp_path / "images.npz"), "kd", 1, 2, 0.1, 0.9,
                  5e-4, (), 0.1, 0, 0, str(tmp_path / "out.pt"))  # fmt: skip
    trial.write(tmp_path / "trial.json")
    assert Trial.read(tmp_path / "trial.json") == trial
    _, validation, classes = datasets(trial)
    picture, label = validation[2]
    assert (classes, label) == (3, 2)
    expected = (torch.from_numpy(images[2]).permute(2, 0, 1) / 255 - 0.5) / 0.25
    torch.testing.assert_close(picture, expected)
    teacher, student = trial.networks(classes)
    assert not teacher.training and student.training
    assert not any(p.requires_grad for p in teacher.parameters())
