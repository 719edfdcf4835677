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
from illustrious.types import Control, ImageRequest
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


def test_one_drawn_from_another_picture_needs_that_one_again(gallery: Gallery) -> None:
    control = Control(model="canny", image=b"edges", weight=0.5)
    sent = ImageRequest(prompt="a castle", seed=5, init_image=b"sketch", mask=b"mask", control=(control,))
    saved = asyncio.run(gallery.save(draw(sent), "test"))
    picture = asyncio.run(gallery.get(saved.id))
    assert picture.parameters["init_image"].startswith("sha256:")
    assert request(picture, sent.model_dump(mode="json")) == saved.result.request
    assert draw(request(picture, sent.model_dump(mode="json"))).image == draw(sent).image
    for other in (None, sent.model_copy(update={"mask": b"another"}).model_dump(mode="json")):
        with pytest.raises(InvalidRequest, match="drawn from another picture, which is no longer here"):
            request(picture, other)


def test_one_of_several_is_drawn_again_alone(gallery: Gallery) -> None:
    saved = asyncio.run(gallery.save(draw(ImageRequest(prompt="a castle", seed=5, count=4)), "test"))
    again = request(asyncio.run(gallery.get(saved.id)))
    assert (again.seed, again.count) == (5, 1)


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
