# SPDX-License-Identifier: Apache-2.0
"""A publisher's statement: these bytes are this version of this artifact.

`kedge push` signs one per artifact; the control plane checks it on the way in and the
device before use. The payload is canonical JSON (sorted keys, no spaces, UTF-8), the
envelope DSSE.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeGuard

MAX_STATEMENT_BYTES: Final = 256 * 1024
"""Room for a thousand labels; the limit is checked before parsing."""

MAX_CONFIG_BYTES: Final = 64 * 1024
"""The largest configuration that a device takes: settings, not a data set."""

MAX_LABELS: Final = 100_000
MAX_TENSORS: Final = 256  # inputs, or outputs
MAX_RANK: Final = 16
MAX_TENSOR_NAME: Final = 256  # characters
MAX_INTEGER: Final = 2**63 - 1  # of a length or a dimension
SHA256: Final = re.compile(r"[0-9a-f]{64}")
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VERSION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
DATATYPES: Final = frozenset(
    {
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BYTES",
    }
)


class StatementError(Exception):
    """A statement that does not parse or does not hold together."""


class ArtifactKind(StrEnum):
    """What the bytes are."""

    COMPONENT = "component"  # a WebAssembly component
    MODEL = "model"  # an ONNX model
    CONFIG = "config"  # a JSON object


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, Open Inference Protocol datatype and shape; -1 is any size, "" any name."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        dims = ",".join("?" if d < 0 else str(d) for d in self.shape)
        return f"{self.name or '*'} {self.datatype}[{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a publisher signs.

    `inputs` and `outputs` are a model's own signature, or the signature that a
    component asks of its model. `labels` belong to a model version and reach the
    component as configuration.
    """

    kind: ArtifactKind
    namespace: str
    name: str
    version: str
    sha256: str
    length: int  # bytes
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    labels: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}@{self.version}"

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        document = {"statement": 1, **asdict(self)}
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse and check a statement.

        Raises:
            StatementError: Too large, not JSON, or a member that is missing, unknown or
                wrong.
        """
        if len(payload) > MAX_STATEMENT_BYTES:
            raise StatementError(
                f"statement: expected at most {MAX_STATEMENT_BYTES} bytes, "
                f"found {len(payload)}"
            )
        try:
            document = json.loads(payload.decode())
            json.dumps(document, ensure_ascii=False).encode()  # no lone surrogates
        except (ValueError, RecursionError) as exc:
            raise StatementError(f"statement: expected JSON in UTF-8 ({exc})") from exc
        if not isinstance(document, dict):
            raise StatementError("statement: expected a JSON object")
        if document.pop("statement", None) != 1:
            raise StatementError("statement: expected member 'statement' to be 1")
        expected = set(cls.__slots__)
        if set(document) != expected:
            odd = ", ".join(sorted(set(document) ^ expected))
            raise StatementError(f"statement: unknown or missing members: {odd}")
        return cls(
            kind=_kind(document["kind"]),
            namespace=_matching(document, "namespace", NAME),
            name=_matching(document, "name", NAME),
            version=_matching(document, "version", VERSION),
            sha256=_matching(document, "sha256", SHA256),
            length=_length(document["length"]),
            inputs=_specs(document, "inputs"),
            outputs=_specs(document, "outputs"),
            labels=_labels(document["labels"]),
        )


def mismatch(
    wanted: tuple[TensorSpec, ...], offered: tuple[TensorSpec, ...], *, side: str
) -> str | None:
    """Say how a model's signature does not fit a component's; None where it does.

    Args:
        wanted: What the component asks for. An empty name matches any, -1 any size.
        offered: The model's own. -1 (a symbolic dimension) fits any wanted size.
        side: `inputs` or `outputs`, for the message.
    """
    if len(wanted) != len(offered):
        return (
            f"{side}: the component expects {len(wanted)}, the model has {len(offered)}"
        )
    by_name = {spec.name: spec for spec in offered}
    for position, want in enumerate(wanted):
        found = by_name.get(want.name) if want.name else offered[position]
        if found is None:
            names = ", ".join(by_name)
            return (
                f"{side}: the component expects a tensor named {want.name}, "
                f"the model has {names}"
            )
        same_rank = len(want.shape) == len(found.shape)
        fits = same_rank and all(
            w < 0 or f < 0 or w == f
            for w, f in zip(want.shape, found.shape, strict=True)
        )
        if want.datatype != found.datatype or not fits:
            return f"{side}: the component expects {want}, the model has {found}"
    return None


def _kind(value: Any) -> ArtifactKind:
    try:
        return ArtifactKind(value)
    except ValueError as exc:
        raise StatementError(f"statement: kind: found {value!r:.80}") from exc


def _matching(document: dict[str, Any], member: str, pattern: re.Pattern[str]) -> str:
    value = document[member]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise StatementError(
            f"statement: {member}: expected {pattern.pattern}, found {value!r:.80}"
        )
    return value


def _length(value: Any) -> int:
    if not _is_integer(value, least=0):
        raise StatementError(f"statement: length: expected bytes, found {value!r:.80}")
    return value


def _is_integer(value: Any, *, least: int) -> TypeGuard[int]:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and least <= value <= MAX_INTEGER


def _labels(value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or len(value) > MAX_LABELS
        or not all(isinstance(label, str) for label in value)
    ):
        raise StatementError("statement: labels: expected a list of strings")
    return tuple(value)


def _specs(document: dict[str, Any], member: str) -> tuple[TensorSpec, ...]:
    value = document[member]
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise StatementError(
            f"statement: {member}: expected a list of at most {MAX_TENSORS} tensors"
        )
    return tuple(_spec(item, member) for item in value)


def _spec(item: Any, member: str) -> TensorSpec:
    if not isinstance(item, dict) or set(item) != {"name", "datatype", "shape"}:
        raise StatementError(
            f"statement: {member}: expected name, datatype and shape, "
            f"found {item!r:.80}"
        )
    name, datatype, shape = item["name"], item["datatype"], item["shape"]
    if not isinstance(name, str) or len(name) > MAX_TENSOR_NAME:
        raise StatementError(
            f"statement: {member}: name: expected at most {MAX_TENSOR_NAME} "
            f"characters, found {name!r:.80}"
        )
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise StatementError(
            f"statement: {member}: datatype: expected one of "
            f"{', '.join(sorted(DATATYPES))}, found {datatype!r:.80}"
        )
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(_is_integer(dimension, least=-1) for dimension in shape)
    ):
        raise StatementError(
            f"statement: {member}: shape: expected at most {MAX_RANK} integers of at "
            f"least -1, found {shape!r:.80}"
        )
    return TensorSpec(name=name, datatype=datatype, shape=tuple(shape))
