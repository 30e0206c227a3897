"""Short names: what is left out of them, and what must stay."""

import pytest

from kdbench.labels import processor_label


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("AMD EPYC 7B13 64-Core Processor", "AMD EPYC 7B13"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "Intel Xeon Platinum 8481C"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
        ("Processor", "Processor"),
    ],
)
def test_a_processors_label_is_its_model_alone(name: str, label: str) -> None:
    assert processor_label(name) == label
