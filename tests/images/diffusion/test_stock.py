"""What requests name, found in the user's folders and drawn with: models, upscalers, words, wildcards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from illustrious.catalog.library import Library
from illustrious.errors import InvalidRequest
from illustrious.images import Done, Event, Failed, Held, Step
from illustrious.images.diffusion import shelf as shelf_module
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Memory
from illustrious.images.diffusion.stock import Stock
from illustrious.types import Hires, ImageRequest
from tests import tiny
from tests.esrgan import esrgan
from tests.images.diffusion.conftest import Draw, Run, pixels
from tests.images.diffusion.drawing import decoded, loaded

CAT = ImageRequest(prompt="a cat", steps=3, seed=1, width=64, height=64)


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's folder, with one of everything, under its names."""
    root = tmp_path_factory.mktemp("ComfyUI")
    for name in ("checkpoints/anime", "embeddings", "upscale_models", "wildcards"):
        (root / "models" / name).mkdir(parents=True)
    for seed, name in ((1, "first"), (2, "second")):
        tiny.write_single_file(root / "models/checkpoints/anime" / f"{name}.safetensors", tiny.Tiny(seed=seed))
    save_file(esrgan(2, plain=True), root / "models/upscale_models/2x-plain.safetensors")
    (root / "models/upscale_models/2x-broken.safetensors").write_bytes(b"nothing of the sort")
    (root / "models/wildcards/fruit.txt").write_text("apple\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def model() -> Model:
    return loaded(starter_folder())


@pytest.fixture
def stock(model: Model, comfyui: Path) -> Stock:
    return Stock(Library([comfyui]), model, None, Memory(model.placement))


# Models


def ends(events: list[Event]) -> dict[str, np.ndarray]:
    return {event.job_id: pixels(event.results[0]) for event in events if isinstance(event, Done)}


def test_models_named_in_one_mixture_draw_each_what_it_draws_alone(run: Run, draw: Draw, comfyui: Path) -> None:
    first, second = (CAT.model_copy(update={"model": name}) for name in ("anime/first", "second"))
    together = ends(run(None, first, second, CAT, first, models_dirs=(str(comfyui),)))
    alone = [
        draw(comfyui / "models/checkpoints/anime/first.safetensors", CAT),
        draw(comfyui / "models/checkpoints/anime/second.safetensors", CAT),
        draw(None, CAT),
    ]
    for name, picture in zip("0123", [*alone, alone[0]], strict=True):
        assert np.array_equal(together[name], pixels(picture))
    assert len({picture.image for picture in alone}) == 3


def test_where_there_is_room_for_one_model_the_next_waits_until_it_is_done(run: Run, comfyui: Path) -> None:
    first, second = (CAT.model_copy(update={"model": name}) for name in ("first", "second"))
    own = comfyui / "models/checkpoints/anime/first.safetensors"
    happened = run(own, first, second, first, models_dirs=(str(comfyui),), memory_limit=1)
    told = [(event.job_id, type(event).__name__) for event in happened if isinstance(event, Step | Done)]
    assert told.index(("0", "Done")) < told.index(("1", "Step"))
    assert told.index(("1", "Done")) < told.index(("2", "Step"))
    assert np.array_equal(ends(happened)["0"], ends(happened)["2"])


def test_a_name_that_no_model_has_is_refused_with_the_nearest_and_the_others_are_drawn(run: Run, comfyui: Path) -> None:
    events = run(None, CAT.model_copy(update={"model": "fisrt"}), CAT, models_dirs=(str(comfyui),))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.job_id, failed.error) == ("0", "invalid")
    assert "Did you mean “anime/first”?" in failed.message
    assert list(ends(events)) == ["1"]


def test_a_checkpoint_that_cannot_be_opened_fails_its_job_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "broken.safetensors").write_bytes(b"nothing of the sort")
    events = run(None, CAT.model_copy(update={"model": "broken"}), CAT, models_dirs=(str(tmp_path),))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.job_id, failed.error) == ("0", "invalid")
    assert "damaged" in failed.message
    assert list(ends(events)) == ["1"]


