"""Tokenizers: CLIP's own from package data for single files, which carry none, and those of diffusers folders.

The vocabulary, as published with CLIP: the 256 byte symbols, the same at the end of a word, one entry per merge, and
two special tokens; 49,408 entries.
"""

import gzip
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from transformers import CLIPTokenizer

from illustrious.errors import Unavailable

VOCABULARY = 49_408
MERGES = VOCABULARY - 2 * 256 - 2

VOCABULARY_FILES = ("vocab.json", "merges.txt")


def clip_tokenizers(length: int) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """SDXL's two tokenizers, for sequences of ``length`` tokens. The second pads with ``!`` (id 0)."""
    return _clip_tokenizer("<|endoftext|>", length), _clip_tokenizer("!", length)


def folder_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """The tokenizer of a diffusers folder, for sequences its text encoder can take. Raises ``Unavailable``."""
    # Without its files transformers would make up a tokenizer of four tokens.
    if not (folder / "tokenizer.json").is_file() and not all((folder / name).is_file() for name in VOCABULARY_FILES):
        raise Unavailable(f"{folder} has no tokenizer (tokenizer.json). Download the model again, or choose another.")
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"The tokenizer in {folder} cannot be read ({error}). Download the model again, or choose another."
        ) from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, length)
    return tokenizer


@lru_cache
def _clip_tokenizer(pad: str, length: int) -> CLIPTokenizer:
    merges = _merges()
    return CLIPTokenizer(
        vocab=_vocabulary(merges), merges=[tuple(merge) for merge in merges], pad_token=pad, model_max_length=length
    )


@lru_cache
def _merges() -> tuple[tuple[str, str], ...]:
    packed = (files("illustrious") / "data" / "clip" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : MERGES + 1]
    pairs = (line.split() for line in lines)
    return tuple((first, second) for first, second in pairs)


def _vocabulary(merges: tuple[tuple[str, str], ...]) -> dict[str, int]:
    symbols = _byte_symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges)]
    return {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}


def _byte_symbols() -> list[str]:
    """A visible character for every byte: itself where Latin-1 shows one, else the next from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, visible), *(chr(256 + number) for number in range(256 - len(visible)))]
