"""A ZIP file made while it is sent."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from illustrious.gallery.export import zip_stream
from illustrious.gallery.search import Filters
from illustrious.gallery.store import Gallery
from illustrious.gallery.table import Picture
from tests.gallery.conftest import Save

FIELDS: dict[str, object] = dict.fromkeys(Picture.model_fields)


def picture(path: str, size: int = 0) -> Picture:
    return Picture.model_validate(
        FIELDS
        | {"id": "a", "path": path, "created": "2023-11-14T22:13:20Z", "format": "png", "bytes": size, "prompt": ""}
        | {"negative_prompt": "", "parameters": {}, "rating": 0, "favourite": False, "tags": (), "state": "shown"}
    )


def opened(pieces: object) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))  # type: ignore[arg-type]
    assert archive.testzip() is None
    return archive


def test_files_as_they_are_in_a_folder_for_each_day(gallery: Gallery, save: Save) -> None:
    saved = [save("a red apple", seed) for seed in (1, 2)]
    save("a castle", 3)
    archive = opened(gallery.export(Filters(q="apple")))
    names = {f"2023-11-14/221320-{each.id}.png": each.path.read_bytes() for each in saved}
    assert {name: archive.read(name) for name in archive.namelist()} == names
    assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_more_than_one_page(gallery: Gallery, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("illustrious.gallery.store.EXPORT_PAGE", 2)
    for seed in range(5):
        save(seed=seed)
    assert len(opened(gallery.export(Filters())).namelist()) == 5


def test_a_picture_from_before_the_format_knows_time(gallery: Gallery, save: Save) -> None:
    save(created=0.0)
    [entry] = opened(gallery.export(Filters())).infolist()
    assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_what_went_meanwhile_is_left_out(gallery: Gallery, save: Save) -> None:
    stays, goes = save(seed=1), save(seed=2)
    goes.path.unlink()
    assert [stays.id in name for name in opened(gallery.export(Filters())).namelist()] == [True]


def test_nothing_is_an_empty_file(gallery: Gallery) -> None:
    assert opened(gallery.export(Filters(q="none"))).namelist() == []


def test_names_are_safe_and_no_two_alike(tmp_path: Path) -> None:
    paths = ["images/x/a.png", "images/y/a.png", "images/y/A.PNG", 'images/..\\c:<d>|"?*.png', "images/ .. .png"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    archive = opened(zip_stream(map(picture, paths), tmp_path))
    assert archive.namelist() == [
        "2023-11-14/a.png",
        "2023-11-14/a (2).png",
        "2023-11-14/A (3).png",
        "2023-11-14/__c__d_____.png",
        "2023-11-14/_.png",
    ]
    assert [archive.read(name) for name in archive.namelist()] == [path.encode() for path in paths]


def test_memory_stays_small(tmp_path: Path) -> None:
    size = 30_000_000
    (tmp_path / "large.png").write_bytes(bytes(size))
    tracemalloc.start()
    sent = sum(len(piece) for piece in zip_stream([picture("large.png", size)], tmp_path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent > size
    assert most < 3_000_000
