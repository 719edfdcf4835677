r"""The prompt grammar of AUTOMATIC1111's web UI. Text in, values out; malformed brackets are never an error.

A prompt is read in three passes.

1. ``extract`` takes out ``<lora:name:weight>``, ``<lora:name:unet:text>`` and ``<lora:name:unet=1:te=0.5>``.
2. ``parse`` reads what changes from step to step: ``[from:to:when]``, ``[to:when]``, ``[from::when]``, ``[a|b]``.
3. ``weigh`` reads one step's text: ``(a)`` weighs 1.1, ``((a))`` 1.21, ``(a:1.3)`` 1.3, ``[a]`` 1/1.1; ``BREAK``
   starts a new chunk; ``\( \) \[ \] \\`` stand for the character itself, and any other backslash is left out.

What is malformed is read as the web UI reads it: a bracket that never closes weighs everything after it, a closing one
without an opening one is text, and a schedule with a wrong number of parts is text in brackets.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from illustrious.errors import InvalidRequest
from illustrious.types import Lora

ROUND = 1.1
SQUARE = 1 / 1.1

WEIGHT_LIMIT = 100.0
"""Largest weight, either sign: larger ones only overflow."""


def prefixed(prefix: str | None, prompt: str) -> str:
    """The prompt with quality words before it."""
    prefix = (prefix or "").rstrip(", ")
    return f"{prefix}, {prompt}" if prefix and prompt else prefix or prompt


# What changes from step to step


@dataclass(frozen=True)
class Edit:
    """``before`` up to the step that ``when`` names, ``after`` from it on."""

    before: "Parts"
    after: "Parts"
    when: str

    def switch(self, steps: int, first_steps: int | None) -> int:
        """How many steps ``before`` lasts.

        As in the web UI since 1.6: a number with a decimal point is a share of the steps, one without is a number of
        steps. A second pass counts on from the first: its shares are those over 1, its steps those over the first's.
        """
        value = float(self.when)
        if "." in self.when:
            value = (value - (first_steps is not None)) * steps
        else:
            value -= first_steps or 0
        return int(min(value, steps))


@dataclass(frozen=True)
class Alternation:
    """One option a step, in turn."""

    options: tuple["Parts", ...]


Parts = tuple[str | Edit | Alternation, ...]


@dataclass(frozen=True)
class Prompt:
    parts: Parts

    @property
    def is_constant(self) -> bool:
        return all(isinstance(part, str) for part in self.parts)

    def at(self, step: int, steps: int, first_steps: int | None = None) -> str:
        """The text at a step, counted from 0. ``first_steps`` is given in a second pass: the steps of the first."""
        pieces = []
        open_parts: list[Iterator[str | Edit | Alternation]] = [iter(self.parts)]
        while open_parts:
            part = next(open_parts[-1], None)
            if part is None:
                open_parts.pop()
            elif isinstance(part, str):
                pieces.append(part)
            elif isinstance(part, Edit):
                open_parts.append(iter(part.before if step < part.switch(steps, first_steps) else part.after))
            else:
                open_parts.append(iter(part.options[step % len(part.options)]))
        return "".join(pieces)


_SYMBOL = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)


@dataclass(frozen=True)
class _Bracket:
    """An open bracket: where it and the separators directly in it stand among the parts read so far."""

    start: int
    separators: list[int] = field(default_factory=list)


def parse(text: str) -> Prompt:
    """Read what changes from step to step. Weights, escapes and ``BREAK`` stay in the text.

    A bracket around something malformed is malformed itself, as in the web UI's grammar.
    """
    parts: list[str | Edit | Alternation] = []
    opened: list[_Bracket] = []
    for symbol in _SYMBOL.findall(text):
        if symbol in ("(", "["):
            opened.append(_Bracket(len(parts)))
        elif symbol in (":", "|") and opened:
            opened[-1].separators.append(len(parts))
        elif symbol in (")", "]") and opened:
            bracket = opened.pop()
            change = _change(parts, bracket) if symbol == "]" else None
            if change is not None:
                parts[bracket.start :] = [change]
                continue
            if not _is_plain(parts, bracket, symbol):
                opened.clear()
        parts.append(symbol)
    return Prompt(_joined(parts))


def _change(parts: list[str | Edit | Alternation], bracket: _Bracket) -> Edit | Alternation | None:
    """What a bracket that ``]`` closes now changes, if anything."""
    if parts[bracket.start] != "[":
        return None
    ends = [*bracket.separators, len(parts)]
    starts = [bracket.start, *bracket.separators]
    fields = [_joined(parts[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]
    separators = [parts[place] for place in bracket.separators]
    if separators and set(separators) == {"|"}:
        return Alternation(tuple(fields))
    if separators in ([":"], [":", ":"]) and (when := _number(fields[-1])) is not None:
        return Edit(fields[0] if len(fields) == 3 else (), fields[-2], when)
    return None


def _number(field: Parts) -> str | None:
    if len(field) != 1 or not isinstance(field[0], str):
        return None
    found = _NUMBER.fullmatch(field[0])
    return found[1] if found else None


def _is_plain(parts: list[str | Edit | Alternation], bracket: _Bracket, closing: str) -> bool:
    """Whether it is a bracket of the second pass: one that weighs."""
    separators = [parts[place] for place in bracket.separators]
    if closing == ")":
        return parts[bracket.start] == "(" and separators in ([], [":"])
    return parts[bracket.start] == "[" and not separators


def _joined(parts: Iterable[str | Edit | Alternation]) -> Parts:
    """Neighbouring texts as one."""
    joined: list[str | Edit | Alternation] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            joined += [*(["".join(texts)] if texts else []), part]
            texts = []
    return (*joined, "".join(texts)) if texts else tuple(joined)


# Weights


@dataclass(frozen=True)
class Words:
    text: str
    weight: float


@dataclass(frozen=True)
class Break:
    """The next words start a new chunk."""


Piece = Words | Break

_WEIGHT_SYMBOL = re.compile(
    r"\\[()\[\]\\]|\\|[(\[\])]|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[^\\()\[\]:]+|:", re.ASCII
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def weigh(text: str) -> tuple[Piece, ...]:
    """Read one step's text. Neighbours of the same weight are one piece, so ``(light)(house)`` is one word.

    A ``BREAK`` inside brackets breaks too; what is on either side of it keeps its weight.
    """
    symbols = list(_WEIGHT_SYMBOL.finditer(text))
    factors, closing = _factors(symbols)
    # The weight of a place is the product of the factors of the brackets around it, round and square apart.
    weights = {"(": [1.0], "[": [1.0]}
    pieces: list[Piece] = []
    for index, found in enumerate(symbols):
        symbol = found[0]
        if index in factors:
            weights[symbol].append(weights[symbol][-1] * factors[index])
        elif index in closing:
            weights[closing[index]].pop()
        else:
            weight = max(-WEIGHT_LIMIT, min(WEIGHT_LIMIT, weights["("][-1] * weights["["][-1]))
            _add(pieces, symbol, weight)
    return _tidy(pieces)


def _factors(symbols: list[re.Match[str]]) -> tuple[dict[int, float], dict[int, str]]:
    """Opening brackets' places and factors, and the places of those that close one, with what they close."""
    factors: dict[int, float] = {}
    closing: dict[int, str] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for index, found in enumerate(symbols):
        symbol = found[0]
        if symbol in opened:
            opened[symbol].append(index)
            factors[index] = ROUND if symbol == "(" else SQUARE
            continue
        kind = "[" if symbol == "]" else "("
        if (symbol in (")", "]") or found["weight"] is not None) and opened[kind]:
            opening = opened[kind].pop()
            closing[index] = kind
            if found["weight"] is not None:
                factors[opening] = float(found["weight"])
    return factors, closing


