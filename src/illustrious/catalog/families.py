"""Families of SDXL checkpoints. Their networks are alike to the last shape, so only words tell them apart: those of
the tools that trained, merged or fetched a file, else those of its name.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from illustrious.catalog.kinds import FOLDERS
from illustrious.catalog.prediction import Sure

Family = Literal["starter", "sdxl", "pony", "animagine", "illustrious", "illustrious-2", "illustrious-3", "noobai"]
"""``illustrious`` is version 0.1 and what is made from it, ``illustrious-2`` 1.0 to 2.0, ``illustrious-3`` 3.0 on."""

NAMES: tuple[tuple[Family, re.Pattern[str]], ...] = (
    ("noobai", re.compile(r"noob|nai[-_ ]?xl")),
    ("illustrious", re.compile(r"illustrious|(?<![a-z])il(?:xl|v?\d|(?![a-z]))")),
    ("pony", re.compile(r"pony|pdxl|autismmix")),
    ("animagine", re.compile(r"animagine")),
    ("sdxl", re.compile(r"sdxl 1\.0|sd[-_]?xl[-_]?base|stable-diffusion-xl-base")),
)
"""Each family's names and the short forms its users write into file names, lower case."""

ILLUSTRIOUS_VERSION = re.compile(r"illustrious[-_ ]?xl[-_ ]?v?(\d)[._]?(\d)")
"""As Illustrious' own releases are called (``Illustrious-XL-v2.0``). Merges count their own versions."""

RELEASES: dict[str, Family] = {"0": "illustrious", "1": "illustrious-2", "2": "illustrious-2"}

SIDECAR = ".civitai.info"
"""Beside a model, same stem: what Civitai said about it when a tool fetched it; JSON."""

IN_METADATA = ("modelspec.title", "ss_base_model_version", "sd_merge_models", "sd_merge_recipe")
"""ModelSpec's title, and the bases that kohya's trainer and AUTOMATIC1111's merger write down."""

LONGEST_SIDECAR = 4_000_000
"""Bytes."""


def family_in(text: str) -> Family | None:
    """The family named in the text; of several the one named first."""
    text = text.lower()
    found = [(match.start(), family) for family, pattern in NAMES if (match := pattern.search(text))]
    if not found:
        return None
    family = min(found)[1]
    version = ILLUSTRIOUS_VERSION.search(text)
    return RELEASES.get(version[1], "illustrious-3") if family == "illustrious" and version else family


def told(metadata: Mapping[str, str], sidecar: Mapping[str, object], path: Path) -> tuple[Family, Sure]:
    """The family of the SDXL model at ``path``, from what is known of it, in order of trust."""
    names = (path.stem, *_sorted_into(path))
    sources: tuple[tuple[Sure, Iterable[str]], ...] = (
        ("certain", (str(sidecar.get("baseModel") or ""), metadata.get("ss_sd_model_name", ""))),
        ("likely", (metadata.get(name, "") for name in IN_METADATA)),
        ("guess", names),
    )
    for sure, texts in sources:
        for text in texts:
            if family := family_in(text):
                return _release(family, names), sure
    return "sdxl", "guess"


def _release(family: Family, names: Iterable[str]) -> Family:
    """Civitai and trainers name the family alone; which of its releases it is, the file's name may tell."""
    if family == "illustrious":
        for name in names:
            if ILLUSTRIOUS_VERSION.search(name.lower()):
                return family_in(name) or family
    return family


def _sorted_into(path: Path) -> Iterator[str]:
    """Names of the folders that its user sorted it into, the nearest first: two at most, as further up is the home."""
    for parent in path.parents[:2]:
        if parent.name.lower() in FOLDERS:
            return
        yield parent.name


def read_sidecar(path: Path) -> dict[str, object]:
    """What lies beside the model; empty when nothing does or nothing that can be read."""
    try:
        with path.with_name(path.stem + SIDECAR).open("rb") as file:
            content = json.loads(file.read(LONGEST_SIDECAR))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
