"""Pictures sent in, their masks, and what is put back where: all in pixels."""

from math import erf, sqrt
from typing import Any

import numpy as np
import pytest
from PIL import Image

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.canvas import blurred, fit, lay_out, masked_region, read_mask, spread, steps_drawn
from illustrious.types import Hires, ImageRequest, Outpaint
from tests.images.diffusion.editing import canvas_of, photo, png, rectangle

PICTURE = photo(96, 64)
RED = Image.new("RGB", (1, 1), "red")


def request(**fields: Any) -> ImageRequest:
    return ImageRequest(**{"init_image": png(PICTURE), **fields})


def pixels(image: Image.Image | None) -> np.ndarray:
    assert image is not None
    return np.asarray(image, dtype=np.int64)


def red(size: tuple[int, int]) -> Image.Image:
    """Stands for what a model has drawn."""
    return RED.resize(size)


# Sizes


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (96, 64)),
        ({"init_image": png(photo(101, 61))}, (104, 64)),
        ({"init_image": png(photo(3, 2))}, (8, 8)),
        ({"width": 48}, (48, 32)),
        ({"height": 128}, (192, 128)),
        ({"width": 64, "height": 64}, (64, 64)),
        ({"outpaint": Outpaint(left=16, bottom=8)}, (112, 72)),
        ({"width": 64, "height": 64, "outpaint": Outpaint(right=32)}, (96, 64)),
    ],
)
def test_a_canvas_has_the_size_asked_for_or_that_of_its_picture(fields: dict[str, Any], size: tuple[int, int]) -> None:
    canvas = canvas_of(request(**fields))
    assert canvas.size == canvas.result_size == size
    assert pixels(canvas.picture()).shape[:2] == size[::-1]


def test_without_a_picture_a_canvas_has_the_models_size() -> None:
    assert canvas_of(ImageRequest(), native=(40, 48)).size == (40, 48)
    assert canvas_of(ImageRequest(width=72), native=(40, 48)).size == (72, 48)
    assert canvas_of(ImageRequest()).picture() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"init_image": png(photo(101, 61))},
        {"height": 32, "outpaint": Outpaint(top=16)},
        {"mask": png(rectangle(96, 64, (8, 8, 20, 20))), "only_masked": True},
    ],
)
def test_the_size_asked_for_gives_the_same_canvas_again(fields: dict[str, Any]) -> None:
    first = canvas_of(request(**fields))
    width, height = first.asked
    again = canvas_of(request(**fields).model_copy(update={"width": width, "height": height}))
    assert (again.size, again.region, again.asked) == (first.size, first.region, first.asked)


def test_a_masked_region_drawn_alone_leaves_the_picture_its_own_size() -> None:
    canvas = canvas_of(
        request(init_image=png(photo(101, 61)), mask=png(rectangle(101, 61, (8, 8, 20, 20))), only_masked=True)
    )
    assert canvas.size == (64, 64)
    assert canvas.result_size == (101, 61)
    assert canvas.finish(red((64, 64))).size == (101, 61)


# Fitting


def test_stretching_fills_the_frame_with_all_of_the_picture() -> None:
    halves = Image.fromarray(np.concatenate([np.full((64, 48, 3), 10), np.full((64, 48, 3), 240)], axis=1).astype("u1"))
    fitted = pixels(fit(halves, (32, 32), "stretch"))
    assert (fitted[:, :12] == 10).all()
    assert (fitted[:, -12:] == 240).all()


def test_cropping_keeps_the_middle_and_the_proportions() -> None:
    assert np.array_equal(pixels(fit(Image.fromarray(PICTURE), (64, 64), "crop")), PICTURE[:, 16:80])


def test_padding_keeps_all_and_goes_on_with_the_edges() -> None:
    fitted = pixels(fit(Image.fromarray(PICTURE), (96, 96), "pad"))
    assert np.array_equal(fitted[16:80], PICTURE)
    assert np.array_equal(fitted[0], PICTURE[0])
    assert np.array_equal(fitted[-1], PICTURE[-1])


