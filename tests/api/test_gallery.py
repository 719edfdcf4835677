"""The gallery over HTTP."""

import asyncio
import base64
import hashlib
import io
import re
import zipfile
from pathlib import Path

import httpx
import pytest
from PIL import Image

from illustrious.gallery.store import SavedPicture
from illustrious.images.fake import draw
from illustrious.service import Studio
from illustrious.types import ImageRequest


async def save(studio: Studio, prompt: str = "a red apple", seed: int = 1, size: int = 320) -> SavedPicture:
    return await studio.gallery.save(draw(ImageRequest(prompt=prompt, seed=seed, width=size, height=size)), "api")


async def test_a_picture_is_told_with_where_to_get_it(studio: Studio, http: httpx.AsyncClient) -> None:
    saved = await save(studio)
    told = (await http.get(f"/gallery/{saved.id}")).json()
    assert (told["prompt"], told["seed"], told["rating"], told["tags"]) == ("a red apple", 1, 0, [])
    assert (await http.get(told["url"])).content == saved.result.image
    assert Image.open(io.BytesIO((await http.get(told["thumbnail"])).content)).size == (256, 256)


async def test_pages_lead_on_to_the_last(studio: Studio, http: httpx.AsyncClient) -> None:
    for seed in range(5):
        await save(studio, seed=seed)
    seeds: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await http.get("/gallery", params={"limit": "2", **cursor})).json()
        seeds += [item["seed"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seeds == [4, 3, 2, 1, 0]


async def test_search_and_filters(studio: Studio, http: httpx.AsyncClient) -> None:
    apple, castle = await save(studio), await save(studio, "a castle", 2)
    await http.patch(f"/gallery/{castle.id}", json={"rating": 4, "favourite": True, "tags": ["sea"]})

    async def found(**query: str) -> list[str]:
        return [item["id"] for item in (await http.get("/gallery", params=query)).json()["items"]]

    assert await found(q="apple") == [apple.id]
    assert await found(tag="sea", rating="4", favourite="true", source="api", since="2020-01-01") == [castle.id]
    assert await found(until="2020-01-01") == []
    assert await found(q='"; DROP TABLE images; --') == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "rating=6", "sort=random", "cursor=%ff", "cursor=W10", "colour=red", "seed=-1",
     f"seed={2**70}", "since=yesterday", "q=" + "x" * 1001],
)  # fmt: skip
async def test_what_cannot_be_asked_is_said(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/gallery?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"]


async def test_a_browser_that_has_a_picture_is_told_so(studio: Studio, http: httpx.AsyncClient) -> None:
    saved = await save(studio)
    for url in (saved.url, f"{saved.url}?size=64"):
        first = await http.get(url)
        assert first.headers["cache-control"] == "private, max-age=31536000, immutable"
        tag, time = first.headers["etag"], first.headers["last-modified"]
        for headers in (
            {"If-None-Match": tag},
            {"If-None-Match": f'"other", W/{tag}'},
            {"If-None-Match": "*"},
            {"If-Modified-Since": time},
        ):
            again = await http.get(url, headers=headers)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        for headers in (
            {"If-None-Match": '"other"'},
            {"If-None-Match": '"other"', "If-Modified-Since": time},
            {"If-Modified-Since": "Mon, 01 Jan 1990 00:00:00 GMT"},
            {"If-Modified-Since": "soon"},
        ):
            assert (await http.get(url, headers=headers)).content == first.content
    tags = [(await http.get(f"{saved.url}{size}")).headers["etag"] for size in ("", "?size=64", "?size=128")]
    assert len(set(tags)) == 3


async def test_parts_of_a_picture(studio: Studio, http: httpx.AsyncClient) -> None:
    saved = await save(studio)
    part = await http.get(saved.url, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    assert part.headers["content-range"] == f"bytes 1-3/{len(saved.result.image)}"
    head = await http.head(saved.url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(saved.result.image)))


async def test_a_file_that_came_by_hand_is_asked_for_each_time(
    studio: Studio, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "mine.jpg")
    assert (await http.post("/gallery/scan")).json()["added"] == 1
    [told] = (await http.get("/gallery")).json()["items"]
    answer = await http.get(told["url"])
    assert (answer.headers["cache-control"], answer.headers["content-type"]) == ("private, no-cache", "image/jpeg")
    (tmp_path / "images" / "mine.jpg").unlink()
    gone = await http.get(told["url"])
    assert gone.status_code == 404
    assert "moved or deleted" in gone.json()["detail"]


async def test_twenty_small_copies_at_once(studio: Studio, http: httpx.AsyncClient, tmp_path: Path) -> None:
    saved = await save(studio)
    answers = await asyncio.gather(*(http.get(f"{saved.url}?size=128") for _ in range(20)))
    assert {(answer.status_code, answer.headers["content-type"]) for answer in answers} == {(200, "image/webp")}
    assert len([*(tmp_path / "cache" / "thumbnails").rglob("*.*")]) == 1


async def test_deleted_and_restored(studio: Studio, http: httpx.AsyncClient) -> None:
    saved = await save(studio)
    deleted = (await http.delete(f"/gallery/{saved.id}")).json()
    assert deleted["trashed"] is not None
    assert (await http.get(saved.url)).status_code == 404
    assert (await http.get("/gallery")).json()["items"] == []
    [told] = (await http.get("/gallery?trash=true")).json()["items"]
    assert told == deleted
    assert (await http.get(told["url"])).content == saved.result.image
    assert (await http.get(told["thumbnail"])).status_code == 200
    assert (await http.post(f"/gallery/{saved.id}/restore")).json()["trashed"] is None
    assert (await http.get(saved.url)).content == saved.result.image


@pytest.mark.parametrize(
    "body", [{"rating": 6}, {"rating": -1}, {"favourite": "maybe"}, {"tags": ["a\nb"]}, {"tags": "a"}, {"colour": 1}]
)
async def test_what_cannot_be_changed_is_said(studio: Studio, http: httpx.AsyncClient, body: dict[str, object]) -> None:
    saved = await save(studio)
    assert (await http.patch(f"/gallery/{saved.id}", json=body)).status_code == 422
    assert (await http.get(f"/gallery/{saved.id}")).json()["rating"] == 0


@pytest.mark.parametrize("image_id", ["none", "..%2f..%2fstudio.db", "%2e%2e", "a%00b", "x" * 5000])
async def test_an_id_is_looked_up_and_no_path(http: httpx.AsyncClient, image_id: str) -> None:
    for method, url in (
        ("GET", f"/images/{image_id}"),
        ("GET", f"/images/{image_id}?size=64"),
        ("GET", f"/gallery/{image_id}"),
        ("DELETE", f"/gallery/{image_id}"),
        ("POST", f"/gallery/{image_id}/restore"),
        ("GET", f"/gallery/export?ids={image_id}"),
    ):
        answer = await http.request(method, url)
        assert answer.status_code in (404, 405), (method, url)
        assert answer.json()["detail"]
    assert (await http.patch(f"/gallery/{image_id}", json={"rating": 1})).status_code in (404, 405)


async def test_pictures_as_one_file(studio: Studio, http: httpx.AsyncClient) -> None:
    apple, castle = await save(studio), await save(studio, "a castle", 2)

    async def names(query: str) -> list[str]:
        answer = await http.get(f"/gallery/export?{query}")
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            return [name for entry in archive.namelist() for name in re.findall(r"-([0-9a-f]{16})\.png$", entry)]

    assert await names("q=apple") == [apple.id]
    assert sorted(await names("")) == sorted([apple.id, castle.id])
    assert await names(f"ids={castle.id},{apple.id}&ids={castle.id}") == [castle.id, apple.id]
    assert (await http.get("/gallery/export?ids=" + ",".join(f"a{n}" for n in range(1001)))).status_code == 422


async def test_a_picture_is_drawn_again_and_is_the_same(http: httpx.AsyncClient) -> None:
    first = (await http.post("/generate-image", json={"prompt": "a cat", "seed": 3})).json()
    answer = await http.post(f"/gallery/{first['image_id']}/replay")
    body = answer.json()
    assert (body["identical"], body["max_difference"], body["differing_pixels"]) == (True, 0, 0)
    assert body["differences"] == []
    assert body["image"] != first["image_id"]
    again = (await http.get(f"/gallery/{body['image']}")).json()
    assert (again["seed"], again["job"], again["parent"]) == (3, answer.headers["x-job-id"], first["image_id"])
    assert (await http.post("/gallery/nothing/replay")).status_code == 404


async def test_a_picture_drawn_from_another_is_drawn_again_from_that_one(http: httpx.AsyncClient) -> None:
    sketch = base64.b64encode(b"a sketch").decode()
    first = (await http.post("/generate-image", json={"prompt": "a cat", "seed": 3, "init_image": sketch})).json()
    other = (await http.post("/generate-image", json={"prompt": "a cat", "seed": 3})).json()
    assert first["image_base64"] != other["image_base64"]
    told = [
        (await http.get(f"/gallery/{first['image_id']}")).json()["parameters"],
        (await http.get("/jobs")).json()["items"][1]["request"],
    ]
    assert [part["init_image"] for part in told] == [f"sha256:{hashlib.sha256(b'a sketch').hexdigest()}"] * 2
    assert (await http.post(f"/gallery/{first['image_id']}/replay")).json()["identical"]
