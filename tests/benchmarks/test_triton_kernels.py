"""The kernels against torch, by Triton's interpreter, which needs no GPU.

PyTorch for CPUs does not bring Triton, and then this is skipped. To run it, put Triton into a folder of its own:

    python -m pip install --no-deps --target FOLDER triton
    PYTHONPATH=FOLDER python -m pytest -rs tests/benchmarks/test_triton_kernels.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_they_are_as_near_to_the_answer_as_torch() -> None:
    """In another process, for Triton decides when it is imported who runs its kernels."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.benchmarks.interpreted"]
    interpreting = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=interpreting, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compared = done.stdout.splitlines()
    assert sum("GroupNorm and SiLU" in line for line in compared) == 30
    assert sum("GEGLU" in line for line in compared) == 12
