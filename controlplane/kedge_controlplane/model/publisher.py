# SPDX-License-Identifier: Apache-2.0
"""PublisherKey: the public half of a key that may sign this namespace's artifacts."""

from typing import Literal

from pydantic import Field

from kedge_controlplane.model.meta import KedgeModel, Resource


class PublisherKeySpec(KedgeModel):
    """In securesystemslib's terms; the private half stays with its owner."""

    keyid: str = Field(pattern=r"^[0-9a-f]{64}$")
    keytype: Literal["ed25519", "ecdsa", "rsa"]
    scheme: str = Field(max_length=64)
    public: str = Field(max_length=4096, description="As in keyval.public.")


class PublisherKey(Resource):
    """A key whose artifacts the server takes in.

    Devices trust the keys that they were enrolled with, not these.
    """

    kind: Literal["PublisherKey"] = "PublisherKey"
    spec: PublisherKeySpec
