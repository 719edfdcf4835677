"""Benchmarks are not tests, but they must run: each script explains itself, which takes every import it makes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [file for file in FILES if "argparse" in file.read_text(encoding="utf-8")]
"""The others are what these have in common."""


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_each_explains_itself(file: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(file), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
