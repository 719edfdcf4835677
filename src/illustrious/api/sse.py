"""Job events as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from illustrious.jobs.events import Event

PING = 15.0
"""Seconds of silence after which a comment is sent: proxies close connections on which nothing comes."""


def written(event: Event) -> bytes:
    """One event on the wire. The bytes of a preview become base64."""
    data = {
        name: base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for name, value in event.data.items()
    }
    return format_sse_event(event=event.name, data_str=json.dumps(data, ensure_ascii=False), id=str(event.id))


async def stream(events: AsyncIterator[Event], ping: float = PING) -> AsyncIterator[bytes]:
    """All the events, and a sign of life where none comes for ``ping`` seconds."""
    following: asyncio.Future[Event] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({following}, timeout=ping)
            if not done:
                yield KEEPALIVE_COMMENT
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield written(event)
    finally:
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await following
