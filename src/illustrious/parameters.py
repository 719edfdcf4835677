"""How a picture was made, written into its file: the ``parameters`` text of AUTOMATIC1111's web UI, which most image
tools and sharing sites read.

::

    a lighthouse, oil painting
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: starter, Version: illustrious 0.1.0

A value with a comma, a colon or a line end in it is written as a JSON string. In a PNG the text is a text chunk called
``parameters``; in JPEG and WebP it is EXIF's UserComment. What the format cannot tell apart: a line of a prompt that
itself begins with ``Negative prompt:``, and a text without settings whose last line looks like settings.
"""

import json
import re
import struct
import zlib
from collections.abc import Mapping

from PIL import ExifTags, Image
from pydantic import Field

from illustrious.errors import EngineFailed
from illustrious.types import Hires, ImageRequest, Lora, Noun

NEGATIVE = "Negative prompt:"

SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""One ``name: value`` of the settings line; the value is a JSON string or goes up to the next comma."""

FEWEST_SETTINGS = 3
"""A last line with fewer than this belongs to the prompt, as in the web UI itself."""

KEYWORD = "parameters"


class Parameters(Noun):
    """The text, taken apart. ``settings`` in the order of the text, values as written (``{"Steps": "20", …}``)."""

    prompt: str = ""
    negative_prompt: str = ""
    settings: dict[str, str] = Field(default_factory=dict)


def render(
    request: ImageRequest,
    *,
    model: str,
    sampler: str,
    version: str,
    schedule: str | None = None,
    model_hash: str | None = None,
    lora_hashes: Mapping[str, str] | None = None,
) -> str:
    """The text for a finished picture: ``request`` as finally used, drawn by ``model`` with ``sampler``.

    Names, order and spelling of the settings are the web UI's, so that its own reader takes them over; what does not
    apply is left out. LoRAs that were not written in the prompt are added to it as the web UI writes them.
    """
    hires, redrawn = request.hires, request.init_image is not None
    strength = request.strength if redrawn else hires.strength if hires else None
    hashes = ", ".join(f"{name}: {value}" for name, value in (lora_hashes or {}).items())
    settings = {
        "Steps": str(request.steps),
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{request.guidance:g}",
        "Seed": str(request.seed),
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash,
        "Model": model,
        "VAE": request.vae,
        "Denoising strength": None if strength is None else f"{strength:g}",
        "Clip skip": None if request.clip_skip is None else str(request.clip_skip),
        "Tiling": None if request.tiling == "none" else "True",
        "Mask blur": str(request.mask_blur) if redrawn and request.mask is not None else None,
        **(_of_second_pass(hires) if hires else {}),
        "Lora hashes": hashes or None,
        "Speed": None if request.speed == "exact" else request.speed,
        "Version": version,
    }
    said = {name: value for name, value in settings.items() if value is not None}
    tags = [_tag(lora) for lora in request.loras if f"<lora:{lora.name}:" not in request.prompt]
    prompt = " ".join(part for part in (request.prompt, *tags) if part)
    return compose(Parameters(prompt=prompt, negative_prompt=request.negative_prompt, settings=said))


def _of_second_pass(hires: Hires) -> dict[str, str | None]:
    resized = hires.width is not None or hires.height is not None
    name = hires.upscaler
    return {
        "Hires upscale": None if resized else f"{hires.scale:g}",
        "Hires resize": f"{hires.width or 0}x{hires.height or 0}" if resized else None,
        "Hires steps": None if hires.steps is None else str(hires.steps),
        "Hires upscaler": name[:1].upper() + name[1:] if name.startswith("latent") else name,
    }


def _tag(lora: Lora) -> str:
    text_weight = lora.weight if lora.text_weight is None else lora.text_weight
    unet = "" if text_weight == lora.weight else f":{lora.weight:g}"
    return f"<lora:{lora.name}:{text_weight:g}{unet}>"


def compose(parameters: Parameters) -> str:
    lines = [parameters.prompt] if parameters.prompt else []
    if parameters.negative_prompt:
        lines.append(f"{NEGATIVE} {parameters.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in parameters.settings.items()))
    return "\n".join(lines)


def parse(text: str) -> Parameters:
    """Take the text apart, ours or another tool's. Never fails: what is no setting is prompt."""
    lines = text.rstrip().split("\n")
    settings = dict(_settings(lines[-1]))
    if len(settings) < FEWEST_SETTINGS:
        settings = {}
    else:
        lines.pop()
    negative_at = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[negative_at:]).removeprefix(NEGATIVE).removeprefix(" ")
    return Parameters(prompt="\n".join(lines[:negative_at]), negative_prompt=negative, settings=settings)


def _settings(line: str) -> list[tuple[str, str]]:
    """The settings of a line, found one after another; what does not read as one is skipped up to the next comma."""
    found = []
    position = 0
    while position < len(line):
        match = SETTING.match(line, position)
        if match is None:
            comma = line.find(",", position)
            position = comma + 1 if comma >= 0 else len(line)
        else:
            found.append((match[1], _unquoted(match[2])))
            position = match.end()
    return found


def _quoted(value: str) -> str:
    plain = not any(special in value for special in ',:\n"') and value == value.strip()
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except json.JSONDecodeError:
        return value


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_png(png: bytes, text: str) -> bytes:
    """``png`` with ``text`` as its ``parameters`` chunk, in place of an earlier one; the pixels are not touched.

    The chunk is tEXt where Latin-1 can say it and else iTXt (PNG specification, section 11.3.3), as Pillow's
    ``PngInfo.add_text`` chooses. Raises ``EngineFailed`` when ``png`` is no PNG file: it comes from an engine.
    """
    written = []
    missing = True
    for kind, chunk in _chunks(png):
        if kind == b"IDAT" and missing:
            written.append(_text_chunk(text))
            missing = False
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or not chunk[8:].startswith(KEYWORD.encode() + b"\0"):
            written.append(chunk)
    if missing:
        raise EngineFailed("The image engine's picture is not a PNG file. Try again, or choose another engine.")
    return PNG_SIGNATURE + b"".join(written)


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """(type, whole chunk) of each chunk; none when this is not a PNG file."""
    found = []
    position = len(PNG_SIGNATURE)
    while png.startswith(PNG_SIGNATURE) and position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 12 + length
        found.append((png[position + 4 : position + 8], png[position:end]))
        position = end
    return found


def _text_chunk(text: str) -> bytes:
    text = text.replace("\0", "")  # ends the keyword, and is forbidden in the text
    try:
        kind, body = b"tEXt", KEYWORD.encode() + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:  # iTXt: not compressed, no language, no translated keyword
        kind, body = b"iTXt", KEYWORD.encode() + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def read(picture: Image.Image) -> str | None:
    """The text in an opened picture's file, from whichever tool; ``None`` when there is none."""
    text = picture.info.get(KEYWORD)
    if isinstance(text, str):
        return text
    try:
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):  # damaged EXIF: as good as none
        return None
    if isinstance(comment, bytes):
        comment = _user_comment(comment)
    return comment or None


def _user_comment(comment: bytes) -> str:
    """EXIF 2.3, table 9: eight bytes that name the character code, then the text."""
    code, body = comment[:8], comment[8:]
    if code != b"UNICODE\0":
        return body.decode("utf-8", "replace").rstrip("\0")
    # The specification leaves the byte order open. Zero bytes tell it: those of ASCII characters come first or second.
    little = body[1::2].count(0) > body[0::2].count(0)
    return body.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")
