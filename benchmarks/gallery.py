"""How fast the gallery answers at many pictures: ``python benchmarks/gallery.py [--pictures 100000]``.

Rows alone, in a database of their own; no picture is drawn or read. Each question is asked many times with other
values; the times are of ``Gallery.page``, from the query to nouns. The baseline is one row fetched by its primary key.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert, select, text

from illustrious.database import Database
from illustrious.gallery.search import Query, Sort, cursor_after
from illustrious.gallery.store import Gallery
from illustrious.gallery.table import image_tags, images

FIRST = 1_700_000_000.0
COMMON = ["masterpiece", "best quality", "1girl", "solo", "long hair", "blue eyes", "smile", "looking at viewer"]
RARE = [f"{kind}{number}" for kind in ("castle", "dragon", "harbour", "lantern") for number in range(500)]
MODELS = ["wai-v14", "noob-vpred", "starter", "rouwei"]
RARE_TAGS = [f"project {number}" for number in range(200)]
"""Beside ``sea``, which nearly a third of the pictures has."""


def fill(database: Database, pictures: int, chance: random.Random) -> None:
    for start in range(0, pictures, 5000):
        rows, tagged = [], []
        for number in range(start, min(start + 5000, pictures)):
            position = int((FIRST + 60 * number) * 1_000_000)
            tags = chance.sample(RARE_TAGS, chance.choice((0, 0, 1, 2))) + (["sea"] if chance.random() < 0.3 else [])
            prompt = ", ".join(chance.sample(COMMON, 6) + chance.sample(RARE, 12))
            rows.append(
                {
                    "id": f"{chance.getrandbits(64):016x}",
                    "position": position,
                    "created": position / 1_000_000,
                    "path": f"images/{number}.png",
                    "state": "trashed" if number % 50 == 0 else "shown",
                    "format": "png",
                    "bytes": 1_500_000,
                    "mtime": position * 1000,
                    "pixels": f"{chance.getrandbits(256):064x}",
                    "width": chance.choice((832, 1024, 1216)),
                    "height": chance.choice((1216, 1024, 832)),
                    "prompt": prompt,
                    "negative_prompt": "lowres, bad hands, watermark",
                    "parameters": {"prompt": prompt, "steps": 28, "guidance": 5.5, "sampler": "Euler a"},
                    "seed": chance.getrandbits(32),
                    "model": chance.choice(MODELS),
                    "source": chance.choice(("api", "chat", "scan")),
                    "job": f"job{number // 4}",
                    "rating": chance.choices(range(6), (80, 4, 4, 5, 4, 3))[0],
                    "favourite": chance.random() < 0.01,
                    "tags": "\n".join(tags),
                }
            )
            tagged += [{"tag": tag, "position": position} for tag in tags]
        with database.begin() as connection:
            connection.execute(insert(images), rows)
            connection.execute(insert(image_tags), tagged)


def questions(pictures: int, seeds: list[int], chance: random.Random) -> dict[str, Callable[[], Query]]:
    """What is asked, anew each time. A deep page is somewhere in the whole, as its cursor says."""

    def deep(sort: Sort) -> Query:
        position = int((FIRST + 60 * chance.randrange(pictures)) * 1_000_000)
        return Query(sort=sort, cursor=cursor_after(sort, position, rating=0))

    return {
        "first page": lambda: Query(),
        "first page, oldest": lambda: Query(sort="oldest"),
        "first page, by rating": lambda: Query(sort="rating"),
        "deep page": lambda: deep("newest"),
        "deep page, by rating": lambda: deep("rating"),
        "search, rare word": lambda: Query(q=chance.choice(RARE)),
        "search, common word": lambda: Query(q=chance.choice(("masterpiece", "blue_eyes", "smile"))),
        "search, two words": lambda: Query(q=f"solo {chance.choice(RARE)}"),
        "search, typing a word": lambda: Query(q=chance.choice(("m", "dr", "lan", "blue e"))),
        "search, common, by rating": lambda: Query(q="masterpiece", sort="rating"),
        "search, no hit": lambda: Query(q="zeppelin"),
        "search and stars": lambda: Query(q="solo smile", rating=5),
        "model": lambda: Query(model=chance.choice(MODELS)),
        "model nobody has": lambda: Query(model="none"),
        "seed": lambda: Query(seed=chance.choice(seeds)),
        "job": lambda: Query(job=f"job{chance.randrange(pictures // 4)}"),
        "four stars or more": lambda: Query(rating=4),
        "favourites": lambda: Query(favourite=True),
        "tag, common": lambda: Query(tag="sea"),
        "tag, common, by rating": lambda: Query(tag="sea", sort="rating"),
        "tag and common word": lambda: Query(tag=f"project {chance.randrange(200)}", q="smile"),
        "seed, of a model": lambda: Query(seed=chance.choice(seeds), model="rouwei"),
        "tag, rare": lambda: Query(tag=f"project {chance.randrange(200)}"),
        "size": lambda: Query(width=832, height=1216),
        "size nobody has": lambda: Query(width=8, height=8),
        "source": lambda: Query(source="chat"),
        "a day": lambda: Query(since="2023-12-01", until="2023-12-02"),
        "five stars, of a model": lambda: Query(rating=5, model="rouwei"),
        "trash": lambda: Query(trash=True),
    }


async def ask(gallery: Gallery, question: Callable[[], Query], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        query = question()
        start = time.perf_counter()
        await gallery.page(query)
        taken.append((time.perf_counter() - start) * 1000)
    return taken


def p95(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=20)[-1]


def baseline(database: Database, times: int) -> list[float]:
    taken = []
    with database.read() as connection:
        ids = list(connection.execute(select(images.c.id).limit(times)).scalars())
    for image_id in ids:
        start = time.perf_counter()
        with database.read() as connection:
            connection.execute(select(images).where(images.c.id == image_id)).one()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pictures", type=int, default=100_000)
    arguments.add_argument("--times", type=int, default=60)
    options = arguments.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(Path(folder) / "studio.db")
        start = time.perf_counter()
        fill(database, options.pictures, chance)
        print(f"{options.pictures} rows written in {time.perf_counter() - start:.1f} s")
        with database.read() as connection:
            size = connection.execute(text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
            megabytes = size.scalar_one() / 1e6
            seeds = list(connection.execute(select(images.c.seed).limit(1000)).scalars())
        print(f"{megabytes:.0f} MB\n")
        gallery = Gallery(database, Path(folder))
        one = p95(baseline(database, options.times))
        print(f"{'':<28}{'median ms':>10}{'p95 ms':>10}{'p95 ratio':>11}")
        print(f"{'one row by its id':<28}{'':>10}{one:>10.2f}{1:>11.1f}")
        for name, question in questions(options.pictures, seeds, chance).items():
            taken = asyncio.run(ask(gallery, question, options.times))
            print(f"{name:<28}{statistics.median(taken):>10.2f}{p95(taken):>10.2f}{p95(taken) / one:>11.1f}")
        database.close()


if __name__ == "__main__":
    main()