def _add(pieces: list[Piece], symbol: str, weight: float) -> None:
    if symbol.startswith("\\"):
        pieces.append(Words(symbol[1:], weight))
        return
    first, *others = _BREAK.split(symbol)
    pieces.append(Words(first, weight))
    for words in others:
        pieces += [Break(), Words(words, weight)]


def _tidy(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Neighbours of one weight joined; no blanks around a break, and no empty words."""
    runs: list[tuple[list[str], float] | Break] = []
    for piece in pieces:
        if isinstance(piece, Break):
            runs.append(piece)
        elif not piece.text:
            continue
        elif runs and not isinstance(last := runs[-1], Break) and last[1] == piece.weight:
            last[0].append(piece.text)
        else:
            runs.append(([piece.text], piece.weight))
    tidy: list[Piece] = []
    for index, run in enumerate(runs):
        if isinstance(run, Break):
            tidy.append(run)
            continue
        text = "".join(run[0])
        if index and isinstance(runs[index - 1], Break):
            text = text.lstrip()
        if index + 1 < len(runs) and isinstance(runs[index + 1], Break):
            text = text.rstrip()
        if text:
            tidy.append(Words(text, run[1]))
    return tuple(tidy)


def escape(text: str) -> str:
    r"""The text so that ``weigh`` reads it as it stands: brackets and backslashes escaped, and ``BREA\K`` for BREAK."""
    return re.sub(r"\bBREAK\b", r"BREA\\K", re.sub(r"([()\[\]\\])", r"\\\1", text))


def render(pieces: Iterable[Piece]) -> str:
    """The pieces as text that ``weigh`` reads as the same pieces."""
    return "".join(" BREAK " if isinstance(piece, Break) else _rendered(piece) for piece in pieces)


def _rendered(words: Words) -> str:
    text = escape(words.text)
    return text if words.weight == 1 else f"({text}:{Decimal(repr(words.weight)):f})"


# LoRAs

_TAG = re.compile(r"<(\w+):([^>]+)>")
_LORA_KINDS = ("lora", "lyco")


def extract(text: str) -> tuple[str, tuple[Lora, ...], tuple[str, ...]]:
    """The text without its ``<kind:…>`` tags, the LoRAs they name, and warnings of tags that name none.

    One weight is for both parts of the model. With two, the first is the UNet's and the second the text encoders';
    ``unet=`` and ``te=`` name them. Raises ``InvalidRequest`` for a weight out of range.
    """
    loras: list[Lora] = []
    warnings: list[str] = []

    def take(tag: re.Match[str]) -> str:
        if tag[1].lower() not in _LORA_KINDS:
            warnings.append(
                f"{tag[0]} was left out: tags of this kind mean nothing here, only <lora:name:weight> does."
            )
            return ""
        lora = _lora(tag)
        if lora is None:
            warnings.append(
                f"{tag[0]} was left out: it is not of the form <lora:name:weight>, with a number as weight."
            )
        else:
            loras.append(lora)
        return ""

    return _TAG.sub(take, text), tuple(loras), tuple(warnings)


def _lora(tag: re.Match[str]) -> Lora | None:
    name, *arguments = (argument.strip() for argument in tag[2].split(":"))
    weights: list[float] = []
    named: dict[str, float] = {}
    for argument in arguments:
        key, equals, value = argument.rpartition("=")
        number = _NUMBER.fullmatch(value)
        if number is None:
            return None
        if equals:
            named[key.strip()] = float(number[1])
        else:
            weights.append(float(number[1]))
    if not name or len(weights) > 2 or not named.keys() <= {"unet", "te"}:
        return None
    unet = named.get("unet", weights[0] if weights else 1.0)
    text = named.get("te", weights[1] if len(weights) == 2 else None)
    if max(abs(unet), abs(text or 0.0)) > 10:
        raise InvalidRequest(f"In {tag[0]}: a LoRA's weight is a number from -10 to 10.", field="prompt")
    if len(name) > 500:
        raise InvalidRequest(f"{tag[0][:60]}…: a LoRA's name has at most 500 characters.", field="prompt")
    return Lora(name=name, weight=unet, text_weight=text)
