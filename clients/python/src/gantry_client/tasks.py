"""Tasks and threads that end before the resources that they use are released."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Optional, TypeVar

T = TypeVar("T")


async def together(driver: Any, writer: Any) -> None:
    """Runs both to completion. If one fails, cancels the other and raises the failure."""
    tasks = [asyncio.ensure_future(driver), asyncio.ensure_future(writer)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await stop(*tasks)


async def stop(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits until they have ended, even if it is cancelled itself."""
    cancelled: Optional[asyncio.CancelledError] = None
    pending = {task for task in tasks if not task.done()}
    while pending:
        # More than once: before Python 3.12, `asyncio.wait_for` can lose a cancellation.
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=1.0)
        except asyncio.CancelledError as error:
            cancelled = error
            pending = {task for task in pending if not task.done()}

    for task in tasks:
        if not task.cancelled():
            # Marks the exception as retrieved.
            task.exception()
    if cancelled is not None:
        raise cancelled


async def in_thread(work: Callable[[], T], undo: Optional[Callable[[T], None]] = None) -> T:
    """Runs blocking work on a thread. If cancelled, it still waits for the work, which uses files that are closed next.

    The result, which the caller does not receive in this case, is passed to `undo`.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if undo is not None and future.exception() is None:
            undo(future.result())
        raise
