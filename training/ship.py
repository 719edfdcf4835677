"""Put what was trained into the package: ``python -m training.ship [--only captioner]``.

Weights with their model cards and attributions (``training/cards/``) and checksums, never more than ``LIMIT`` bytes.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open

from training.export import write_checksums
from training.lora import BASE, base_hash

log = logging.getLogger("training")

LIMIT = 40_000_000
"""Bytes of all the weights that come with the package."""

DATA = Path("src/illustrious/data")
CARDS = Path("training/cards")


def ship(
    results: Mapping[str, Sequence[Path]],
    cards: Path,
    data: Path,
    limit: int = LIMIT,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Write the files and folders of ``results`` (folder of ``data`` → what belongs in it) beside their cards, each
    folder anew. Returns the bytes of all weights.

    Raises ``FileNotFoundError`` where something is not trained yet, ``ValueError`` when it is too much, and what
    ``check`` raises when all of it is there; then nothing is changed.
    """
    for parts in results.values():
        for part in parts:
            if not part.exists():
                raise FileNotFoundError(f"{part} is not there; train it first.")
    check()
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


def agree(loras: Iterable[Path], model: Path) -> None:
    """Raises ``ValueError`` for a LoRA that was learned on another model."""
    own = base_hash(model)
    for lora in loras:
        with safe_open(lora, "pt") as opened:
            learned_on = (opened.metadata() or {}).get(BASE, own)  # older ones do not say
        if learned_on != own:
            raise ValueError(f"{lora} was learned on another model than {model}; train it again, and ship both.")


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
    loras = [
        found
        for folder in (runs / "style", runs / "few-steps")
        # Where there is none the pattern stands for what is missing.
        for found in (sorted(folder.glob("starter-*.safetensors")) or [folder / "starter-*.safetensors"])
    ]
    results: dict[str, Sequence[Path]] = {
        "starter": [runs / "image" / "model", runs / "preview" / "model"],
        "loras": loras,
        "captioner": [runs / "captioner" / "captioner"],
    }
    if options.only:
        results = {options.only: results[options.only]}
    of_data = sorted((DATA / "loras").glob("*.safetensors"))
    model = runs / "image" / "model" if "starter" in results else DATA / "starter"
    size = ship(results, CARDS, DATA, check=lambda: agree(loras if "loras" in results else of_data, model))
    log.info("%.1f MB of weights are in %s; run the tests and commit them", size / 1e6, DATA)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
