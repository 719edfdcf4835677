"""What a checkpoint's UNet predicts: the noise (epsilon), the velocity (v), or what EDM models predict.

No two tools mark it alike. In order of trust, the first that says anything decides:

1. empty tensors in the file: ``v_pred``, and ``ztsnr`` for a terminal signal-to-noise ratio of zero (ComfyUI, Forge);
   ``edm_vpred.sigma_max`` and ``edm_mean`` with ``edm_std`` for EDM models (ComfyUI)
2. metadata: ``modelspec.prediction_type`` (https://github.com/Stability-AI/ModelSpec), ``modelspec.predict_key``
   (ComfyUI), ``ss_v_parameterization`` and ``ss_zero_terminal_snr`` (kohya's trainer)
3. a ``.yaml`` file of the same name with ``parameterization: v`` (AUTOMATIC1111's web UI, Forge)
4. the file's name: ``vpred``, ``v-pred``, ``v_pred`` (SD.Next). SDXL models called so are trained with zero terminal
   SNR throughout, NoobAI's first of all.
"""

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Literal

from illustrious.types import Noun

PredictionType = Literal["epsilon", "v_prediction", "edm", "edm_v"]

Sure = Literal["certain", "likely", "guess"]
"""The file itself says it; something in or beside the file suggests it; only its name does, or nothing."""

WORDS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "edm": "edm",
}
"""In metadata and ``.yaml`` files."""

IN_NAME = re.compile(r"v[-_ ]?pred", re.IGNORECASE)
IN_YAML = re.compile(r"""^\s*parameterization:\s*["']?(\w+)""", re.MULTILINE)
ZERO_SNR_IN_YAML = re.compile(r"^\s*(?:zsnr|zero_snr|zero_terminal_snr|use_zsnr):\s*true", re.MULTILINE | re.IGNORECASE)

LONGEST_YAML = 1_000_000
"""Bytes; a model's configuration has a few thousand."""


class Prediction(Noun):
    """``type`` in diffusers' words. ``zero_snr`` goes with v-prediction only: noise cannot be told from noise alone."""

    type: PredictionType = "epsilon"
    zero_snr: bool = False
    sure: Sure = "guess"

    @property
    def is_edm(self) -> bool:
        """What the SDXL engine does not draw with."""
        return self.type in ("edm", "edm_v")


def prediction(names: Container[str], metadata: Mapping[str, str], path: Path) -> Prediction:
    """That of the single-file checkpoint at ``path`` with these tensors' names and this metadata."""
    return in_tensors(names) or in_metadata(metadata) or beside(path) or in_name(path.stem) or Prediction()


def in_tensors(names: Container[str]) -> Prediction | None:
    if "edm_vpred.sigma_max" in names:
        return Prediction(type="edm_v", sure="certain")
    if "edm_mean" in names and "edm_std" in names:
        return Prediction(type="edm", sure="certain")
    if "v_pred" in names:
        return Prediction(type="v_prediction", zero_snr="ztsnr" in names, sure="certain")
    return None


def in_metadata(metadata: Mapping[str, str]) -> Prediction | None:
    said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key") or ""
    found = WORDS.get(said.strip().lower())
    if found is None and "ss_v_parameterization" in metadata:
        found = "v_prediction" if _true(metadata["ss_v_parameterization"]) else "epsilon"
    if found is None:
        return None
    zero_snr = found == "v_prediction" and _true(metadata.get("ss_zero_terminal_snr", ""))
    return Prediction(type=found, zero_snr=zero_snr, sure="certain")


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")


def beside(path: Path) -> Prediction | None:
    """What a ``.yaml`` file of the same name says."""
    yaml = path.with_suffix(".yaml")
    try:
        with yaml.open(encoding="utf-8", errors="replace") as file:
            text = file.read(LONGEST_YAML)
    except OSError:
        return None
    match = IN_YAML.search(text)
    found = WORDS.get(match[1].lower()) if match else None
    if found is None:
        return None
    zero_snr = found == "v_prediction" and ZERO_SNR_IN_YAML.search(text) is not None
    return Prediction(type=found, zero_snr=zero_snr, sure="likely")


def in_name(name: str) -> Prediction | None:
    return Prediction(type="v_prediction", zero_snr=True) if IN_NAME.search(name) else None
