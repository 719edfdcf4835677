"""Files that came, changed, moved or went by hand."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from illustrious.database import Database
from illustrious.errors import NotFound
from illustrious.gallery.scan import ScanReport
from illustrious.gallery.search import Query
from illustrious.gallery.store import Gallery
from illustrious.images.fake import draw
from illustrious.types import ImageRequest

TEXT = (
    "a lighthouse\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Model: wai, Model hash: ab12"
)


def drop(file: Path, colour: str = "red", text: str | None = TEXT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    about = PngImagePlugin.PngInfo()
    if text is not None:
        about.add_text("parameters", text)
    Image.new("RGB", (40, 24), colour).save(file, "PNG", pnginfo=about)
    return file


async def ids(gallery: Gallery, **query: object) -> list[str]:
    return [picture.id for picture in (await gallery.page(Query.model_validate(query))).items]


async def test_a_file_copied_in_is_found_with_what_it_says(gallery: Gallery, tmp_path: Path) -> None:
    drop(tmp_path / "images" / "from a friend" / "Lighthouse.PNG")
    assert await gallery.scan() == ScanReport(added=1)
    [picture] = (await gallery.page(Query(q="lighthouse"))).items
    assert (picture.seed, picture.model, picture.model_hash, picture.source) == (5, "wai", "ab12", "scan")
    assert (picture.width, picture.height) == (40, 24)
    assert picture.parameters["steps"] == 20
    assert await gallery.scan() == ScanReport()


async def test_the_second_look_opens_nothing(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(tmp_path / "images" / "a.png")
    await gallery.scan()
    monkeypatch.setattr("illustrious.gallery.scan.open_picture", lambda *_: pytest.fail("opened again"))
    assert await gallery.scan() == ScanReport()


async def test_pictures_the_studio_saved_are_known(gallery: Gallery) -> None:
    await gallery.save(draw(ImageRequest(prompt="x", seed=1)), "test")
    assert await gallery.scan() == ScanReport()


async def test_what_is_no_picture_is_named_and_passed_over(gallery: Gallery, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    drop(folder / "good.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(drop(folder / "whole.png", "blue").read_bytes()[:60])
    (folder / "notes.txt").write_text("no picture")
    drop(folder / ".hidden.png")
    (folder / "page.webp").write_text("<html>")
    report = await gallery.scan()
    assert (report.added, report.skipped) == (2, 3)
    assert report.unreadable == ("images/cut.png", "images/empty.png", "images/page.webp")


async def test_links_are_not_followed(gallery: Gallery, tmp_path: Path) -> None:
    outside = drop(tmp_path / "elsewhere" / "secret.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link.png").symlink_to(outside)
    (tmp_path / "images" / "folder").symlink_to(outside.parent)
    assert await gallery.scan() == ScanReport()


async def test_a_file_taken_out_is_hidden_and_returns_as_it_was(gallery: Gallery, tmp_path: Path) -> None:
    file = drop(tmp_path / "images" / "a.png")
    await gallery.scan()
    [image_id] = await ids(gallery)
    await gallery.change(image_id, rating=4)
    shutil.copy2(file, tmp_path / "kept.png")
    file.unlink()
    assert await gallery.scan() == ScanReport(missing=1)
    assert await ids(gallery) == []
    with pytest.raises(NotFound):
        await gallery.get(image_id)
    shutil.copy2(tmp_path / "kept.png", file)
    assert await gallery.scan() == ScanReport(returned=1)
    assert await ids(gallery, rating=4) == [image_id]


async def test_a_moved_file_keeps_its_rating(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(draw(ImageRequest(prompt="x", seed=1)), "test")
    await gallery.change(saved.id, rating=5, tags=["best"])
    target = tmp_path / "images" / "best" / "mine.png"
    target.parent.mkdir()
    saved.path.rename(target)
    assert await gallery.scan() == ScanReport(moved=1)
    assert await gallery.file(saved.id) == target
    picture = await gallery.get(saved.id)
    assert (picture.rating, picture.tags, picture.prompt) == (5, ("best",), "x")


async def test_a_copy_is_another_picture(gallery: Gallery, tmp_path: Path) -> None:
    file = drop(tmp_path / "images" / "a.png")
    shutil.copy(file, tmp_path / "images" / "b.png")
    assert await gallery.scan() == ScanReport(added=2)


async def test_a_file_changed_by_hand_is_read_again(gallery: Gallery, tmp_path: Path) -> None:
    file = drop(tmp_path / "images" / "a.png")
    await gallery.scan()
    drop(file, "blue", "a ship\nSteps: 1, Seed: 2, Size: 40x24")
    os.utime(file, ns=(10**18, 10**18))
    assert await gallery.scan() == ScanReport(changed=1)
    assert [picture.prompt for picture in (await gallery.page(Query())).items] == ["a ship"]


async def test_a_drawn_picture_that_was_edited_keeps_how_it_was_drawn(gallery: Gallery) -> None:
    saved = await gallery.save(draw(ImageRequest(prompt="a ship", seed=1)), "test")
    before = await gallery.get(saved.id)
    drop(saved.path, "blue", text=None)
    assert await gallery.scan() == ScanReport(changed=1)
    after = await gallery.get(saved.id)
    assert (after.prompt, after.seed, after.width) == ("a ship", 1, 40)
    assert after.pixels != before.pixels


async def test_many_files_at_one_moment_all_get_a_place(gallery: Gallery, tmp_path: Path) -> None:
    for number in range(40):
        file = drop(tmp_path / "images" / f"{number}.png", f"#0000{number:02x}")
        os.utime(file, (1000, 1000))
    assert (await gallery.scan()).added == 40
    assert len(await ids(gallery)) == 40


async def test_deletions_that_died_half_way_are_finished(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(draw(ImageRequest(prompt="x", seed=1)), "test")
    (tmp_path / "trash").mkdir()
    saved.path.rename(tmp_path / "trash" / f"{saved.id}.png")  # moved, and the row not yet committed
    assert await gallery.scan() == ScanReport()
    assert await ids(gallery, trash=True) == [saved.id]
    await gallery.restore(saved.id)
    assert await gallery.file(saved.id) == saved.path


async def test_restorations_that_died_half_way_are_finished(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(draw(ImageRequest(prompt="x", seed=1)), "test")
    await gallery.delete(saved.id)
    (tmp_path / "trash" / f"{saved.id}.png").rename(saved.path)
    assert await gallery.scan() == ScanReport(moved=1)
    assert await gallery.file(saved.id) == saved.path


async def test_what_dead_writers_left_is_removed_and_pictures_are_not(database: Database, tmp_path: Path) -> None:
    gallery = Gallery(database, tmp_path)
    file = drop(tmp_path / "images" / "a.png")
    old, young = (file.with_name(f".a.png.{digits}.part") for digits in ("0123abcd", "4567abcd"))
    for left in (old, young, file.with_name(".notes.part")):
        left.write_bytes(b"half")
    for left in (old, file, file.with_name(".notes.part")):
        os.utime(left, (1000, 1000))
    await gallery.scan()
    assert sorted(path.name for path in file.parent.iterdir()) == [young.name, ".notes.part", "a.png"]
