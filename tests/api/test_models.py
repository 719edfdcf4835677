"""Models by name over HTTP: an edge that knows what lies in the folders."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from illustrious.app import create_app, open_studio
from illustrious.images.diffusion import hires
from illustrious.settings import Settings
from tests.catalog.headers import LORA, SD1, SDXL, write_header


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A studio of fakes beside the folder of a web UI."""
    webui = tmp_path / "webui"
    write_header(webui / "models" / "Stable-diffusion" / "noobaiXL_vPred.safetensors", SDXL)
    write_header(webui / "models" / "Lora" / "style" / "ink.safetensors", LORA)
    return Settings(data_dir=tmp_path / "data", fake=True, models_dirs=(str(webui),))


async def test_what_the_request_leaves_open_is_in_its_job(http: httpx.AsyncClient) -> None:
    accepted = await http.post("/jobs", json={"prompt": "a cat", "model": "NoobaiXL_vpred", "steps": 4})
    job = (await http.get(f"/jobs/{accepted.json()['id']}")).json()
    told = job["request"]
    assert (told["model"], told["sampler"], told["guidance_rescale"]) == ("noobaiXL_vPred", "Euler", 0.2)
    assert (told["width"], told["height"], told["steps"]) == (1024, 1024, 4)
    assert told["prompt_prefix"].startswith("masterpiece")


async def test_the_contract_leaves_less_open(http: httpx.AsyncClient) -> None:
    await http.post("/generate-image", json={"prompt": "a cat", "model": "noobaiXL_vPred"})
    told = (await http.get("/jobs")).json()["items"][0]["request"]
    assert (told["steps"], told["guidance"], told["negative_prompt"], told["sampler"]) == (30, 7.5, "", "Euler")
    assert told["prompt_prefix"] == ""


async def test_what_is_not_there_is_refused_before_it_waits(http: httpx.AsyncClient) -> None:
    answer = await http.post("/jobs", json={"prompt": "a cat", "loras": [{"name": "inc"}]})
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body", "loras"]
    assert "Did you mean “style/ink”?" in problem["msg"]
    assert (await http.get("/jobs")).json()["items"] == []


async def test_a_warning_of_the_catalogue_is_told_at_once_and_with_the_picture(http: httpx.AsyncClient) -> None:
    small = {"prompt": "a cat", "model": "noobaiXL_vPred", "width": 256, "height": 256, "steps": 10}
    accepted = (await http.post("/jobs", json=small)).json()
    assert "256×256 is far from" in accepted["warnings"][0]
    assert (await http.post("/generate-image", json=small)).json()["warnings"] == accepted["warnings"]


async def test_all_models_are_listed_with_what_there_is_to_know(http: httpx.AsyncClient) -> None:
    models = (await http.get("/models")).json()
    noobai, fake = models["image"]
    assert (noobai["id"], noobai["family"], noobai["prediction"]["type"]) == (
        "noobaiXL_vPred",
        "noobai",
        "v_prediction",
    )
    assert (noobai["loaded"], noobai["default"], noobai["width"], noobai["hash"]) == (False, False, 1024, None)
    assert noobai["profile"]["sampler"] == "Euler"
    assert [832, 1216] in noobai["profile"]["buckets"]
    assert (fake["id"], fake["default"]) == ("fake", True)
    (lora,) = models["lora"]
    assert (lora["id"], lora["name"], lora["base"], lora["loaded"]) == ("style/ink", "ink", "sdxl", None)
    assert [chat["backend"] for chat in models["chat"]] == ["echo"]
    assert [vision["capabilities"] for vision in models["vision"]] == [["vision"]]
    assert models["embedding"] == models["vae"] == models["controlnet"] == models["problems"] == []
    assert [upscaler["id"] for upscaler in models["upscaler"]] == list(hires.names())
    assert {"name": "Euler a", "aliases": ["k_euler_a", "k_euler_ancestral"]} in models["samplers"]
    assert "Karras" in [schedule["name"] for schedule in models["schedules"]]


async def test_what_was_drawn_with_is_loaded_and_gets_its_hash(http: httpx.AsyncClient) -> None:
    await http.post("/generate-image", json={"prompt": "a cat"})
    await http.post("/generate-image", json={"prompt": "a cat", "loras": [{"name": "ink"}]})
    models = (await http.get("/models")).json()
    assert [(card["loaded"], card["device"]) for card in models["image"] if card["id"] == "fake"] == [(True, "cpu")]
    assert len(models["lora"][0]["hash"]) == 12


