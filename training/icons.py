"""Colour icons with names, from icon sets under free licences: fetched once, checked, rendered once, cached.

>>> icons = load_icons(["twemoji"], 64, cache)
>>> icons[0].label, icons[0].style, icons[0].pixels.shape
('grinning face', 'twemoji', (64, 64, 4))
"""

import base64
import hashlib
import io
import json
import logging
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

from training.names import OBJECT, kind

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Package:
    """A package of the npm registry. ``integrity``: base64 of its archive's SHA-512, as npm itself states it."""

    name: str
    version: str
    integrity: str
    licence: str


STYLES = {
    "twemoji": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "MIT",
    ),
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
    ),
    "noto-v1": Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0",
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji",
        "1.2.2",
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "CC-BY-4.0",  # of the drawings; its code is Apache-2.0, which is all that the package names
    ),
}
"""Icon sets whose licences allow shipping what is learned from them. OpenMoji (CC BY-SA) is left out on purpose."""

LABELS = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "MIT",
)
"""Names and keywords of all emoji, from the Unicode CLDR."""

GROUPS_LEFT_OUT = frozenset({2, 8, 9})
"""emojibase's groups that are no pictures of things: components, symbols, flags. Hearts and shapes are of group 0 and
8; those wanted from group 8 are named in ``SYMBOLS_KEPT``."""

SYMBOLS_KEPT = frozenset({"red circle", "blue circle", "green circle", "yellow circle", "musical note"})


@dataclass(frozen=True, eq=False)
class Icon:
    """``pixels``: (size, size, 4) RGBA with straight alpha. ``tags``: the CLDR keywords, without the label. ``kind``: a
    word of ``training.names``."""

    label: str
    tags: tuple[str, ...]
    style: str
    pixels: Pixels
    kind: str = OBJECT


def load_icons(styles: Iterable[str], size: int, cache: Path, labels: Sequence[str] | None = None) -> list[Icon]:
    """The icons of the named styles, ``size`` pixels a side, in a fixed order; those of ``labels`` only, if given.

    Raises ``ValueError`` for an archive that is not the one named here, ``OSError`` where npm is missing or fails.
    """
    known = _labels(cache)
    kinds = {label: kind(*group) for label, group in groups(cache).items()}
    wanted = set(labels) if labels is not None else set(known)
    icons = []
    for style in styles:
        names, pixels = _rendered(style, size, cache, known)
        chosen = [index for index, name in enumerate(names) if name in wanted]
        for index in chosen:
            name = names[index]
            icons.append(Icon(name, known[name], style, pixels[index], kinds[name]))
    return icons


def groups(cache: Path) -> dict[str, tuple[int, int]]:
    """Label → emojibase's group and subgroup, of every emoji that is a picture of something."""
    entries = _member(fetch(LABELS, cache), "en/data.json")
    return {entry["label"]: (entry["group"], entry["subgroup"]) for entry in entries if _is_of_something(entry)}


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive, fetched unless it is there already, and checked either way."""
    archive = cache / "packages" / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s %s (%s)", package.name, package.version, package.licence)
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("The icons come from npm packages and npm is not there; install Node.js.")
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=archive.parent, check=True, stdout=subprocess.DEVNULL)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.integrity:
        raise ValueError(
            f"{archive} is not {package.name} {package.version} as it was published; remove it and try again."
        )
    return archive


def _member(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as packed:
        member = packed.extractfile(f"package/{name}")
        if member is None:
            raise ValueError(f"{archive} has no {name}; remove it and try again.")
        return json.load(member)


def _labels(cache: Path) -> dict[str, tuple[str, ...]]:
    """Label → keywords, of every emoji that is a picture of something."""
    entries = _member(fetch(LABELS, cache), "en/data.json")
    return {
        entry["label"]: tuple(tag for tag in entry.get("tags", ()) if tag != entry["label"])
        for entry in entries
        if _is_of_something(entry)
    }


def _is_of_something(entry: dict[str, Any]) -> bool:
    return entry.get("group") not in GROUPS_LEFT_OUT | {None} or entry["label"] in SYMBOLS_KEPT


def _rendered(style: str, size: int, cache: Path, known: dict[str, tuple[str, ...]]) -> tuple[list[str], Pixels]:
    """Labels and (n, size, size, 4) pixels of one style, rendered once."""
    package = STYLES[style]
    made_with = "\n".join((version("resvg_py"), *sorted(known)))
    key = hashlib.sha256(made_with.encode()).hexdigest()[:12]
    stored = cache / "rendered" / f"{style}-{package.version}-{size}-{key}.npz"
    if not stored.exists():
        icons = _member(fetch(package, cache), "icons.json")
        drawn = dict(_draw_all(icons, size, {_slug(label): label for label in known}))
        stored.parent.mkdir(parents=True, exist_ok=True)
        labels = sorted(drawn)
        partial = stored.with_suffix(".partial.npz")
        np.savez_compressed(partial, labels=np.array(labels), pixels=np.stack([drawn[label] for label in labels]))
        partial.replace(stored)
        log.info("rendered %d icons of %s at %d pixels", len(labels), style, size)
    with np.load(stored) as arrays:
        return [str(label) for label in arrays["labels"]], arrays["pixels"]


def _draw_all(icons: dict[str, Any], size: int, by_slug: dict[str, str]) -> Iterable[tuple[str, Pixels]]:
    for name, icon in icons["icons"].items():
        label = by_slug.get(name)
        if label is None or icon.get("hidden"):
            continue
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
        )
        yield label, draw(svg, size)


def draw(svg: str, size: int) -> Pixels:
    """An SVG as (size, size, 4) RGBA, straight alpha, fitted and centred."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if picture.size != (size, size):
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        square = Image.new("RGBA", (size, size))
        square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = square
    return np.asarray(picture)


def _slug(label: str) -> str:
    """The label as icon sets spell it: ``man’s shoe`` → ``mans-shoe``."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")
