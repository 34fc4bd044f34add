# SPDX-License-Identifier: Apache-2.0
"""What an inspection found: facts about an artifact, or what is wrong with it.

A report crosses from the process that looked into hostile bytes to the one that
decides, so it has a JSON form, and reading that form trusts nothing in it.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from kedge_wire.statement import TensorSpec

MAX_REPORT_BYTES: Final = 4 * 1024 * 1024
"""Room for thousands of tensors; more is not a report of ours."""

MAX_PROBLEMS: Final = 50
"""Nobody reads more; the rest shows when these are mended."""


class ReportError(Exception):
    """Bytes that are not a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong; `path` is a configuration's member, "" for all of it."""

    message: str
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Facts where `problems` is empty; otherwise only the problems count.

    `inputs` and `outputs` are a model's own, or what a component asks of its model.
    `name` and `version` are what a component says of itself.
    """

    problems: tuple[Problem, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    name: str = ""
    version: str = ""

    @classmethod
    def of_problems(cls, *messages: str) -> Self:
        return cls(problems=tuple(Problem(message=m) for m in messages[:MAX_PROBLEMS]))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a report.

        Raises:
            ReportError: Too large, or not of this shape.
        """
        if len(text) > MAX_REPORT_BYTES:
            raise ReportError(f"expected at most {MAX_REPORT_BYTES} bytes")
        try:
            document = json.loads(text)
            return cls(
                problems=tuple(
                    Problem(message=str(p["message"]), path=str(p["path"]))
                    for p in document["problems"][:MAX_PROBLEMS]
                ),
                inputs=_specs(document["inputs"]),
                outputs=_specs(document["outputs"]),
                name=str(document["name"]),
                version=str(document["version"]),
            )
        except (ValueError, LookupError, TypeError, RecursionError) as exc:
            raise ReportError("expected a report in JSON") from exc


def _specs(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=str(item["name"]),
            datatype=str(item["datatype"]),
            shape=tuple(int(d) for d in item["shape"]),
        )
        for item in items
    )