async def test_what_cannot_be_drawn_with_says_why(http: httpx.AsyncClient, tmp_path: Path) -> None:
    write_header(tmp_path / "data" / "models" / "checkpoints" / "old.safetensors", SD1)
    (tmp_path / "data" / "models" / "checkpoints" / "broken.safetensors").write_bytes(b"not a model")
    cards = {card["id"]: card for card in (await http.get("/models")).json()["image"]}
    assert "a model of Stable Diffusion 1" in cards["old"]["problem"]
    assert "damaged or incomplete" in cards["broken"]["problem"]
    assert cards["old"]["capabilities"] == cards["broken"]["capabilities"] == []


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
async def test_a_name_that_is_no_utf_8_is_listed_and_never_the_default(http: httpx.AsyncClient, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "models" / "checkpoints"
    write_header(folder / os.fsdecode(b"caf\xe9.safetensors"), SDXL)
    cards = {card["id"]: card for card in (await http.get("/models")).json()["image"]}
    assert "Rename it" in cards["caf?"]["problem"]
    answer = await http.post("/jobs", json={"prompt": "a cat", "model": "caf?"})
    assert (answer.status_code, "Rename it" in answer.text) == (422, True)


async def test_a_file_replaced_while_it_runs_is_another_model(http: httpx.AsyncClient, tmp_path: Path) -> None:
    file = write_header(tmp_path / "data" / "models" / "checkpoints" / "mine.safetensors", SD1)
    ask = {"prompt": "a cat", "model": "mine", "steps": 1, "width": 64, "height": 64}
    assert (await http.post("/jobs", json=ask)).status_code == 422
    write_header(file.with_name("next"), SDXL, {"modelspec.title": "A Pony mix"}).replace(file)
    accepted = await http.post("/jobs", json=ask)
    assert accepted.status_code == 202
    job = (await http.get(f"/jobs/{accepted.json()['id']}")).json()
    assert job["request"]["prompt_prefix"].startswith("score_9")


async def test_folders_that_are_not_there_are_told(settings: Settings, tmp_path: Path) -> None:
    wrong = settings.model_copy(update={"models_dirs": (*settings.models_dirs, str(tmp_path / "typo"))})
    async with at(wrong) as http:
        (problem,) = (await http.get("/models")).json()["problems"]
    assert problem == f"There is no folder {tmp_path / 'typo'}. Correct --models-dir."


@asynccontextmanager
async def at(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A studio of these settings that does not load its image model before the first picture."""
    with open_studio(settings) as studio:
        await studio.start(draw=False)
        transport = httpx.ASGITransport(create_app(settings, studio))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=60) as http:
            yield http
        await studio.close()


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ({"sampler": "Euler b"}, "sampler", "Did you mean Euler"),
        ({"schedule": "caras"}, "schedule", "Did you mean Karras?"),
        ({"model": "noobaiXL_vPred", "sampler": "Heun"}, "sampler", "Choose one of Euler"),
        ({"prompt": "a cat <lora:inc:0.8>", "prompt_syntax": "a1111"}, "prompt", "Did you mean “style/ink”?"),
        ({"hires": {"upscaler": "latnet"}}, "hires", "Did you mean “Latent”"),
        ({"vae": "anime"}, "vae", "There is no VAE “anime”"),
        ({"control": [{"model": "canny", "image": ""}]}, "control", "There is no ControlNet “canny”"),
    ],
)
async def test_what_the_engine_could_not_draw_is_refused_at_once(
    settings: Settings, asked: dict[str, object], field: str, said: str
) -> None:
    """By the SDXL engine's own tables, in the server: no worker is started for it."""
    real = settings.model_copy(update={"fake": False, "ollama_host": "http://127.0.0.1:9"})
    async with at(real) as http:
        for path in ("/jobs", "/generate-image"):
            answer = await http.post(path, json={"prompt": "a cat", **asked})
            assert answer.status_code == 422
            (problem,) = answer.json()["detail"]
            assert problem["loc"] == ["body", field]
            assert said in problem["msg"]
        assert (await http.get("/jobs")).json()["items"] == []
        (worker,) = [worker for worker in (await http.get("/workers")).json()["workers"] if worker["kind"] == "image"]
        assert worker["state"] == "stopped"
