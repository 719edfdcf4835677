"""Drawing a picture again, and saying exactly how the second differs."""

import asyncio
import io

import pytest
from PIL import Image

from illustrious.errors import InvalidRequest
from illustrious.gallery import formats
from illustrious.gallery.replay import Difference, Drawing, compare, request
from illustrious.gallery.store import Gallery
from illustrious.images.fake import draw
from tests.gallery.conftest import Save


def drawing(image: Image.Image, keep: bool = True, **environment: str) -> Drawing:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Drawing(
        image=buffer.getvalue() if keep else None,
        pixels=formats.digest(image),
        parameters={"steps": 20, "warnings": []},
        environment=environment,
    )


PICTURE = Image.radial_gradient("L").convert("RGB")


def test_a_picture_drawn_again_from_its_row_is_the_same(gallery: Gallery, save: Save) -> None:
    saved = save("a castle", seed=5)
    picture = asyncio.run(gallery.get(saved.id))
    again = draw(request(picture))
    assert request(picture) == saved.result.request
    assert formats.digest(Image.open(io.BytesIO(again.image))) == picture.pixels


def test_a_picture_without_a_seed_cannot_be_drawn_again(gallery: Gallery, save: Save) -> None:
    picture = asyncio.run(gallery.get(save().id))
    with pytest.raises(InvalidRequest, match="with which seed"):
        request(picture.model_copy(update={"seed": None}))


def test_nor_one_made_with_what_is_not_known_here(gallery: Gallery, save: Save) -> None:
    picture = asyncio.run(gallery.get(save().id))
    with pytest.raises(InvalidRequest, match="with a steps that"):
        request(picture.model_copy(update={"parameters": {**picture.parameters, "steps": 900}}))


def test_the_same() -> None:
    report = compare(drawing(PICTURE, torch="2.13"), drawing(PICTURE, torch="2.13"))
    assert (report.identical, report.max_difference, report.differing_pixels, report.differences) == (True, 0, 0, ())


def test_two_pixels_off_on_another_device() -> None:
    other = PICTURE.copy()
    other.putpixel((0, 0), tuple(value - 2 for value in PICTURE.getpixel((0, 0))))  # type: ignore[union-attr,arg-type]
    other.putpixel((9, 9), (*PICTURE.getpixel((9, 9))[:2], PICTURE.getpixel((9, 9))[2] - 7))  # type: ignore[index]
    report = compare(drawing(PICTURE, device="cpu"), drawing(other, device="cuda", torch="2.13"))
    assert (report.identical, report.max_difference, report.differing_pixels) == (False, 7, 2)
    assert report.differences == (
        Difference(name="environment.device", before="cpu", after="cuda"),
        Difference(name="environment.torch", before=None, after="2.13"),
    )


@pytest.mark.parametrize(("other", "same"), [(PICTURE, True), (PICTURE.rotate(90, expand=True).resize((5, 5)), False)])
def test_when_the_first_file_is_gone_its_digest_still_tells(other: Image.Image, same: bool) -> None:
    report = compare(drawing(PICTURE, keep=False), drawing(other))
    assert (report.identical, report.max_difference) == (same, 0 if same else None)


def test_another_size_is_another_picture() -> None:
    report = compare(drawing(PICTURE), drawing(PICTURE.resize((64, 64))))
    assert (report.identical, report.max_difference, report.differing_pixels) == (False, None, None)


def test_other_parameters_are_named() -> None:
    after = drawing(PICTURE).model_copy(update={"parameters": {"steps": 21, "warnings": ["x"]}})
    assert compare(drawing(PICTURE), after).differences == (Difference(name="parameters.steps", before=20, after=21),)