def test_a_mask_is_fitted_like_its_picture_whatever_its_own_size() -> None:
    mask = rectangle(192, 128, (64, 32, 128, 96))
    for how, width, height, white in (
        ("crop", 64, 64, (16, 16, 48, 48)),
        ("stretch", 48, 128, (16, 32, 32, 96)),
        ("pad", 96, 96, (32, 32, 64, 64)),
    ):
        drawn = pixels(canvas_of(request(mask=png(mask), mask_blur=0, width=width, height=height, fit=how)).drawn())
        expected = rectangle(width, height, white)
        assert np.abs(drawn - expected).mean() < 4, how


# Masks


def test_a_mask_is_its_alpha_where_something_is_transparent_and_else_its_luminance() -> None:
    painted = rectangle(96, 64, (8, 8, 40, 40), value=180)
    layer = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    layer.putalpha(Image.fromarray(painted))
    opaque = Image.merge("RGBA", [*[Image.fromarray(painted)] * 3, Image.new("L", (96, 64), 255)])
    sixteen = Image.fromarray(painted.astype(np.uint16) * 257)
    for mask in (layer, opaque, Image.fromarray(painted), sixteen):
        assert np.array_equal(pixels(read_mask(mask)), painted)


def test_a_mask_can_be_turned_around() -> None:
    mask = rectangle(96, 64, (0, 0, 48, 64))
    drawn = pixels(canvas_of(request(mask=png(mask), mask_invert=True, mask_blur=0)).drawn())
    assert np.array_equal(drawn, 255 - mask)


@pytest.mark.parametrize("radius", [1, 4, 10])
def test_the_blur_of_a_mask_is_a_gaussian_of_that_many_pixels(radius: int) -> None:
    edge = Image.fromarray(rectangle(128, 3, (64, 0, 128, 3)))
    expected = [127.5 * (1 + erf((x + 0.5 - 64) / radius / sqrt(2))) for x in range(128)]
    assert np.abs(pixels(blurred(edge, radius))[1] - expected).max() < 9  # of 255: Pillow blurs three times by a box


# Putting back


@pytest.mark.parametrize("drawn_at", [(96, 64), (192, 128)], ids=["one pass", "two passes"])
def test_what_the_mask_keeps_is_the_original_to_the_byte(drawn_at: tuple[int, int]) -> None:
    canvas = canvas_of(request(mask=png(rectangle(96, 64, (30, 20, 60, 40))), mask_blur=3))
    finished = pixels(canvas.finish(red(drawn_at)))
    enlarged = canvas.enlarged(drawn_at)
    kept = pixels(enlarged.mask) == 0
    assert 0.5 < kept.mean() < 1
    original = pixels(enlarged.original)
    assert np.array_equal(finished[kept], original[kept])
    assert drawn_at != (96, 64) or np.array_equal(finished[kept], PICTURE[kept])
    assert (finished[pixels(enlarged.mask) == 255] == (255, 0, 0)).all()


def test_a_grey_mask_mixes_what_is_drawn_with_what_was_there() -> None:
    canvas = canvas_of(request(mask=png(rectangle(96, 64, (0, 0, 96, 64), value=51)), mask_blur=0))
    expected = PICTURE * 0.8 + np.array([255, 0, 0]) * 0.2
    assert np.abs(pixels(canvas.finish(red((96, 64)))) - expected).max() <= 1


def test_without_a_mask_the_drawn_picture_is_the_result() -> None:
    assert pixels(canvas_of(request()).finish(red((96, 64))))[0, 0].tolist() == [255, 0, 0]


# Only the masked region


def test_the_region_is_the_masks_box_padded_in_the_proportions_asked_for() -> None:
    mask = Image.fromarray(rectangle(400, 300, (100, 100, 140, 120)))
    assert masked_region(mask, 0, (64, 64)) == (100, 90, 140, 130)
    assert masked_region(mask, 10, (64, 64)) == (90, 80, 150, 140)
    assert masked_region(mask, 0, (128, 64)) == (100, 100, 140, 120)
    assert masked_region(mask, 0, (64, 128)) == (100, 70, 140, 150)


