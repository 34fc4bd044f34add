# SPDX-License-Identifier: Apache-2.0
"""A client per device: asks over the Open Inference Protocol and checks every answer.

An answer says which model made it. It is wrong if it differs from what that model file
answers when ONNX Runtime runs it directly; whether the model itself is right is another
matter.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from kedge_controlplane.cli.demo.digits import Digits

PERIOD_S: Final = 0.025  # 40 requests a second from each client
TIMEOUT_S: Final = 15.0
MODEL: Final = "digits"


@dataclass(slots=True)
class Tally:
    """What one client saw."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    latencies_s: list[float] = field(default_factory=list)
    answered_by: dict[str, int] = field(default_factory=dict)  # by model digest
    first_problem: str = ""

    def problem(self, text: str) -> None:
        self.first_problem = self.first_problem or text


class DeviceClient:
    """One keep-alive connection to one device."""

    def __init__(self, url: str, digits: Digits) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S)
        self._digits: Final = digits
        self._expected: Final[Mapping[str, tuple[int, ...]]] = digits.expected()
        self.tally: Final = Tally()

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, image: int) -> int | None:
        """Classify a held-out image; None where the request failed."""
        tally = self.tally
        tally.requests += 1
        started = time.monotonic()
        try:
            response = await self._http.post(
                f"/v2/models/{MODEL}/infer", json=_request(self._digits.images[image])
            )
            response.raise_for_status()
        except httpx.HTTPError as exc:
            tally.failed += 1
            tally.problem(f"image {image}: {exc!r}")
            return None
        tally.latencies_s.append(time.monotonic() - started)
        document = response.json()
        digest = document["parameters"]["kedge_model_digest"]
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        answer = int(outputs["index"][0])
        tally.answered_by[digest] = tally.answered_by.get(digest, 0) + 1
        expected = self._expected.get(digest)
        if expected is None or expected[image] != answer:
            tally.wrong += 1
            tally.problem(f"image {image}: model {digest[:12]} answered {answer}")
        return answer

    async def classify_all(self) -> float:
        """Classify every held-out image; answers the accuracy."""
        answers = [await self.ask(i) for i in range(len(self._digits.images))]
        right = sum(a == t for a, t in zip(answers, self._digits.truth, strict=True))
        return right / len(answers)

    async def keep_asking(self, stop: asyncio.Event) -> None:
        """Ask at a steady pace until told to stop."""
        image, due = 0, time.monotonic()
        while not stop.is_set():
            await self.ask(image)
            image = (image + 1) % len(self._digits.images)
            due = max(due + PERIOD_S, time.monotonic() - PERIOD_S)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def _request(image: bytes) -> dict[str, object]:
    return {
        "inputs": [
            {
                "name": "raw",
                "datatype": "UINT8",
                "shape": [len(image)],
                "data": list(image),
            }
        ]
    }
