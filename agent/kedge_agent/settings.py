# SPDX-License-Identifier: Apache-2.0
"""Everything the supervisor can be told, read once and validated once.

The only module that reads command-line values and the environment. All others are
handed frozen values, so nothing changes while the agent runs and there is nothing to
lock.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from kedge_agent.errors import SettingsError
from kedge_wire.statement import MAX_CONFIG_BYTES

MAX_PORT: Final = 65535
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s\[\]:/]+)):(\d{1,5})")
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A TCP address; port 0 asks the system for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, element: str) -> Self:
        """Read `host:port` or `[v6]:port`.

        Raises:
            SettingsError: Anything else.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match[3]) > MAX_PORT:
            raise SettingsError(
                f"{element}: expected HOST:PORT, found {text!r:.120}", element=element
            )
        return cls(host=match[1] or match[2], port=int(match[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The device's side of mutual TLS, as files so that a renewal needs no restart."""

    key: Path
    certificate: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what we are sent and on what we take of the device."""

    order_bytes: int = 256 * 1024  # room for 64 workloads with their statements
    workloads: int = 64  # more never fit the memory of one device
    component_bytes: int = 32 * _MIB  # what the runtime is willing to compile
    model_bytes: int = 2 * 1024 * _MIB - 1  # protobuf's limit for one ONNX file
    config_bytes: int = MAX_CONFIG_BYTES
    instance_memory_bytes: int = 4 * 1024 * _MIB  # all that 32-bit memory can address
    wall_time_ms: int = 600_000  # a request that takes longer is a batch job
    pool_size: int = 64  # instances of one workload
    warmup_iterations: int = 1000
    min_free_bytes: int = 64 * _MIB  # the device's other programs need room as well
    connections: int = 256  # spliced gRPC connections; more wait in the backlog


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Waits, in seconds. Every wait of the supervisor ends."""

    beat: float = 10.0  # the control plane marks a device Offline after several
    status_poll: float = 5.0  # how soon a lost readiness is seen
    status_report: float = 30.0  # how old request counters in a report may be
    health_window: float = 1.0  # a new generation must stay ready this long
    restart_grace: float = 10.0  # a gRPC connection waits this long for the runtime
    runtime_start: float = 60.0  # imports on a slow SD card
    runtime_stop: float = 10.0  # requests in flight may finish
    runtime_stable: float = 60.0  # one that lived this long was fine
    prepare: float = 600.0  # compiling and warming up on a small core
    control: float = 15.0  # any other answer of the runtime
    introduction: float = 10.0  # Hello waits this long for what the runtime offers
    connect: float = 20.0  # TCP, TLS and the first message
    read: float = 30.0  # silence in a download
    reconnect_min: float = 0.5
    reconnect_max: float = 60.0  # spreads a fleet's reconnects over a minute
    retry_min: float = 1.0
    retry_max: float = 120.0  # between two tries of an order that failed transiently


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `kedge-agent run` was asked to do."""

    state_dir: Path
    enrolment_file: Path | None = None
    serve_http: Address = Address(host="127.0.0.1", port=8000)
    serve_grpc: Address = Address(host="127.0.0.1", port=8001)
    runtime_command: tuple[str, ...] = (sys.executable, "-m", "kedge_agent.runtime")
    limits: Limits = field(default_factory=Limits)
    timing: Timing = field(default_factory=Timing)

    @property
    def identity_dir(self) -> Path:
        return self.state_dir / "identity"

    @property
    def run_dir(self) -> Path:
        """For Unix sockets, where its path leaves room for theirs."""
        return self.state_dir / "run"

    @property
    def journal_path(self) -> Path:
        return self.state_dir / "journal.db"

    @property
    def serving_path(self) -> Path:
        """Where the serving addresses are written for tools."""
        return self.state_dir / "serving.json"

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(
            key=self.identity_dir / "key.pem",
            certificate=self.identity_dir / "cert.pem",
            ca=self.identity_dir / "ca.pem",
        )

    @classmethod
    def read(
        cls,
        *,
        state_dir: Path,
        enrolment_file: Path | None,
        serve_http: str,
        serve_grpc: str,
        environ: Mapping[str, str],
    ) -> Self:
        """Combine the command line with the environment.

        `KEDGE_AGENT_RUNTIME` replaces the runtime's program (a wrapper such as `perf`
        or a cgroup launcher); `KEDGE_AGENT_<FIELD>_SECONDS` sets a field of `Timing`.

        Raises:
            SettingsError: A value that cannot be used, naming it.
        """
        chosen: dict[str, tuple[str, ...]] = {}
        if command := environ.get("KEDGE_AGENT_RUNTIME"):
            chosen["runtime_command"] = _command(command)
        return cls(
            state_dir=state_dir.absolute(),
            enrolment_file=enrolment_file,
            serve_http=Address.parse(serve_http, element="--serve-http"),
            serve_grpc=Address.parse(serve_grpc, element="--serve-grpc"),
            timing=_timing(environ),
            **chosen,  # type: ignore[arg-type]  # one key, of the right type
        )


def _command(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as exc:
        raise SettingsError(
            f"KEDGE_AGENT_RUNTIME: expected a shell-quoted command ({exc})",
            element="KEDGE_AGENT_RUNTIME",
        ) from exc
    if not words:
        raise SettingsError(
            "KEDGE_AGENT_RUNTIME: expected a command, found blanks",
            element="KEDGE_AGENT_RUNTIME",
        )
    return words


def _timing(environ: Mapping[str, str]) -> Timing:
    values: dict[str, float] = {}
    for name in Timing.__slots__:
        variable = f"KEDGE_AGENT_{name.upper()}_SECONDS"
        if (text := environ.get(variable)) is not None:
            values[name] = _seconds(variable, text)
    return Timing(**values)


def _seconds(variable: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:  # noqa: PLR2004  # a day
        raise SettingsError(
            f"{variable}: expected seconds between 0 and 86400, found {text!r:.80}",
            element=variable,
        )
    return value
