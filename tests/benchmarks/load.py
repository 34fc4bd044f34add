# SPDX-License-Identifier: Apache-2.0
"""An HTTP load generator: open loop at a rate, or closed loop for capacity.

Open loop: requests are due at fixed instants, whatever the server does, and latency
counts from the instant a request was due; a slow server cannot slow the clock down
(coordinated omission). Every answer is checked against what bare ONNX Runtime says for
that image and the model digest that the answer carries.

Reads one JSON line on standard input (the plan), runs until the plan's seconds are over
or standard input closes, then writes one JSON line: counts, and per request due time
(CLOCK_MONOTONIC, seconds) and latency (seconds).
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

RESERVED_CONNECTIONS = 16


@dataclass
class Tally:
    requests: int = 0
    failed: int = 0
    wrong: int = 0
    due: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    first_errors: list[str] = field(default_factory=list)

    def note(self, error: str) -> None:
        if len(self.first_errors) < 10:
            self.first_errors.append(error)


class Connection:
    """One keep-alive HTTP/1.1 connection; one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        try:
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            length = next(
                int(line.split(":")[1])
                for line in lines
                if line.lower().startswith("content-length:")
            )
            return int(lines[0].split(" ")[1]), await self._reader.readexactly(length)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.tally = Tally()
        self.stop = asyncio.Event()
        self.expected: dict[str, list[int]] = plan["expected"]
        body = [
            orjson.dumps(
                {
                    "inputs": [
                        {
                            "name": "raw",
                            "datatype": "UINT8",
                            "shape": [len(image)],
                            "data": image,
                        }
                    ]
                }
            )
            for image in plan["images"]
        ]
        head = (
            f"POST /v2/models/{plan['model']}/infer HTTP/1.1\r\nHost: bench\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self.requests = [head + b"%d\r\n\r\n" % len(b) + b for b in body]

    async def one(self, connection: Connection, number: int, due: float) -> None:
        image = number % len(self.requests)
        self.tally.requests += 1
        try:
            status, body = await connection.exchange(self.requests[image])
        except (OSError, EOFError, StopIteration, asyncio.IncompleteReadError) as exc:
            self.tally.failed += 1
            self.tally.note(repr(exc))
            return
        if status != 200:
            self.tally.failed += 1
            self.tally.note(f"{status} {body[:200]!r}")
            return
        self.tally.due.append(due)
        self.tally.latency.append(time.monotonic() - due)
        answer = orjson.loads(body)
        digest = answer["parameters"]["kedge_model_digest"]
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        if outputs["index"][0] != self.expected[digest][image]:
            self.tally.wrong += 1
            self.tally.note(f"image {image}, model {digest[:12]}: {outputs['index']}")

    async def open_loop(self) -> None:
        free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for _ in range(self.plan.get("connections", RESERVED_CONNECTIONS)):
            free.put_nowait(Connection(self.plan["host"], self.plan["port"]))
        period, start, number = 1 / self.plan["rate"], time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self.over(start):
                due = start + number * period
                await asyncio.sleep(max(0, due - time.monotonic()))
                connection = await free.get()
                group.create_task(self._lent(free, connection, number, due))
                number += 1
        while not free.empty():
            free.get_nowait().close()

    async def _lent(
        self,
        free: asyncio.LifoQueue[Connection],
        connection: Connection,
        number: int,
        due: float,
    ) -> None:
        try:
            await self.one(connection, number, due)
        finally:
            free.put_nowait(connection)

    async def closed_loop(self) -> None:
        start = time.monotonic()

        async def caller(first: int) -> None:
            connection, number = Connection(self.plan["host"], self.plan["port"]), first
            while not self.over(start):
                await self.one(connection, number, time.monotonic())
                number += 7
            connection.close()

        async with asyncio.TaskGroup() as group:
            for first in range(self.plan.get("callers", 4)):
                group.create_task(caller(first))

    def over(self, start: float) -> bool:
        seconds = self.plan.get("seconds")
        return self.stop.is_set() or (
            seconds is not None and time.monotonic() - start >= seconds
        )

    async def watch_stdin(self) -> None:
        await asyncio.to_thread(sys.stdin.read)
        self.stop.set()


async def main() -> None:
    load = Load(json.loads(sys.stdin.readline()))
    watcher = asyncio.create_task(load.watch_stdin())
    started = time.monotonic()
    await (load.open_loop() if "rate" in load.plan else load.closed_loop())
    result = {**vars(load.tally), "seconds": time.monotonic() - started}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    if not watcher.done():  # a thread blocked in read(): the process ends with it
        sys.stdout.close()
        import os

        os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