def test_a_region_at_the_border_moves_into_the_picture() -> None:
    mask = Image.fromarray(rectangle(400, 300, (0, 0, 10, 100)))
    assert masked_region(mask, 32, (64, 64)) == (0, 0, 132, 132)
    corner = Image.fromarray(rectangle(400, 300, (390, 200, 400, 300)))
    assert masked_region(corner, 0, (64, 64)) == (300, 200, 400, 300)


def test_a_region_that_does_not_fit_sticks_out_and_shows_the_edges_there() -> None:
    mask = rectangle(96, 64, (10, 10, 90, 50))
    canvas = canvas_of(request(mask=png(mask), mask_blur=0, mask_padding=0, only_masked=True, width=80, height=80))
    assert canvas.region == (10, -8, 90, 72)
    picture = pixels(canvas.picture())
    assert np.array_equal(picture[8:72], PICTURE[:, 10:90])
    assert np.array_equal(picture[0], PICTURE[0, 10:90])
    assert (pixels(canvas.drawn())[:8] == 0).all()
    finished = pixels(canvas.finish(red((80, 80))))
    assert np.array_equal(finished[mask == 0], PICTURE[mask == 0])
    assert (finished[mask == 255] == (255, 0, 0)).all()


def test_a_region_drawn_larger_comes_back_into_its_place() -> None:
    picture = photo(300, 200)
    mask = rectangle(300, 200, (200, 100, 232, 132))
    canvas = canvas_of(
        request(init_image=png(picture), mask=png(mask), mask_blur=2, only_masked=True, mask_padding=16),
        native=(128, 128),
    )
    assert canvas.size == (128, 128)
    shown = canvas.picture()
    assert shown is not None
    assert canvas.region == (179, 79, 253, 153)  # the box, the blur's reach, the padding
    # What is shown is that part of the picture, enlarged: so it comes back as it was.
    back = pixels(canvas.finish(shown))
    assert np.abs(back - picture).max() <= 12
    for image in (red((128, 128)), red((256, 256))):
        finished = pixels(canvas.finish(image))
        assert finished.shape == picture.shape
        assert np.array_equal(finished[pixels(canvas.mask) == 0], picture[pixels(canvas.mask) == 0])
        assert (finished[108:124, 208:224] == (255, 0, 0)).all()


# Outpainting


def test_an_outpainting_draws_what_is_new_and_a_soft_border_of_the_old() -> None:
    canvas = canvas_of(request(outpaint=Outpaint(left=16, top=8), mask_blur=2))
    mask = pixels(canvas.mask)
    assert mask.shape == (72, 112)
    assert (mask[:8] == 255).all()
    assert (mask[:, :16] == 255).all()
    assert (mask[30:, 32:] == 0).all()
    row = mask[40, 16:32]
    assert row[0] > 240
    assert (np.diff(row) <= 0).all()
    assert len(set(row.tolist())) > 4


def test_an_outpainting_starts_from_the_colours_of_the_edges() -> None:
    canvas = canvas_of(request(outpaint=Outpaint(left=16, right=8, bottom=24)))
    grown = pixels(canvas.original)
    assert np.array_equal(grown[:64, 16:112], PICTURE)
    assert (grown[:64, :16] == PICTURE[:, :1]).all()
    assert (grown[:64, 112:] == PICTURE[:, -1:]).all()
    assert (grown[64:, 16:112] == PICTURE[-1:]).all()


def test_an_outpainting_leaves_the_rest_of_the_old_to_the_byte() -> None:
    canvas = canvas_of(request(outpaint=Outpaint(right=32), mask_blur=2))
    finished = pixels(canvas.finish(red((128, 64))))
    assert np.array_equal(finished[:, :80], PICTURE[:, :80])
    assert (finished[:, 96:] == (255, 0, 0)).all()
    hard = canvas_of(request(outpaint=Outpaint(right=32), mask_blur=0))
    assert np.array_equal(pixels(hard.finish(red((128, 64))))[:, :96], PICTURE)


