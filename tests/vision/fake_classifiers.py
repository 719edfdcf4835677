"""Children of the classifier, each misbehaving in one way; light to import, for they run in processes of their own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from illustrious.process import Message, MessageInbox


class Obedient:
    """Answers with its process id for a label."""

    def __init__(self, options: dict[str, Any]) -> None: ...

    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        yield {"ready": True}, []
        while (message := inbox.get(wait=True)) is not None:
            sight = {"labels": [{"name": str(os.getpid()), "probability": 1.0}]}
            yield {"id": message[0]["id"], "sight": sight}, []


class DiesOnce(Obedient):
    """Its first life ends at the first picture; the file named in ``LIVES`` remembers."""

    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        lived = Path(os.environ["LIVES"])
        if lived.exists():
            yield from super().run(inbox)
        else:
            lived.touch()
            yield {"ready": True}, []
            inbox.get(wait=True)
            os._exit(1)


class Stillborn(Obedient):
    """Never gets ready; the file named in ``LIVES`` grows by a byte each time it tries."""

    def __init__(self, options: dict[str, Any]) -> None:
        with Path(os.environ["LIVES"]).open("ab") as lives:
            lives.write(b".")
        os._exit(1)


class Silent(Obedient):
    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        yield {"ready": True}, []
        while inbox.get(wait=True) is not None:
            pass
