"""A picture on disk: whole, with its parameters, found by its id."""

import asyncio
import io
from pathlib import Path

import pytest
from PIL import Image

from illustrious.database import Database
from illustrious.errors import EngineFailed, InvalidRequest, NotFound, StorageFailed
from illustrious.gallery.files import write_atomically
from illustrious.gallery.formats import Format
from illustrious.gallery.search import Query
from illustrious.gallery.store import Gallery
from illustrious.images.fake import draw
from illustrious.types import ImageRequest

RESULT = draw(ImageRequest(prompt="a red apple", negative_prompt="blue", seed=7))


async def test_a_picture_is_an_ordinary_file_in_a_dated_folder(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(RESULT, "test")
    assert saved.path.parent == tmp_path / "images" / "2023" / "11" / "14"
    assert await gallery.file(saved.id) == saved.path
    assert saved.path.read_bytes() == saved.result.image
    assert not list(saved.path.parent.glob(".*"))


async def test_its_pixels_are_untouched_and_its_parameters_are_in_it(gallery: Gallery) -> None:
    saved = await gallery.save(RESULT, "test")
    picture = Image.open(saved.path)
    assert picture.tobytes() == Image.open(io.BytesIO(RESULT.image)).tobytes()
    assert picture.info["parameters"].startswith(
        "a red apple\nNegative prompt: blue\nSteps: 30, Sampler: none, CFG scale: 7.5, Seed: 7, Size: 64x64"
    )


async def test_many_at_once_each_get_their_own_file(gallery: Gallery) -> None:
    saved = await asyncio.gather(*(gallery.save(RESULT, "test") for _ in range(8)))
    assert len({picture.path for picture in saved}) == 8


async def test_one_that_was_removed_by_hand_is_not_found(gallery: Gallery) -> None:
    saved = await gallery.save(RESULT, "test")
    saved.path.unlink()
    for image_id in (saved.id, "nothing", "a\0b"):
        with pytest.raises(NotFound):
            await gallery.file(image_id)


async def test_a_folder_that_cannot_be_written_is_a_clear_error(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"in the way")
    with pytest.raises(StorageFailed, match="could not be saved"):
        await gallery.save(RESULT, "test")


SAME = {"image_id": "job7-0", "created": 1_600_000_000.0}


async def test_the_same_id_saved_again_is_the_same_picture(gallery: Gallery, tmp_path: Path) -> None:
    first = await gallery.save(RESULT, "test", **SAME, job="job7")
    await gallery.change(first.id, rating=4, tags=["keep"])
    again = await gallery.save(RESULT, "test", **SAME, job="job7")
    assert again.path == first.path == tmp_path / "images/2020/09/13/122640-job7-0.png"
    assert (await gallery.get("job7-0")).tags == ("keep",)
    assert [picture.rating for picture in (await gallery.page(Query())).items] == [4]
    assert len([*tmp_path.glob("images/**/*.*")]) == 1


async def test_ten_at_once_of_one_id_leave_one_whole_picture(gallery: Gallery, tmp_path: Path) -> None:
    saved = await asyncio.gather(*(gallery.save(RESULT, "test", **SAME) for _ in range(10)))
    assert {picture.path.read_bytes() for picture in saved} == {saved[0].result.image}
    assert len((await gallery.page(Query())).items) == 1
    assert len([*tmp_path.glob("images/**/*.*")]) == 1


async def test_ten_at_once_in_one_moment_keep_ten_places_in_the_order(gallery: Gallery) -> None:
    await asyncio.gather(*(gallery.save(RESULT, "test", created=5.0) for _ in range(10)))
    one_by_one = []
    cursor = None
    while True:
        page = await gallery.page(Query(limit=1, cursor=cursor))
        one_by_one += [picture.id for picture in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert len(set(one_by_one)) == len(one_by_one) == 10


@pytest.mark.parametrize("image_id", ["", "../x", "a/b", "a.b", "ä", "x" * 65, "x\n"])
async def test_an_id_that_could_be_more_than_a_name_is_refused(gallery: Gallery, tmp_path: Path, image_id: str) -> None:
    with pytest.raises(InvalidRequest, match="is no id"):
        await gallery.save(RESULT, "test", image_id=image_id)
    assert not (tmp_path / "images").exists()


async def test_a_picture_knows_how_it_was_made(gallery: Gallery) -> None:
    saved = await gallery.save(
        RESULT.model_copy(update={"model_hash": "ab12", "lora_hashes": {"ink": "cd34"}, "schedule": "Karras"}),
        "api", job="j", parent="p", owner="o", environment={"torch": "2.13.0"},
    )  # fmt: skip
    picture = await gallery.get(saved.id)
    assert (picture.prompt, picture.negative_prompt, picture.seed) == ("a red apple", "blue", 7)
    assert (picture.model, picture.model_hash, picture.lora_hashes) == ("fake", "ab12", {"ink": "cd34"})
    assert (picture.job, picture.parent, picture.environment) == ("j", "p", {"torch": "2.13.0"})
    assert (picture.width, picture.height, picture.bytes) == (64, 64, len(saved.result.image))
    assert (picture.parameters["sampler"], picture.parameters["schedule"]) == ("none", "Karras")


@pytest.mark.parametrize(("format", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp")])
async def test_other_formats_are_files_of_their_own_kind(gallery: Gallery, format: Format, suffix: str) -> None:
    saved = await gallery.save(RESULT, "test", format=format)
    assert saved.path.suffix == suffix
    assert Image.open(saved.path).format == format.upper()
    assert (await gallery.get(saved.id)).format == format


async def test_what_an_engine_returns_must_be_a_picture(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):
        await gallery.save(RESULT.model_copy(update={"image": b"none"}), "test")
    assert not (tmp_path / "images").exists()


async def test_rating_favourite_and_tags_change_alone(gallery: Gallery) -> None:
    saved = await gallery.save(RESULT, "test")
    await gallery.change(saved.id, rating=5)
    await gallery.change(saved.id, favourite=True)
    changed = await gallery.change(saved.id, tags=[" sea ", "sea", "night"])
    assert (changed.rating, changed.favourite, changed.tags) == (5, True, ("sea", "night"))
    assert (await gallery.change(saved.id, tags=[])).tags == ()
    assert not (await gallery.page(Query(tag="sea"))).items


@pytest.mark.parametrize("tags", [[""], ["a\nb"], ["x" * 101], [str(number) for number in range(101)]])
async def test_a_tag_is_a_short_line(gallery: Gallery, tags: list[str]) -> None:
    saved = await gallery.save(RESULT, "test")
    with pytest.raises(InvalidRequest):
        await gallery.change(saved.id, tags=tags)


async def test_what_is_deleted_can_be_brought_back(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(RESULT, "test")
    await gallery.change(saved.id, rating=3)
    await gallery.delete(saved.id)
    assert (tmp_path / "trash" / f"{saved.id}.png").read_bytes() == saved.result.image
    with pytest.raises(NotFound):
        await gallery.file(saved.id)
    assert not (await gallery.page(Query())).items
    assert [picture.id for picture in (await gallery.page(Query(trash=True))).items] == [saved.id]
    await gallery.delete(saved.id)  # twice does no harm
    restored = await gallery.restore(saved.id)
    assert await gallery.file(saved.id) == saved.path
    assert (restored.rating, restored.trashed) == (3, None)


async def test_what_took_its_place_meanwhile_is_left_alone(gallery: Gallery) -> None:
    saved = await gallery.save(RESULT, "test")
    await gallery.delete(saved.id)
    saved.path.write_bytes(b"another")
    await gallery.restore(saved.id)
    assert (await gallery.file(saved.id)).name == f"{saved.path.stem} (2).png"
    assert saved.path.read_bytes() == b"another"


async def test_a_deletion_that_cannot_move_the_file_deletes_nothing(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(RESULT, "test")
    (tmp_path / "trash").write_bytes(b"in the way")
    with pytest.raises(StorageFailed, match="could not be moved"):
        await gallery.delete(saved.id)
    assert await gallery.file(saved.id) == saved.path


async def test_only_old_trash_is_swept(database: Database, tmp_path: Path) -> None:
    clock = [1000.0]
    gallery = Gallery(database, tmp_path, now=lambda: clock[0])
    kept, old, young = [await gallery.save(RESULT, "test") for _ in range(3)]
    await gallery.delete(old.id)
    clock[0] = 2000.0
    await gallery.delete(young.id)
    assert await gallery.sweep_trash(older_than=500.0) == 1
    with pytest.raises(NotFound):
        await gallery.get(old.id)
    assert [file.stem for file in (tmp_path / "trash").iterdir()] == [young.id]
    assert await gallery.file(kept.id) == kept.path
    clock[0] = 1e9
    assert await gallery.sweep_trash(older_than=0.0) == 1
    assert await gallery.file(kept.id) == kept.path


async def test_a_link_in_a_pictures_place_is_not_followed(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(RESULT, "test")
    secret = tmp_path / "secret.png"
    saved.path.rename(secret)
    saved.path.symlink_to(secret)
    with pytest.raises(NotFound):
        await gallery.file(saved.id)


async def test_the_file_is_written_before_its_row(gallery: Gallery, database: Database, tmp_path: Path) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE images RENAME TO away")  # no row can be written, as if we had died
    with pytest.raises(StorageFailed):
        await gallery.save(RESULT, "test", **SAME)
    assert len([*tmp_path.glob("images/**/*.png")]) == 1  # a file without a row
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO images")
    await gallery.scan()
    found = await gallery.get("job7-0")
    assert (found.prompt, found.seed) == ("a red apple", 7)
    await gallery.save(RESULT, "test", **SAME, job="job7")  # the job runs again
    assert [picture.job for picture in (await gallery.page(Query())).items] == ["job7"]
    assert len([*tmp_path.glob("images/**/*.png")]) == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "picture.png"
    write_atomically(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert file.read_bytes() == b"old"
