"""What must hold of the metrics for any logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdbench.train.metrics import evaluate


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    samples, classes = draw(st.integers(1, 30)), draw(st.integers(1, 8))
    scores = arrays(np.float64, (samples, classes), elements=st.floats(-30, 30))
    labels = arrays(np.int64, samples, elements=st.integers(0, classes - 1))
    return draw(scores), draw(labels), draw(scores)


@settings(max_examples=60, deadline=None)
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_samples_changes_nothing(drawn, random):
    logits, labels, teacher = drawn
    order = list(range(len(labels)))
    random.shuffle(order)
    assert evaluate(logits[order], labels[order], teacher[order]) == pytest.approx(
        evaluate(logits, labels, teacher), rel=1e-9, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_percentages_lie_between_0_and_100_and_top5_is_not_below_top1(drawn):
    values = evaluate(*drawn)
    assert all(-1e-9 <= value <= 100 + 1e-9 for name, value in values.items() if name.endswith("_pct"))
    assert values["nll"] >= 0
    assert values["top5_pct"] >= values["top1_pct"]


@settings(max_examples=60, deadline=None)
@given(predictions(), st.floats(-20, 20))
def test_a_constant_added_to_all_logits_of_a_sample_changes_no_probability(drawn, shift):
    logits, labels, _ = drawn
    expected = evaluate(logits, labels)["nll"]
    assert evaluate(logits + shift, labels)["nll"] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_a_student_agrees_with_itself_and_with_labels_as_often_as_it_is_right(drawn):
    logits, labels, _ = drawn
    classes = logits.shape[1]
    assert evaluate(logits, labels, logits)["agreement_pct"] == 100.0
    values = evaluate(logits, labels, np.eye(classes)[labels])
    assert values["agreement_pct"] == pytest.approx(values["top1_pct"])


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_relabelling_all_classes_changes_no_calibration_or_likelihood(drawn):
    logits, labels, _ = drawn
    turned = np.roll(logits, 1, axis=1), (labels + 1) % logits.shape[1]
    assert evaluate(*turned)["nll"] == pytest.approx(evaluate(logits, labels)["nll"], rel=1e-9, abs=1e-9)
