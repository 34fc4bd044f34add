# SPDX-License-Identifier: Apache-2.0
"""Every kind, once: plural, short names, printer columns, who may change what of it.

Routes, tables, discovery, validation and operators' rights come from this list. A new
kind is one model file, one entry here and one migration.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from kedge_controlplane.model.component_version import Component, ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.enrollment import EnrollmentRequest
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.model_version import Model, ModelVersion
from kedge_controlplane.model.publisher import PublisherKey
from kedge_controlplane.model.release import Release
from kedge_controlplane.model.rollout import Rollout
from kedge_controlplane.model.template_version import TemplateVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One printer column; priority > 0 is shown with -o wide."""

    name: str
    value: Callable[[dict[str, Any]], str | int]
    type: str = "string"
    priority: int = 0


def _always(document: dict[str, Any]) -> bool:
    del document
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorWrites:
    """What operators may do through the API; the rest, and every status, is not theirs.

    Controllers write through the store and are not bound by it.
    """

    create: bool = True
    update: bool = True
    spec: bool = True  # False: of what they may write, the metadata only
    delete: bool = True
    deletable: Callable[[dict[str, Any]], bool] = _always  # by its document
    otherwise: str = ""  # who does what operators may not


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name of another object, which stays as long as it is named."""

    kind: str
    names: Callable[[dict[str, Any]], Iterable[str]]  # from the document


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    model: type[Resource]
    plural: str
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = field(default=())
    immutable_spec: bool = False
    """A new version is a new object; spec changes are refused."""
    operators: OperatorWrites = OperatorWrites()
    references: tuple[Reference, ...] = ()

    @property
    def kind(self) -> str:
        return self.model.__name__

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def has_status(self) -> bool:
        return "status" in self.model.model_fields


def _at(*path: str) -> Callable[[dict[str, Any]], str | int]:
    def read(document: dict[str, Any]) -> str | int:
        value: Any = document
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value if isinstance(value, str | int) else ""

    return read


def _column(name: str, *path: str, priority: int = 0) -> Column:
    return Column(name=name, value=_at(*path), priority=priority)


def _models(document: dict[str, Any]) -> str:
    workloads = document.get("status", {}).get("running", {}).get("workloads", [])
    return ",".join(workload.get("model", "") for workload in workloads)


def _batches(document: dict[str, Any]) -> str:
    batches = document.get("status", {}).get("batches", [])
    done = sum(batch.get("phase") == "Completed" for batch in batches)
    return f"{done}/{len(batches)}"


def _trouble(document: dict[str, Any]) -> str:
    """Why a fleet needs a person: its specification, or who else owns its devices."""
    reasons = [
        condition.get("reason", "")
        for condition in document.get("status", {}).get("conditions", [])
        if (condition.get("type"), condition.get("status")) in _TROUBLE
    ]
    return ",".join(reasons)


def _up_to_date(document: dict[str, Any]) -> str:
    counts = document.get("status", {}).get("devices", {})
    return f"{counts.get('upToDate', 0)}/{counts.get('total', 0)}"


def _in_workloads(member: str) -> Callable[[dict[str, Any]], Iterable[str]]:
    def read(document: dict[str, Any]) -> Iterable[str]:
        return [workload[member] for workload in document["spec"]["workloads"]]

    return read


def _released(document: dict[str, Any]) -> Iterable[str]:
    return [document["spec"]["template"]["spec"]["release"]]


def _ended(document: dict[str, Any]) -> bool:
    return document.get("status", {}).get("phase") in ("Completed", "Aborted")


_TROUBLE: Final = (("SpecValid", "False"), ("MultipleOwners", "True"))

_VERSION = (
    _column("Version", "spec", "version"),
    _column("Digest", "spec", "artifact", "sha256", priority=1),
)

KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        model=Device,
        plural="devices",
        short_names=("dev",),
        columns=(
            _column("Status", "status", "summary", "status"),
            _column("Updated", "status", "updated", "status"),
            Column(name="Model", value=_models),
            _column("Fleet", "spec", "fleet"),
            _column("Hostname", "status", "systemInfo", "hostname", priority=1),
            _column("Info", "status", "updated", "info", priority=1),
            _column("Serving", "status", "serving", "http", priority=1),
        ),
        operators=OperatorWrites(
            spec=False, otherwise="rollouts decide what a device shall run"
        ),
    ),
    Kind(
        model=EnrollmentRequest,
        plural="enrollmentrequests",
        short_names=("er",),
        columns=(
            _column("Phase", "status", "phase"),
            _column("Device", "status", "device"),
            _column("Hostname", "spec", "hostname"),
        ),
        immutable_spec=True,
        operators=OperatorWrites(
            create=False,
            otherwise="a device makes its own with a token: `kedge enroll`",
        ),
    ),
    Kind(
        model=PublisherKey,
        plural="publisherkeys",
        short_names=("pk",),
        columns=(
            _column("Scheme", "spec", "scheme"),
            _column("KeyID", "spec", "keyid"),
        ),
        immutable_spec=True,
    ),
    Kind(model=Model, plural="models"),
    Kind(
        model=ModelVersion,
        plural="modelversions",
        short_names=("mv",),
        columns=(_column("Model", "spec", "model"), *_VERSION),
        immutable_spec=True,
    ),
    Kind(model=Component, plural="components"),
    Kind(
        model=ComponentVersion,
        plural="componentversions",
        short_names=("cv",),
        columns=(_column("Component", "spec", "component"), *_VERSION),
        immutable_spec=True,
    ),
    Kind(
        model=ConfigSet,
        plural="configsets",
        short_names=("cs",),
        columns=(_column("Config", "spec", "config"), *_VERSION),
        immutable_spec=True,
    ),
    Kind(
        model=Release,
        plural="releases",
        short_names=("rel",),
        immutable_spec=True,
        references=(
            Reference(kind="ComponentVersion", names=_in_workloads("component")),
            Reference(kind="ModelVersion", names=_in_workloads("model")),
            Reference(kind="ConfigSet", names=_in_workloads("config")),
        ),
    ),
    Kind(
        model=Fleet,
        plural="fleets",
        short_names=("fl",),
        columns=(
            _column("Release", "spec", "template", "spec", "release"),
            Column(name="UpToDate", value=_up_to_date),
            _column("Rollout", "status", "rollout"),
            Column(name="Status", value=_trouble),
        ),
        references=(Reference(kind="Release", names=_released),),
    ),
    Kind(
        model=TemplateVersion,
        plural="templateversions",
        short_names=("tv",),
        columns=(
            _column("Fleet", "spec", "fleet"),
            _column("Release", "spec", "release"),
        ),
        immutable_spec=True,
        operators=OperatorWrites(
            create=False,
            update=False,
            delete=False,
            otherwise="fleets make them from their templates",
        ),
    ),
    Kind(
        model=Rollout,
        plural="rollouts",
        short_names=("ro",),
        columns=(
            _column("Fleet", "spec", "fleet"),
            _column("Phase", "status", "phase"),
            Column(name="Batches", value=_batches),
            _column("Message", "status", "message", priority=1),
        ),
        immutable_spec=True,
        operators=OperatorWrites(
            create=False,
            update=False,
            deletable=_ended,
            otherwise="fleets start and end them, and one that ended can be deleted",
        ),
    ),
)

BY_PLURAL: Final = {kind.plural: kind for kind in KINDS}
BY_KIND: Final = {kind.kind: kind for kind in KINDS}


def kind_of(resource: Resource | type[Resource]) -> Kind:
    """The registry's entry of an object or its class."""
    cls = resource if isinstance(resource, type) else type(resource)
    return BY_KIND[cls.__name__]
