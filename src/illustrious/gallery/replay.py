"""Drawing a picture again: the request it was drawn from, and how the second one differs from the first."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image, ImageChops
from pydantic import ValidationError

from illustrious.errors import InvalidRequest
from illustrious.gallery.table import Picture
from illustrious.pictures import to_rgb
from illustrious.types import ImageRequest, Noun, digest_of


class Drawing(Noun):
    """A picture and what it was drawn with. ``image`` is the file's bytes, ``None`` when the file is gone; then
    ``pixels`` (``formats.digest``) still tells whether another is the same."""

    image: bytes | None
    pixels: str | None
    parameters: Mapping[str, Any]
    environment: Mapping[str, Any] | None


class Difference(Noun):
    """``name`` such as ``environment.torch``; ``None`` where one of the two does not say."""

    name: str
    before: Any
    after: Any


class Report(Noun):
    """``identical``: every pixel is. ``max_difference`` of a channel, 0 to 255, and how many pixels differ at all:
    ``None`` where the two cannot be laid over each other."""

    identical: bool
    max_difference: int | None
    differing_pixels: int | None
    differences: tuple[Difference, ...]


def request(picture: Picture, sent: Mapping[str, Any] | None = None) -> ImageRequest:
    """What to draw to get this picture again. Raises ``InvalidRequest`` when what is known does not say enough.

    Of pictures it was drawn from the gallery knows the digests alone; ``sent``, the request of its job while that is
    remembered, has the pictures themselves.
    """
    if picture.seed is None:
        raise InvalidRequest(
            f"The picture {picture.id!r} does not say with which seed it was drawn, so it cannot be drawn again. "
            "Draw a new one from its prompt."
        )
    known = {name: value for name, value in picture.parameters.items() if name in ImageRequest.model_fields}
    size = {"width": picture.width, "height": picture.height} if "width" not in known else {}
    alone = {"prompt": picture.prompt, "seed": picture.seed, "count": 1}
    try:
        known |= _pictures_sent(picture.id, known, sent)
        return ImageRequest.model_validate({**known, **size, **alone})
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InvalidRequest(
            f"The picture {picture.id!r} was drawn with a {field} that this studio does not draw with. "
            "Draw a new one from its prompt.",
            field=field,
        ) from error


def _pictures_sent(image_id: str, known: Mapping[str, Any], sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of ``known`` that are digests of pictures (``types.told``), with those pictures in their places."""
    places = [(name, known[name]) for name in ("init_image", "mask") if known.get(name) is not None]
    controls = [dict(control) for control in known.get("control", ())]
    if not places and not controls:
        return {}
    original = ImageRequest.model_validate(sent) if sent is not None else ImageRequest()
    pictures = (original.init_image, original.mask, *(control.image for control in original.control))
    by_digest = {digest_of(data): data for data in pictures if data is not None}
    try:
        return {
            **{name: by_digest[digest] for name, digest in places},
            "control": [{**control, "image": by_digest[control["image"]]} for control in controls],
        }
    except KeyError as error:
        raise InvalidRequest(
            f"The picture {image_id!r} was drawn from another picture, which is no longer here. "
            "Send that one in again with its prompt.",
            field="init_image",
        ) from error


def compare(before: Drawing, after: Drawing) -> Report:
    """How ``after`` differs from ``before``: the pixels as plain RGB, the parameters and the environment by name."""
    most, count = _pixel_difference(before.image, after.image)
    same = before.pixels is not None and before.pixels == after.pixels if most is None else most == 0
    if most is None and same:
        most = count = 0
    differences = [
        *_differences("parameters", before.parameters, after.parameters),
        *_differences("environment", before.environment or {}, after.environment or {}),
    ]
    return Report(identical=same, max_difference=most, differing_pixels=count, differences=tuple(differences))


def _pixel_difference(before: bytes | None, after: bytes | None) -> tuple[int | None, int | None]:
    if before is None or after is None:
        return None, None
    first, second = (to_rgb(Image.open(io.BytesIO(data))) for data in (before, after))
    if first.size != second.size:
        return None, None
    red, green, blue = ImageChops.difference(first, second).split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    counts = largest.histogram()
    return max(value for value, count in enumerate(counts) if count), sum(counts[1:])


def _differences(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for name in sorted({*before, *after} - {"warnings"}):
        if before.get(name) != after.get(name):
            yield Difference(name=f"{part}.{name}", before=before.get(name), after=after.get(name))
