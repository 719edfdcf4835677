"""Prompts → what the UNet is told at each step: embeddings of both text encoders, the pooled embedding, the sizes.

Conventions, where the field has several:

- **Chunks.** A text longer than the text encoders read at once goes through them in chunks, each with its own start and
  end token, and the hidden states are put one after the other. The pooled embedding is the first chunk's. This is what
  AUTOMATIC1111's web UI does; for a text of one chunk it is what diffusers does.
- **Weights** act on the hidden states: each token's is multiplied by its weight, then the whole chunk is scaled so that
  its mean is what it was, for each text encoder by itself (the web UI's "Original" emphasis, its default for SDXL too).
  Where the mean is so near to zero that this would blow the chunk up or turn its sign, which is known to ruin pictures
  of SDXL models, it is left out for this chunk, as the web UI's "No norm" does. The pooled embedding has no weights.
- **Clip skip** counts as the web UI does: 1 is the last layer, 2 the one before. SDXL models are trained on the
  last layer but one, and the web UI takes it whatever it is asked for; so unset, 1 and 2 all are that layer.
  A larger number goes further back, in both text encoders and for both halves (diffusers counts two less).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from illustrious.images.diffusion.chunks import Chunk, Names, Unit, Vector, chunks
from illustrious.images.diffusion.prompt import Break, Piece, Prompt, Words, parse, prefixed, weigh
from illustrious.types import ImageRequest

SCALE_LIMIT = 4.0
"""How far restoring a chunk's mean may scale it, up or down."""


@dataclass(frozen=True)
class TextEncoder:
    tokenizer: CLIPTokenizer
    model: Any


@dataclass(frozen=True)
class Half:
    """``embeddings`` 1 × tokens × width, ``pooled`` 1 × width, ``sizes`` 1 × 6."""

    embeddings: Tensor
    pooled: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Conditioning:
    """What one step is told. ``negative`` is ``None`` without guidance. The halves may differ in tokens."""

    positive: Half
    negative: Half | None

    @property
    def halves(self) -> tuple[Half, ...]:
        """The negative one first."""
        return (self.positive,) if self.negative is None else (self.negative, self.positive)


@dataclass(frozen=True)
class ConditioningSchedule:
    """The conditioning of each step. Steps alike share one object."""

    conditionings: tuple[Conditioning, ...]

    def at(self, step: int) -> Conditioning:
        """``step`` counts from 0; after the last it stays as it was."""
        return self.conditionings[min(step, len(self.conditionings) - 1)]

    @property
    def is_constant(self) -> bool:
        return all(conditioning is self.conditionings[0] for conditioning in self.conditionings)