def test_the_engines_own_model_is_not_loaded_again_when_a_request_names_it(
    run: Run, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(path: Path | None, placement: object) -> None:
        raise AssertionError(f"{path} was loaded again")

    monkeypatch.setattr(shelf_module, "put_together", again)
    own = comfyui / "models/checkpoints/anime/first.safetensors"
    for path, name in ((own, "first"), (None, "sdxl-starter")):
        named = CAT.model_copy(update={"model": name})
        drawn = ends(run(path, CAT, named, models_dirs=(str(comfyui),)))
        assert np.array_equal(drawn["0"], drawn["1"])


def test_it_is_told_which_models_are_in_memory(run: Run, comfyui: Path) -> None:
    first, second = (CAT.model_copy(update={"model": name}) for name in ("first", "second"))
    own = comfyui / "models/checkpoints/anime/first.safetensors"
    events = run(own, first, second, models_dirs=(str(comfyui),))
    told = [event.models for event in events if isinstance(event, Held)]
    assert told == [{"anime/first": "cpu"}, {"anime/first": "cpu", "anime/second": "cpu"}]


# Upscalers, words, wildcards


def test_an_upscaler_of_the_users_enlarges_the_picture_of_the_first_pass(model: Model, comfyui: Path) -> None:
    """This one repeats every pixel, as plain resampling by the nearest does."""
    drawn, nearest = (
        decoded(model, CAT.model_copy(update={"hires": Hires(scale=2, upscaler=name, strength=0.5)}), comfyui)
        for name in ("2x-plain", "Nearest")
    )
    assert pixels(drawn).shape == (128, 128, 3)
    assert drawn.image == nearest.image


@pytest.mark.parametrize(
    ("name", "said"), [("2x-pain", "Did you mean “2x-plain”"), ("2x-broken", "2x-broken cannot be used")]
)
def test_an_upscaler_that_is_not_there_or_broken_is_told(model: Model, comfyui: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        decoded(model, CAT.model_copy(update={"hires": Hires(upscaler=name)}), comfyui)
    assert refused.value.field == "hires"


def test_an_upscaler_stays_in_memory(stock: Stock, model: Model) -> None:
    assert stock.upscaler(model, "2x-plain") is stock.upscaler(model, "2x-plain.safetensors")


def test_a_learned_word_acts_as_the_word_whose_vectors_it_has(model: Model, comfyui: Path) -> None:
    vectors = {}
    for key, encoder in zip(("clip_l", "clip_g"), model.text_encoders, strict=True):
        (token,) = encoder.tokenizer("apple", add_special_tokens=False).input_ids
        vectors[key] = encoder.model.get_input_embeddings().weight[token][None].detach().clone()
    red = CAT.model_copy(update={"prompt": "a red charm"})
    plain = decoded(model, red, comfyui)
    file = comfyui / "models/embeddings/charm.safetensors"
    save_file(vectors, file)
    apple = decoded(model, red.model_copy(update={"prompt": "a red apple"}), comfyui)
    assert decoded(model, red, comfyui).image == apple.image != plain.image
    file.unlink()
    assert decoded(model, red, comfyui).image == plain.image


def test_a_new_word_is_known_from_then_on(stock: Stock, model: Model, comfyui: Path) -> None:
    before = stock.embeddings(model)
    assert stock.embeddings(model) is before
    file = comfyui / "models/embeddings/later.safetensors"
    save_file({"clip_l": torch.zeros(1, 8), "clip_g": torch.zeros(1, 8)}, file)
    assert "later" in stock.embeddings(model).names()
    assert "for another family" in str(stock.embeddings(model).problem("later"))
    file.unlink()


def test_a_wildcard_is_a_line_of_its_file(model: Model, comfyui: Path) -> None:
    drawn = decoded(model, CAT.model_copy(update={"prompt": "a red __fruit__"}), comfyui)
    assert drawn.request.prompt == "a red apple"
    assert drawn.image == decoded(model, CAT.model_copy(update={"prompt": "a red apple"}), comfyui).image


def test_what_previews_need_is_made_once_for_each_model_and_only_when_there_are_any(model: Model) -> None:
    memory = Memory(model.placement)
    assert Stock(Library([]), model, None, memory).prepare(model) is None
    stock = Stock(Library([]), model, None, memory, with_previews=True)
    fit = stock.prepare(model)
    assert fit is not None
    fit()
    assert stock.prepare(model) is None
