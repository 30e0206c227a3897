"""Classification metrics against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, precision_score, recall_score, top_k_accuracy_score

from kdbench.errors import KdbenchError
from kdbench.record import METRICS
from kdbench.train.metrics import calibration_error, evaluate


def drawn(classes: int, samples: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    logits = rng.normal(size=(samples, classes)) + 1.5 * np.eye(classes)[labels]
    return logits, labels


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_metrics_equal_those_of_scikit_learn(classes):
    logits, labels = drawn(classes)
    predictions, every = logits.argmax(1), list(range(classes))
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    values = evaluate(logits, labels)
    assert values["top1_pct"] == pytest.approx(100 * accuracy_score(labels, predictions))
    assert values["nll"] == pytest.approx(log_loss(labels, probabilities, labels=every))
    macro = {"average": "macro", "zero_division": 0}
    assert values["macro_precision_pct"] == pytest.approx(100 * precision_score(labels, predictions, **macro))
    assert values["macro_recall_pct"] == pytest.approx(100 * recall_score(labels, predictions, **macro))
    if classes > 5:
        expected = top_k_accuracy_score(labels, logits, k=5, labels=every)
        assert values["top5_pct"] == pytest.approx(100 * expected)


def test_classes_that_never_occur_are_left_out_of_macro_averages_as_in_scikit_learn():
    logits = np.eye(5)[[0, 0, 1, 3]]
    labels = np.array([0, 1, 1, 0])  # class 2 and 4 neither labelled nor predicted; 3 only predicted
    values = evaluate(logits, labels)
    macro = {"average": "macro", "zero_division": 0}
    # precision: class 0 1/2, class 1 1/1, class 3 0/1; recall: 1/2, 1/2, 0
    assert values["macro_precision_pct"] == pytest.approx(50.0)
    assert values["macro_recall_pct"] == pytest.approx(100 / 3)
    assert values["macro_precision_pct"] == pytest.approx(100 * precision_score(labels, logits.argmax(1), **macro))
    assert values["macro_recall_pct"] == pytest.approx(100 * recall_score(labels, logits.argmax(1), **macro))


def test_calibration_error_of_five_samples_by_hand():
    confidence = torch.tensor([0.95, 0.94, 0.55, 0.58, 0.30], dtype=torch.float64)
    correct = torch.tensor([True, False, True, True, False])
    # bins of 1/15: 0.95 and 0.94 share (14/15, 15/15]; 0.55 and 0.58 share (8/15, 9/15]; 0.30 lies in (4/15, 5/15]
    by_hand = 2 / 5 * abs(0.5 - 0.945) + 2 / 5 * abs(1.0 - 0.565) + 1 / 5 * abs(0.0 - 0.30)
    assert calibration_error(confidence, correct).item() == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.412)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    confidence = torch.tensor([0.5, 0.6], dtype=torch.float64)
    correct = torch.tensor([False, True])
    # two bins: 0.5 lies in (0, 0.5], 0.6 in (0.5, 1]; in one bin the gaps would cancel to 0.05
    assert calibration_error(confidence, correct, bins=2).item() == pytest.approx((0.5 + 0.4) / 2)
    assert calibration_error(confidence, correct, bins=1).item() == pytest.approx(0.05)


def test_ece_of_logits_is_that_of_their_softmax():
    logits = torch.tensor([[0.8, 0.2], [0.7, 0.3]], dtype=torch.float64).log()
    # confidences 0.8 (right) and 0.7 (wrong) lie in different bins
    assert evaluate(logits, torch.tensor([0, 1]))["ece_pct"] == pytest.approx(100 * (0.2 + 0.7) / 2)


def test_names_are_those_of_the_record_and_agreement_needs_a_teacher():
    logits, labels = drawn(10)
    alone = evaluate(logits, labels)
    taught = evaluate(logits, labels, logits)
    assert set(taught) <= set(METRICS)
    assert set(taught) - set(alone) == {"agreement_pct"}


def test_agreement_is_the_share_of_equal_predictions():
    student = np.eye(3)[[0, 1, 2, 0]]
    teacher = np.eye(3)[[0, 1, 0, 1]]
    assert evaluate(student, np.zeros(4, dtype=int), teacher)["agreement_pct"] == 50.0


def test_top5_is_always_right_with_fewer_than_six_classes():
    logits, labels = drawn(5)
    assert evaluate(logits, labels)["top5_pct"] == 100.0
    logits, labels = drawn(6)
    assert evaluate(logits, labels)["top5_pct"] < 100.0


def test_constant_logits_count_only_the_first_class_as_right():
    values = evaluate(torch.zeros(4, 10), torch.tensor([0, 1, 4, 5]))
    assert values["top1_pct"] == 25.0
    assert values["top5_pct"] == 75.0
    assert values["nll"] == pytest.approx(math.log(10))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_of_a_diverged_network_are_wrong_and_never_right(bad):
    values = evaluate(torch.full((3, 10), bad), torch.tensor([0, 1, 2]))
    assert values["top1_pct"] == values["top5_pct"] == values["macro_recall_pct"] == 0.0
    assert math.isnan(values["nll"]) and math.isnan(values["ece_pct"])


def test_low_precision_logits_are_judged_in_full_precision():
    logits, labels = drawn(10)
    low = torch.from_numpy(logits).bfloat16()
    assert evaluate(low, labels) == evaluate(low.double(), labels)


def test_labels_of_any_integer_type_and_a_graph_behind_the_logits_do_not_matter():
    logits, labels = drawn(10)
    expected = evaluate(logits, labels)
    assert evaluate(torch.from_numpy(logits).requires_grad_(), labels.astype(np.uint8)) == expected


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"logits must be \(N, C\).*\(3,\)"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), r"\(3, 2\) and \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "at least one sample"),
        (torch.zeros(3, 2), torch.zeros(3), "labels must be integers, but got torch.float32"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), r"labels must lie in 0\.\.1"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), r"labels must lie in 0\.\.1"),
    ],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels, message):
    with pytest.raises(KdbenchError, match=message):
        evaluate(logits, labels)


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(KdbenchError, match=r"teacher's logits have shape \(3, 4\), the student's \(3, 2\)"):
        evaluate(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), torch.zeros(3, 4))
