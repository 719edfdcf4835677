"""Models by name over HTTP: an edge that knows what lies in the folders."""

from pathlib import Path

import httpx
import pytest

from illustrious.settings import Settings
from tests.catalog.headers import LORA, SDXL, write_header


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
