"""What a reported front may be made of, and the best value of each: facts of the metrics, never of the data."""

from __future__ import annotations

from kdbench.record import METRICS

# Of what is measured on a split, these are on the test split; the rest is a cost of the model or of its training.
QUALITIES = ("top1_pct", "top5_pct", "macro_precision_pct", "macro_recall_pct", "nll", "ece_pct")
COSTS = tuple(
    name
    for name in METRICS
    if name in ("params", "size_bytes", "flops", "train_device_s") or name.startswith("latency_")
)
OBJECTIVES = (*QUALITIES, *COSTS)
DEFAULT_FRONTS = (("top1_pct", "params"), ("top1_pct", "latency_b1_p50_ms"))


def natural_ideal(name: str) -> float | None:
    """The best value that a metric can have: 100 % where more is better, 0 where less is; None where there is none."""
    about = METRICS[name]
    if about.direction == "min":
        return 0.0
    return 100.0 if about.unit == "%" else None


def tested(name: str) -> str:
    """The result that holds a metric after the final training: `test_top1_pct` for `top1_pct`; costs have no split."""
    return f"test_{name}" if name in QUALITIES else name
