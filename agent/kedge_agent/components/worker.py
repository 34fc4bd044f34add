# SPDX-License-Identifier: Apache-2.0
"""A thread that owns one instance at a time, for its whole life.

Requests come through a queue, answers go back to the caller's event loop. A thread ends
at `None` in its queue, and closes its instance last. It has no other way to end, so
every job is answered: what a request raises is its answer, and what making the next
instance raises is logged and tried again at the next request.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

from kedge_agent.components.instance import Instance
from kedge_agent.errors import AgentError, TrapError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call on whichever instance is free, and where its answer goes."""

    call: Callable[[Instance], Any]
    answer: "asyncio.Future[Any]"
    settled: Callable[[], None]
    loop: asyncio.AbstractEventLoop

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Answer the caller, who may have gone; runs on the caller's loop."""
        self.settled()
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class Worker:
    """A thread and its instance."""

    def __init__(
        self,
        make: Callable[[], Instance],
        jobs: "SimpleQueue[Job | None]",
        *,
        name: str,
    ) -> None:
        self._make: Final = make
        self._jobs: Final = jobs
        self._name: Final = name
        self._thread: threading.Thread | None = None
        self._instance: Instance | None = None

    async def start(self) -> None:
        """Begin, and return when the instance is made. Raises what making it raises."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[None] = loop.create_future()

        def report(error: BaseException | None) -> None:
            if made.done():
                return
            if error is None:
                made.set_result(None)
            else:
                made.set_exception(error)

        def run() -> None:
            try:
                self._instance = self._make()
            except BaseException as exc:  # noqa: BLE001 - start raises it
                loop.call_soon_threadsafe(report, exc)
                return
            loop.call_soon_threadsafe(report, None)
            self._serve()

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        await made

    async def ended(self) -> None:
        """Wait for the thread, which was told to end."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._answer(job)
            if self._instance is not None and self._instance.broken:
                self._replace(self._instance)
        if self._instance is not None:
            self._instance.close()

    def _answer(self, job: Job) -> None:
        result: Any = None
        error: BaseException | None = None
        if not job.answer.cancelled():
            try:
                result = job.call(self._ready())
            except BaseException as exc:  # noqa: BLE001 - its caller gets it
                error = exc
        job.loop.call_soon_threadsafe(job.settle, result, error)

    def _ready(self) -> Instance:
        if self._instance is None:
            try:
                self._instance = self._make()
            except Exception as exc:
                raise TrapError(f"component: cannot be started again: {exc}") from exc
        return self._instance

    def _replace(self, broken: Instance) -> None:
        # The next request tries again; what worked before may work again.
        self._instance = None
        try:
            broken.close()
            self._instance = self._make()
        except AgentError as exc:
            logger.warning("instance.not_replaced: %s: %s", self._name, exc)
        except Exception:  # the thread's last frame: jobs still wait for it
            logger.exception("instance.not_replaced: %s", self._name)
        else:
            logger.info("instance.replaced: %s", self._name)
