"""A soak of half a minute: benchmarks/soak.py has the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_study_under_fire_for_half_a_minute_comes_out_as_one_that_is_left_alone(tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "benchmarks/soak.py"), "--minutes", "0.5", "--least", "4", "--seed", "5",
        "--output", str(tmp_path),
        "--set", "search.trials=2", "--set", "train.epochs=8", "--set", "methods={scratch: {}, kd: {}}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=840)
    log, result = (tmp_path / "soak.log").read_text(), (tmp_path / "soak.md").read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "**Nothing is wrong.**" in result and "WRONG" not in log
    (strikes,) = re.findall(r"n = \d+ studies, (\d+) strikes", result)
    assert int(strikes) >= 4, log