class EmbeddingLookup(Protocol):
    """Textual inversion embeddings by name. Where a prompt has a name's tokens, the name's vectors stand for them."""

    def names(self) -> Iterable[str]: ...

    def find(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Vectors for both text encoders, each n × width; ``None`` when this model cannot use them."""

    def problem(self, name: str) -> str | None:
        """A warning that says why it cannot."""


@dataclass(frozen=True)
class _Encoded:
    """A chunk as it comes from both text encoders, unweighed: twice 1 × tokens × width, and 1 × width."""

    hidden: tuple[Tensor, Tensor]
    pooled: Tensor


ChunkPair = tuple[Chunk, Chunk]
"""The same stretch of text for both text encoders."""


class _Embeddings:
    """The embeddings that a request's prompts name, as far as they have been come across."""

    def __init__(self, lookup: EmbeddingLookup | None, names: tuple[Names, Names], room: int) -> None:
        self.names = names
        self.warnings: list[str] = []
        self._lookup = lookup
        self._room = room
        self._found: dict[str, tuple[Tensor, Tensor] | None] = {}

    def vectors(self, name: str) -> tuple[Tensor, Tensor] | None:
        if self._lookup is None:
            return None
        if name not in self._found:
            vectors = self._lookup.find(name)
            if vectors is None and (problem := self._lookup.problem(name)) is not None:
                self.warnings.append(problem)
            if vectors is not None and len(vectors[0]) > self._room:
                self.warnings.append(
                    f"The embedding {name} has {len(vectors[0])} vectors, and this model reads {self._room} at once: "
                    "only the first ones act."
                )
                vectors = (vectors[0][: self._room], vectors[1][: self._room])
            self._found[name] = vectors
        return self._found[name]

    def digests(self, chunk: Chunk, encoder: int) -> tuple[str, ...]:
        """What tells these vectors from others of the same name."""
        named = dict.fromkeys(token.name for token in chunk.tokens if isinstance(token, Vector))
        found = [vectors[encoder] for name in named if (vectors := self.vectors(name)) is not None]
        return tuple(hashlib.sha256(vectors.float().cpu().numpy().tobytes()).hexdigest() for vectors in found)


@dataclass(frozen=True)
class _Reading:
    """What holds for all texts of one request. ``layer`` counts from the last hidden states."""

    size: tuple[int, int]
    layer: int
    adapters: Hashable
    embeddings: _Embeddings
    warnings: list[str]


@dataclass(frozen=True)
class _Plan:
    """The text of each step, and the chunks of each text."""

    title: str
    texts: Sequence[str]
    chunked: Mapping[str, Sequence[ChunkPair]]


class Conditioner:
    """Both text encoders of one model, and a memory of the chunks they have read.

    The chunks of a request that are not remembered go through a text encoder together, where that was found to change
    no bit for so many; else one by one, or a picture would depend on what was drawn before. ``cache_entries`` bounds
    the memory; an entry is one chunk, for SDXL 315 kB in half precision. ``zeros_for_empty_negative``: this model
    learned an empty negative prompt as zeros.
    """

    def __init__(
        self, text_encoders: tuple[TextEncoder, TextEncoder], zeros_for_empty_negative: bool, cache_entries: int = 128
    ) -> None:
        self._encoders = text_encoders
        self._zeros_for_empty_negative = zeros_for_empty_negative
        # The two are put side by side, so the longer one is used no further than the other.
        self._length: int = min(encoder.tokenizer.model_max_length for encoder in text_encoders)
        self._commas = [comma(encoder) for encoder in text_encoders]
        self._cache: OrderedDict[Hashable, _Encoded] = OrderedDict()
        self._cache_entries = cache_entries
        self._equal: dict[tuple[int, int], bool] = {}  # so many chunks in one call: bit for bit as alone
        self._names: tuple[frozenset[str], tuple[Names, Names]] = (frozenset(), (Names({}), Names({})))

    def forget(self) -> None:
        """Give the memory back."""
        self._cache.clear()

    @property
    def room(self) -> int:
        """How many tokens a chunk holds, beside its start and end."""
        return self._length - 2

    @torch.inference_mode()
    def condition(
        self,
        request: ImageRequest,
        size: tuple[int, int],
        steps: int,
        guided: bool,
        adapters: Hashable = (),
        embeddings: EmbeddingLookup | None = None,
        first_steps: int | None = None,
    ) -> tuple[ConditioningSchedule, list[str]]:
        """The conditioning of every step, and warnings.

        ``size`` is the picture's width and height in pixels. Without ``guided`` there is no negative half.
        ``adapters`` stands for what else acts on the text encoders now. ``first_steps`` is given in a second pass: the
        steps of the first.
        """
        verbatim = request.prompt_syntax == "verbatim"
        layer, warnings = self._layer(request.clip_skip)
        names = self._tokenized_names(embeddings)
        named = _Embeddings(None if verbatim else embeddings, names, self.room)
        reading = _Reading(size, layer, adapters, named, warnings)

        def planned(title: str, text: str) -> _Plan:
            prompt = Prompt((text,)) if verbatim else parse(text)
            texts = [prompt.at(step, steps, first_steps) for step in range(steps)]
            pieces = {text: (Words(text, 1.0),) if verbatim else weigh(text) for text in texts}
            return _Plan(title, texts, self._all_chunked(title, pieces, reading))

        with_zeros = guided and self._zeros_for_empty_negative and not request.negative_prompt
        plans = [planned("prompt", prefixed(request.prompt_prefix, request.prompt))]
        if guided and not with_zeros:
            plans.append(planned("negative prompt", request.negative_prompt))
        encoded = self._encoded([pair for plan in plans for pairs in plan.chunked.values() for pair in pairs], reading)
        positive, *others = (self._halves(plan, encoded, reading) for plan in plans)
        negative: Sequence[Half | None] = others[0] if others else [None] * steps
        if with_zeros:
            negative = [_zeros_like(positive[0])] * steps
        return _scheduled(positive, negative), list(dict.fromkeys([*named.warnings, *warnings]))

    def _layer(self, clip_skip: int | None) -> tuple[int, list[str]]:
        """Which of the hidden states, counted from the end, and a warning when there are not so many."""
        asked = max(clip_skip or 2, 2)
        there = min(encoder.model.config.num_hidden_layers for encoder in self._encoders)
        if asked <= there:
            return asked, []
        return there, [f"Clip skip {asked} is more than the layers of this model's text encoders; {there} was taken."]

    def _tokenized_names(self, embeddings: EmbeddingLookup | None) -> tuple[Names, Names]:
        names = frozenset(embeddings.names()) if embeddings is not None else frozenset()
        if names != self._names[0]:
            first, second = (Names({name: tokens(encoder, name) for name in names}) for encoder in self._encoders)
            self._names = (names, (first, second))
        return self._names[1]

    def _all_chunked(
        self, title: str, texts: Mapping[str, Sequence[Piece]], reading: _Reading
    ) -> dict[str, Sequence[ChunkPair]]:
        """The chunks of one schedule's texts, all as many as the longest has: empty ones fill up, as in the web UI.
        ``title`` is what warnings call them."""
        chunked = {text: self._chunked(pieces, reading.embeddings) for text, pieces in texts.items()}
        longest = max(chunked.values(), key=len)
        if len(longest) > 1:
            count = max(sum(len(pair[encoder].tokens) for pair in longest) for encoder in (0, 1))
            reading.warnings.append(
                f"The {title} is {count} tokens long and is read in {len(longest)} chunks of up to {self.room} each. "
                "Nothing is lost."
            )
        empty = (Chunk(), Chunk())
        return {text: [*pairs, *[empty] * (len(longest) - len(pairs))] for text, pairs in chunked.items()}

    def _halves(self, plan: _Plan, encoded: Mapping[ChunkPair, _Encoded], reading: _Reading) -> list[Half]:
        """One for each step; steps of the same text share it."""
        halves = {text: self._half(plan.title, pairs, encoded, reading) for text, pairs in plan.chunked.items()}
        return [halves[text] for text in plan.texts]

    def _chunked(self, pieces: Sequence[Piece], named: _Embeddings) -> list[ChunkPair]:
        first, second = (
            chunks(self._units(pieces, index, named), self.room, comma) for index, comma in enumerate(self._commas)
        )
        return list(zip_longest(first, second, fillvalue=Chunk()))

    def _units(self, pieces: Iterable[Piece], encoder: int, named: _Embeddings) -> Iterator[Unit | Break]:
        for piece in pieces:
            if isinstance(piece, Break):
                yield piece
                continue
            read = tokens(self._encoders[encoder], piece.text)
            place = 0
            while place < len(read):
                name, length = named.names[encoder].at(read, place)
                vectors = named.vectors(name) if name is not None else None
                if name is None or vectors is None:
                    yield Unit((read[place],), piece.weight)
                    place += 1
                else:
                    yield Unit(tuple(Vector(name, index) for index in range(len(vectors[encoder]))), piece.weight)
                    place += length

    def _half(
        self, title: str, pairs: Sequence[ChunkPair], encoded: Mapping[ChunkPair, _Encoded], reading: _Reading
    ) -> Half:
        stretches = []
        for pair in pairs:
            read = encoded[pair]
            sides = [_weighed(hidden, chunk.weights) for hidden, chunk in zip(read.hidden, pair, strict=True)]
            if not all(even for _, even in sides):
                reading.warnings.append(
                    f"The weights in the {title} cannot be evened out over the whole, so they act as they stand. "
                    "If the picture looks broken, use weights nearer to 1."
                )
            stretches.append(torch.cat([side for side, _ in sides], dim=-1))
        embeddings = torch.cat(stretches, dim=1)
        width, height = reading.size
        # Original size, crop offset, target size, each as height and width (SDXL report, section 2.2).
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=embeddings.dtype, device=embeddings.device)
        return Half(embeddings, encoded[pairs[0]].pooled, sizes)

    def _encoded(self, pairs: Iterable[ChunkPair], reading: _Reading) -> dict[ChunkPair, _Encoded]:
        """What both text encoders make of each; those that are remembered are not read again."""
        keys = {pair: self._key(pair, reading) for pair in pairs}
        missing = {key: pair for pair, key in keys.items() if key not in self._cache}
        both = (self._read(encoder, list(missing.values()), reading) for encoder in (0, 1))
        for key, (first, _), (second, pooled) in zip(missing, *both, strict=True):
            self._cache[key] = _Encoded((first, second), pooled)
        found = {}
        for pair, key in keys.items():
            found[pair] = self._cache[key]
            self._cache.move_to_end(key)
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)
        return found

    def _key(self, pair: ChunkPair, reading: _Reading) -> Hashable:
        digests = tuple(reading.embeddings.digests(chunk, encoder) for encoder, chunk in enumerate(pair))
        return tuple(chunk.tokens for chunk in pair), digests, reading.layer, reading.adapters

    def _read(self, encoder: int, pairs: Sequence[ChunkPair], reading: _Reading) -> list[tuple[Tensor, Tensor]]:
        """What one text encoder makes of its side of each."""
        chunks = [pair[encoder] for pair in pairs]
        rows = [self._rows(chunk, encoder, reading.embeddings) for chunk in chunks]

        def encode(places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
            own = [(chunks[place], rows[place]) for place in places]
            return _encode(self._encoders[encoder], own, self._length, reading.layer)

        everything = range(len(chunks))
        key = encoder, len(chunks)
        if len(chunks) > 1 and self._equal.get(key):
            return encode(everything)
        alone = [encode([place])[0] for place in everything]
        if len(chunks) > 1 and key not in self._equal:
            together = encode(everything)
            self._equal[key] = all(map(_same, alone, together))
        return alone

    def _rows(self, chunk: Chunk, encoder: int, named: _Embeddings) -> dict[int, Tensor]:
        """The vectors that stand for tokens, by their places in the chunk."""
        rows = {}
        for place, token in enumerate(chunk.tokens):
            if isinstance(token, Vector) and (vectors := named.vectors(token.name)) is not None:
                rows[place] = vectors[encoder][token.index]
        return rows


def tokens(encoder: TextEncoder, text: str) -> list[int]:
    """The text's tokens, all of them, without start and end."""
    read: list[int] = encoder.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return read


def comma(encoder: TextEncoder) -> int | None:
    """The token of a comma at the end of a word."""
    token: int | None = encoder.tokenizer.get_vocab().get(",</w>")
    return token


def _encode(
    encoder: TextEncoder, chunks: Sequence[tuple[Chunk, Mapping[int, Tensor]]], length: int, layer: int
) -> list[tuple[Tensor, Tensor]]:
    """For each chunk the hidden states of a layer counted from the end (1 × length × width), and the model's first
    output, which is the pooled embedding (1 × width) where it projects one. With a chunk come the rows that take the
    places of its tokens' embeddings."""
    tokenizer, model = encoder.tokenizer, encoder.model
    ids = []
    for chunk, _ in chunks:
        content = [token if isinstance(token, int) else 0 for token in chunk.tokens]
        whole = [tokenizer.bos_token_id, *content, tokenizer.eos_token_id]
        ids.append(whole + [tokenizer.pad_token_id] * (length - len(whole)))
    with _replaced(model, [rows for _, rows in chunks]):
        output = model(torch.tensor(ids, device=model.device), output_hidden_states=True)
    return list(zip(output.hidden_states[-layer].split(1), output[0].split(1), strict=True))


@contextmanager
def _replaced(model: Any, rows: Sequence[Mapping[int, Tensor]]) -> Iterator[None]:
    """Within it, the model's token embeddings are these at these places after the start token, chunk by chunk."""

    def replace(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        replaced = output.clone()
        for number, own in enumerate(rows):
            for place, row in own.items():
                replaced[number, place + 1] = row.to(output)
        return replaced

    hook = model.get_input_embeddings().register_forward_hook(replace) if any(rows) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def _weighed(hidden: Tensor, weights: tuple[float, ...]) -> tuple[Tensor, bool]:
    """The hidden states with each token's weight, and whether their mean could be restored."""
    if all(weight == 1 for weight in weights):
        return hidden, True
    factors = torch.ones(hidden.shape[1], dtype=torch.float32, device=hidden.device)
    factors[1 : 1 + len(weights)] = torch.tensor(weights)
    plain = hidden.float()
    weighed = plain * factors[:, None]
    scale = float(plain.mean() / weighed.mean())
    even = 1 / SCALE_LIMIT <= scale <= SCALE_LIMIT
    return (weighed * scale if even else weighed).to(hidden.dtype), even


def _zeros_like(half: Half) -> Half:
    """Of the other half's length, so that both fit into one call of the UNet: zeros say the same at any length."""
    return Half(torch.zeros_like(half.embeddings), torch.zeros_like(half.pooled), half.sizes)


def _scheduled(positive: Sequence[Half], negative: Sequence[Half | None]) -> ConditioningSchedule:
    distinct: dict[tuple[int, int], Conditioning] = {}
    conditionings = [
        distinct.setdefault((id(one), id(other)), Conditioning(one, other))
        for one, other in zip(positive, negative, strict=True)
    ]
    return ConditioningSchedule(tuple(conditionings))