def test_an_outpainting_draws_a_mask_as_well() -> None:
    mask = rectangle(96, 64, (40, 20, 50, 30))
    canvas = canvas_of(request(outpaint=Outpaint(top=16), mask=png(mask), mask_blur=0))
    grown = pixels(canvas.mask)
    assert (grown[:16] == 255).all()
    assert np.array_equal(grown[16:], mask)


def test_an_outpainting_by_nothing_is_none() -> None:
    assert canvas_of(request(outpaint=Outpaint())).mask is None


def test_an_outpainting_can_be_drawn_as_a_region_alone() -> None:
    canvas = canvas_of(request(outpaint=Outpaint(right=32), mask_blur=0, mask_padding=16, only_masked=True))
    assert canvas.region == (64, 0, 128, 64)
    assert canvas.result_size == (128, 64)
    assert np.array_equal(pixels(canvas.finish(red((64, 64))))[:, :96], PICTURE)


# Filling


def test_filling_spreads_the_colours_around_into_the_hole() -> None:
    halves = np.zeros((200, 300, 3), np.uint8)
    halves[:, :150], halves[:, 150:] = (200, 0, 0), (0, 0, 200)
    hidden = halves.copy()
    hole = rectangle(300, 200, (100, 50, 200, 150))
    hidden[hole == 255] = (0, 255, 0)
    filled = pixels(spread(Image.fromarray(hidden), Image.fromarray(hole)))
    assert np.array_equal(filled[hole == 0], halves[hole == 0])
    assert filled[..., 1].max() == 0  # nothing of what was hidden
    left, right = filled[100, 110], filled[100, 190]
    assert left[0] > 150 > 50 > left[2]
    assert right[2] > 150 > 50 > right[0]


def test_a_hole_however_wide_has_a_colour_of_what_is_kept() -> None:
    wide = np.zeros((40, 2000, 3), np.uint8)
    wide[:, :8] = (90, 120, 150)
    filled = spread(Image.fromarray(wide), Image.fromarray(rectangle(2000, 40, (8, 0, 2000, 40))))
    assert np.abs(pixels(filled) - (90, 120, 150)).max() <= 1


def test_where_all_is_hidden_there_is_grey() -> None:
    filled = spread(Image.fromarray(PICTURE), Image.new("L", (96, 64), 255))
    assert set(np.unique(filled)) <= {127, 128}


# What cannot be


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"init_image": None, "mask": png(PICTURE)}, "mask"),
        ({"init_image": None, "outpaint": Outpaint(left=8)}, "outpaint"),
        ({"mask": png(np.zeros((64, 96)))}, "mask"),
        ({"mask": png(np.full((64, 96), 255)), "mask_invert": True}, "mask"),
        ({"mask": b"no picture"}, "mask"),
        ({"init_image": b"no picture"}, "init_image"),
        ({"init_image": png(photo(8, 8))[:40]}, "init_image"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        canvas_of(request(**wrong))
    assert refusal.value.field == field


def test_a_picture_over_the_limit_is_refused_from_its_header() -> None:
    with pytest.raises(InvalidRequest, match="pixels") as refusal:
        lay_out(request(), (64, 64), max_pixels=1000)
    assert refusal.value.field == "init_image"


def test_a_region_without_a_mask_is_the_whole_and_says_so() -> None:
    canvas = canvas_of(request(only_masked=True))
    assert canvas.size == (96, 64)
    assert "only_masked" in canvas.warnings[0]


# Strength


def test_strength_rounds_to_whole_steps_downwards() -> None:
    assert [steps_drawn(50, strength) for strength in (0.0, 0.019, 0.02, 0.58, 0.999, 1.0)] == [0, 0, 1, 28, 49, 50]


def test_strength_zero_draws_nothing_and_too_little_says_so() -> None:
    nothing = canvas_of(request(strength=0.0))
    assert not nothing.draws
    assert nothing.warnings == ()
    assert np.array_equal(pixels(nothing.original), PICTURE)
    little = canvas_of(request(strength=0.05, steps=10))
    assert not little.draws
    assert "less than one step" in little.warnings[0]
    assert canvas_of(request(strength=0.1, steps=10)).draws
    assert canvas_of(request(strength=0.0, hires=Hires())).draws
