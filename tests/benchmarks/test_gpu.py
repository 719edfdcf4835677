"""The whole table in small, on a CPU: what fails there needs CUDA."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = (
    "copy,product,eager,exact,speeds,preview,LoRA,switch,cuDNN,fused,flash,Triton,halves,a step,guidance,"
    "deep,not compiled,blocks,VAE"
)
NEED_A_GPU = {
    "GroupNorm with SiLU in Triton",
    "GEGLU in Triton",
    "channels_last, both in Triton",
    "halves of guidance on two streams",
    "text encoders beside a step",
    "a decoding beside a step",
}


def rows(folder: Path, *options: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--backend", "eager"]
    done = subprocess.run([*command, "--out", str(folder), *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = (folder / "gpu.md").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("| CPU |") for line in table[2:])
    return {row["what"]: row for row in json.loads((folder / "gpu.json").read_text())["rows"]}


def check(measured: dict[str, dict[str, object]]) -> None:
    failed = {what for what, row in measured.items() if row["figure"] is None}
    assert failed == NEED_A_GPU, [row for row in measured.values() if row["figure"] is None]
    figures = [row["figure"] for what, row in measured.items() if what not in failed]
    assert all(isinstance(figure, float) and math.isfinite(figure) for figure in figures)


def test_what_compiles_little(tmp_path: Path) -> None:
    measured = rows(tmp_path, "--only", QUICK)
    check(measured)
    assert {
        "diffusers eager, MFU",
        "ours exact, one picture",
        "ours fast, one picture",
        "ours exact, peak memory",
        "a preview",
    } <= set(measured)
    levers = [row for row in measured.values() if row["predicted"] is not None]
    assert len(levers) >= 15


@pytest.mark.soak
def test_everything(tmp_path: Path) -> None:
    measured = rows(tmp_path)
    check(measured)
    assert {"diffusers fast, one picture", "ours with those and fp8, one picture", "cold start: first picture"} <= set(
        measured
    )
    assert any(what.startswith("ours not exact") for what in measured)
