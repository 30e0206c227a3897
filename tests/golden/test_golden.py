"""kdbench's losses against numbers of the official implementations; origin and rules in README.md beside this file."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from draw import ENTRIES, GOLDEN, Case, assert_matches, case, draw, set_weights
from torch import Tensor
from torch.nn import functional

from kdbench.losses import attention, kl, penalty, regression
from kdbench.method import Outputs, Step, methods


def distillation(inputs: Case) -> Tensor:
    return kl.distillation(inputs["z_s"], inputs["z_t"], inputs.hyper["T"])


def kd_method(inputs: Case) -> Tensor:
    weight = inputs.hyper["alpha_on_CE"]
    method = methods.get("kd")(temperature=inputs.hyper["T"], lambda_=1 - weight, ce_weight=weight)
    student, teacher = (Outputs(logits=inputs[name], pooled=inputs[name]) for name in ("z_s", "z_t"))
    step = Step(labels=inputs["y"], index=torch.arange(len(inputs["y"])), student=student, teacher=teacher)
    return sum(method.loss(step).values())


def smoothing(inputs: Case) -> Tensor:
    return kl.smoothed_cross_entropy(inputs["z_s"], inputs["y"], inputs.hyper["epsilon"])


def mse(inputs: Case) -> Tensor:
    return regression.mse(*inputs.student, *inputs.teacher)


def attention_method(form: str) -> Callable[[Case], Tensor]:
    """The attention term of the method, at weight 1."""

    def loss(inputs: Case) -> Tensor:
        def outputs(maps: list[Tensor]) -> Outputs:
            logits = torch.zeros(len(maps[0]), 10)
            return Outputs(logits, logits, {f"stage{number}": f for number, f in enumerate(maps, start=1)})

        method = methods.get("attention_transfer")(beta=1.0, form=form)
        labels = torch.zeros(len(inputs.student[0]), dtype=torch.int64)
        return method.loss(Step(labels, labels, outputs(inputs.student), outputs(inputs.teacher)))["attention"]

    return loss


def hint(inputs: Case) -> Tensor:
    (student,), (teacher,) = inputs.student, inputs.teacher
    relu = inputs.hyper["use_relu"]
    regressor = regression.Regressor(tuple(student.shape[1:]), tuple(teacher.shape[1:]), relu=relu)
    return regression.mse(set_weights(regressor, inputs.entry)(student), teacher)


COVERED: dict[str, Callable[[Case], Tensor]] = {
    "kd_T1": distillation,
    "kd_T4": distillation,
    "kd_T20": distillation,
    "kd_extreme_f32": distillation,
    "kd_ce_mix": kd_method,
    "ls_ce_0.1": smoothing,
    "ls_ce_0.3": smoothing,
    "logits_mse": mse,
    "fitnet_mse": mse,
    "fitnet_reg_same": hint,
    "fitnet_reg_same_norelu": hint,
    "fitnet_reg_down2": hint,
    "fitnet_reg_up2": hint,
    "fitnet_reg_valid": hint,
    "at_rd": attention_method("code"),
    "at_rd_pool": attention_method("code"),
    "at_td_code": attention_method("code"),
    "at_td_paper": attention_method("paper"),
    "l2sp": lambda inputs: penalty.distance_from_start(inputs.student, inputs.teacher),
    "l2": lambda inputs: penalty.half_squared_norm(inputs.student),
}

# Forms that kdbench leaves out on purpose: slips, quirks of shipped code, and rivals of a form that it has.
REFUSED = frozenset({
    "kd_noT2", "nkd_unmasked-bug_g1.5_T1", "nkd_unmasked-bug_g1.5_T2", "sp_td_l1", "kdsvd_lapack", "at_kz_p2",
    "at_kz_p4", "mlkd_shipped_loss_ce", "mlkd_shipped_loss_kd", "mlkd_shipped_loss_cc",
    "mlkd_shipped_loss_bc", "mlkd_shipped_total",
})  # fmt: skip

# Entries that wait for their method. A new method moves its entries from here to COVERED.
WAITING = frozenset({
    "lskd_T2", "lskd_T4", "lskd_dkd", "dkd_a1_b8_T4", "dkd_a1_b0_T4", "dkd_a0_b1_T4", "dkd_extreme_f32",
    "dist_b1_g1_tau1", "dist_b1_g1_tau4", "dist_b2_g0.5_tau4", "nkd_fixed_g1.5_T1", "nkd_fixed_g1.5_T2",
    "mlkd_bc_T4", "mlkd_cc_T4", "mlkd_bc_T2", "mlkd_cc_T2", "dml_1", "dml_2", "article_agreement_T1_div1",
    "article_agreement_T4_div1", "article_agreement_T4_div4", "article_agreement_T1_div4",
    "article_softce_T1_lam0.5_mean", "article_softce_T4_lam0.5_mean", "article_softce_T1_lam0.5_sum", "nst",
    "nst_pool", "nst_dead", "sp", "sp_multi", "vid", "vid_pool", "fsp_rd", "fsp_td", "kdsvd_canonical",
    "ab_rd", "ab_kz", "ab_td", "ft_rd", "ft_rd_pool", "ft_full", "ft_modules_rd", "ft_modules_full",
    "ft_paraphraser_rec", "ofd_md", "ofd_kz", "hcl", "reviewkd_full", "rkd_dist", "rkd_angle", "rkd_both",
    "pkt", "cc_author", "cc_author_embed", "cc_rbf_kz", "cc_rbf_td", "crd_step1", "crd_step2", "delta",
    "delta_att", "bss_k1", "bss_k2", "cotuning",
})  # fmt: skip


@pytest.mark.parametrize("name", COVERED)
def test_loss_and_gradient_equal_the_official_implementation(name: str) -> None:
    inputs = case(name)
    assert_matches(inputs, COVERED[name](inputs))


def test_every_entry_is_covered_refused_or_waiting_and_none_is_two_of_them() -> None:
    named = [*COVERED, *REFUSED, *WAITING]
    assert sorted(named) == sorted(ENTRIES)


@pytest.mark.parametrize("name", GOLDEN["groups"])
def test_inputs_are_redrawn_as_they_were(name: str) -> None:
    assert draw(GOLDEN["groups"][name])


def test_inputs_of_another_seed_are_noticed() -> None:
    group = copy.deepcopy(GOLDEN["groups"]["logits"])
    group["rng"][1] += 1
    with pytest.raises(AssertionError, match="not the array of the file"):
        draw(group)


def without_t_squared(inputs: Case) -> Tensor:
    return distillation(inputs) / inputs.hyper["T"] ** 2


def mean_over_classes(inputs: Case) -> Tensor:
    return distillation(inputs) / 10


def teacher_and_student_exchanged(inputs: Case) -> Tensor:
    return kl.distillation(inputs["z_t"], inputs["z_s"], inputs.hyper["T"])


def right_value_without_half_the_gradient(inputs: Case) -> Tensor:
    loss = distillation(inputs)
    return 0.5 * loss + 0.5 * loss.detach()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (without_t_squared, "kd_T4: loss"),
        (mean_over_classes, "kd_T4: loss"),
        (teacher_and_student_exchanged, "kd_T4: loss"),
        (right_value_without_half_the_gradient, "kd_T4: l2 of the gradient of z_s"),
    ],
)
def test_a_wrong_loss_does_not_match(wrong: Callable[[Case], Tensor], message: str) -> None:
    inputs = case("kd_T4")
    with pytest.raises(AssertionError, match=message):
        assert_matches(inputs, wrong(inputs))


def test_forgetting_t_squared_gives_the_trap_that_is_on_file() -> None:
    inputs = case("kd_noT2")
    assert_matches(inputs, without_t_squared(inputs))
    with pytest.raises(AssertionError, match="kd_noT2: loss"):
        assert_matches(inputs, distillation(inputs))


def test_the_two_forms_of_attention_do_not_match_each_other() -> None:
    inputs = case("at_td_paper")
    with pytest.raises(AssertionError, match="at_td_paper: loss"):
        assert_matches(inputs, attention_method("code")(inputs))


def test_pooling_attention_instead_of_features_does_not_match() -> None:
    def squared_before_pooling(student: Tensor, teacher: Tensor) -> Tensor:
        size = min(student.shape[2], teacher.shape[2])
        maps = [functional.adaptive_avg_pool2d(f.square(), size).sqrt() for f in (student, teacher)]
        return attention.code_form(*maps)

    inputs = case("at_rd_pool")
    loss = sum(squared_before_pooling(s, t) for s, t in zip(inputs.student, inputs.teacher, strict=True))
    with pytest.raises(AssertionError, match="at_rd_pool: loss"):
        assert_matches(inputs, loss)
