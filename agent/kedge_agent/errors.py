# SPDX-License-Identifier: Apache-2.0
"""Everything the agent raises, by whose fault it is.

AgentError
  x PeerDataError            what we were sent is wrong; sending it again will not help
    - UntrustedError         no trusted key signed it
    - RefusedOrderError      addressed, aged or numbered in a way we must refuse
    - CorruptArtifactError   bytes differ from the digest or length that was signed
    - ComponentError         not a component, or not of our world
    - ModelError             not a model we can load, or it does not fit its component
    - ConfigError            a component refused its configuration
    - ProviderError          the required execution provider is not the one used
    - RuntimeRefusedError    the runtime does not serve a generation, and says why
  x NetworkError             try again later
  x LocalError               this device
    - DiskFullError          no space for what is needed; nothing was changed
    - StateError             our own records cannot be read or written
    - RuntimeLostError       the runtime process died or does not answer
    - UnreadableError        the disk does not give us a file now
    - OutOfMemoryError       no memory for what is needed
    - SettingsError          our own configuration
  x RequestError             one inference request; its caller gets it
    - InvalidRequestError    names, types, shapes or sizes
    - NotFoundError          no such model or version
    - OverloadedError        a bound was reached: queue, time, memory
    - GuestError             the component answered an error
    - TrapError              the component trapped; its instance is replaced

Each carries the gRPC status name that status and protocols show. Foreign exceptions are
translated once, where they enter, with `from exc`.
"""

from typing import ClassVar


class AgentError(Exception):
    """Base: `element` names what it is about (a workload, digest, file or field)."""

    code: ClassVar[str] = "INTERNAL"
    next_step: ClassVar[str] = ""

    def __init__(self, message: str, *, element: str = "") -> None:
        super().__init__(message)
        self.element = element

    def diagnostics(self) -> str:
        """The message, and what a person can do about it."""
        return f"{self}\n{self.next_step}" if self.next_step else str(self)


class PeerDataError(AgentError):
    code = "INVALID_ARGUMENT"


class UntrustedError(PeerDataError):
    code = "PERMISSION_DENIED"
    next_step = "Sign it with a publisher key that this device was enrolled with."


class RefusedOrderError(PeerDataError):
    code = "FAILED_PRECONDITION"


class CorruptArtifactError(PeerDataError):
    code = "DATA_LOSS"
    next_step = "Push the artifact again; the stored copy is not what was signed."


class ComponentError(PeerDataError):
    next_step = "Build it against wit/kedge-ai, world `model`."


class ModelError(PeerDataError):
    pass


class ConfigError(PeerDataError):
    pass


class ProviderError(PeerDataError):
    code = "FAILED_PRECONDITION"
    next_step = "Install the provider's package on the device, or require another one."


class RuntimeRefusedError(PeerDataError):
    """Carries the part of the runtime that refused, and its gRPC status name."""

    def __init__(
        self, message: str, *, element: str = "", component: str, status: str
    ) -> None:
        super().__init__(message, element=element)
        self.component = component
        self.status = status


class NetworkError(AgentError):
    code = "UNAVAILABLE"


class LocalError(AgentError):
    pass


class DiskFullError(LocalError):
    code = "RESOURCE_EXHAUSTED"
    next_step = "Free space on the device; the agent goes on by itself."


class StateError(LocalError):
    code = "DATA_LOSS"
    next_step = (
        "Check the disk. If it is healthy, move the state directory away and enrol the "
        "device again."
    )


class RuntimeLostError(LocalError):
    code = "UNAVAILABLE"


class UnreadableError(LocalError):
    code = "UNAVAILABLE"


class OutOfMemoryError(LocalError):
    code = "RESOURCE_EXHAUSTED"


class SettingsError(LocalError):
    code = "INVALID_ARGUMENT"


class RequestError(AgentError):
    pass


class InvalidRequestError(RequestError):
    code = "INVALID_ARGUMENT"


class NotFoundError(RequestError):
    code = "NOT_FOUND"


class OverloadedError(RequestError):
    code = "RESOURCE_EXHAUSTED"


class GuestError(RequestError):
    code = "INTERNAL"


class TrapError(RequestError):
    code = "INTERNAL"
