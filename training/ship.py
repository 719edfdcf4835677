"""Put what was trained into the package: ``python -m training.ship [--only captioner]``.

Weights with their model cards and attributions (``training/cards/``) and checksums, never more than ``LIMIT`` bytes.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from training.export import write_checksums

log = logging.getLogger("training")

LIMIT = 40_000_000
"""Bytes of all the weights that come with the package."""

DATA = Path("src/illustrious/data")
CARDS = Path("training/cards")


def ship(results: dict[str, Sequence[Path]], cards: Path, data: Path, limit: int = LIMIT) -> int:
    """Write the files and folders of ``results`` (folder of ``data`` → what belongs in it) beside their cards, each
    folder anew. Returns the bytes of all weights.

    Raises ``FileNotFoundError`` where something is not trained yet, ``ValueError`` when it is too much; then nothing is
    changed.
    """
    for parts in results.values():
        for part in parts:
            if not part.exists():
                raise FileNotFoundError(f"{part} is not there; train it first.")
    kept = [folder for folder in data.iterdir() if folder.is_dir() and folder.name not in results]
    size = sum(map(_weights, [*kept, *(part for parts in results.values() for part in parts)]))
    if size > limit:
        raise ValueError(f"{size:,} bytes of weights are more than {limit:,}; train something smaller.")
    for name, parts in results.items():
        partial = data / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(cards / name, partial)
        for part in parts:
            if part.is_dir():
                shutil.copytree(part, partial, dirs_exist_ok=True)
            else:
                shutil.copy2(part, partial)
        write_checksums(partial)
        shutil.rmtree(data / name, ignore_errors=True)
        partial.replace(data / name)
    return size


def _weights(path: Path) -> int:
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("training/runs"), help="default: %(default)s")
    parser.add_argument("--only", choices=("starter", "loras", "captioner"), help="leave the others as they are")
    options = parser.parse_args(words)
    runs: Path = options.runs
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loras = [*sorted((runs / "style").glob("*.safetensors")), *sorted((runs / "few-steps").glob("*.safetensors"))]
    results = {
        "starter": [runs / "image" / "model", runs / "preview" / "model"],
        "loras": loras,
        "captioner": [runs / "captioner" / "captioner"],
    }
    size = ship({options.only: results[options.only]} if options.only else results, CARDS, DATA)
    log.info("%.1f MB of weights are in %s; run the tests and commit them", size / 1e6, DATA)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
