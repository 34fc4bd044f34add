# SPDX-License-Identifier: Apache-2.0
"""Everything the server can be told, read once, validated once, passed down.

The only reader of the command line's values and the environment. Values are frozen.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from kedge_controlplane.errors import SettingsError

MAX_PORT: Final = 65535
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s\[\]:/]+)):(\d{1,5})")
_HOST: Final = re.compile(r"[0-9A-Za-z]([0-9A-Za-z:.-]{0,251}[0-9A-Za-z])?")
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound

DATABASE_URL: Final = "KEDGE_DATABASE_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A TCP address; port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        return self.host in _ANY

    @classmethod
    def parse(cls, text: str, *, element: str) -> Self:
        """Read `host:port` or `[v6]:port`.

        Raises:
            SettingsError: Anything else.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match[3]) > MAX_PORT:
            raise SettingsError(
                f"{element}: expected an address host:port, found {text!r:.80}"
            )
        return cls(host=match[1] or match[2], port=int(match[3]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times and bounds of the server, each with its reason."""

    offline_after: timedelta = timedelta(seconds=45)  # four beats missed
    lease_flush: timedelta = timedelta(seconds=5)  # what a crash may forget of beats
    resync: timedelta = timedelta(minutes=5)  # mends what a lost change left undone
    parallel: int = 8  # keys that one controller reconciles at once
    session_grace: timedelta = timedelta(seconds=2)  # for acknowledgements under way
    upkeep: timedelta = timedelta(hours=1)  # certificates and tokens last for days
    keep_tokens: timedelta = timedelta(days=30)  # a device may ask for a lost answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data: Path  # trust, blobs, kubeconfig and, by default, the database
    listen: Address = Address(host="127.0.0.1", port=8443)
    gateway: Address = Address(host="127.0.0.1", port=8444)
    hostnames: tuple[str, ...] = ()  # names and addresses that clients use
    database_url: str
    migrate: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def advertised_host(self) -> str:
        """Where clients are told to connect: the first name given, or what is bound."""
        if self.hostnames:
            return self.hostnames[0]
        return "localhost" if self.listen.is_wildcard else self.listen.host

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """Names and addresses that the server's certificate holds for."""
        bound = (self.listen.host, self.gateway.host)
        specific = (host for host in bound if host not in _ANY)
        names = (*self.hostnames, *specific, "localhost", "127.0.0.1", "::1")
        return tuple(dict.fromkeys(names))


def read_settings(
    *,
    data: Path,
    listen: str = "127.0.0.1:8443",
    gateway: str = "127.0.0.1:8444",
    hostnames: Sequence[str] = (),
    migrate: bool = False,
    environment: Mapping[str, str],
) -> Settings:
    """Check what the command line and the environment say.

    Raises:
        SettingsError: A value is not acceptable; the message names it.
    """
    for name in hostnames:
        if not _HOST.fullmatch(name):
            raise SettingsError(
                f"--hostname: expected a host name or address, found {name!r:.80}"
            )
    folder = data.resolve()
    return Settings(
        data=folder,
        listen=Address.parse(listen, element="--listen"),
        gateway=Address.parse(gateway, element="--gateway"),
        hostnames=tuple(hostnames),
        database_url=environment.get(DATABASE_URL) or database_in(folder),
        migrate=migrate,
    )


def database_in(folder: Path) -> str:
    """Name the SQLite database that a data folder holds."""
    return f"sqlite+aiosqlite:///{folder / 'kedge.db'}"
