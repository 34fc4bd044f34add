# SPDX-License-Identifier: Apache-2.0
"""What the supervisor can say about the device without loading an inference library."""

import os
import platform
import socket
from dataclasses import dataclass

from kedge_wire.v1 import session_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The hardware and system; providers and versions come from the runtime."""

    hostname: str
    architecture: str  # x86_64, aarch64
    operating_system: str
    cpus: int  # that this process may use
    memory_bytes: int

    @classmethod
    def gather(cls) -> "Facts":
        return cls(
            hostname=socket.gethostname(),
            architecture=platform.machine(),
            operating_system=_operating_system(),
            cpus=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        )

    def to_wire(
        self, *, providers: tuple[str, ...] = (), runtime_versions: str = ""
    ) -> session_pb2.Facts:
        return session_pb2.Facts(
            hostname=self.hostname,
            architecture=self.architecture,
            operating_system=self.operating_system,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
            providers=providers,
            runtime_versions=runtime_versions,
        )


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # a minimal image without /etc/os-release
        return f"{platform.system()} {platform.release()}"
