# SPDX-License-Identifier: Apache-2.0
"""Small objects for tests."""

from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet, FleetSpec, Template, TemplateSpec
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.selector import LabelSelector


def device(name: str, *, namespace: str = "default", **labels: str) -> Device:
    return Device(metadata=ObjectMeta(name=name, namespace=namespace, labels=labels))


def fleet(name: str, *, release: str = "r-1") -> Fleet:
    template = Template(spec=TemplateSpec(release=release))
    return Fleet(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=FleetSpec(selector=LabelSelector(), template=template),
    )
