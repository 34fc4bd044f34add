# SPDX-License-Identifier: Apache-2.0
"""What operators may change, as the registry declares it, and what is in use.

A version never changes: what somebody names cannot be deleted and made anew with other
content.
"""

from kedge_controlplane.errors import ForbiddenError, InvalidError
from kedge_controlplane.model.meta import GROUP, Resource
from kedge_controlplane.model.registry import KINDS, Kind
from kedge_controlplane.store.transaction import Transaction

_SHOWN = 8  # users of an object that a refusal names


def check_may_create(kind: Kind) -> None:
    """Raise ForbiddenError where only controllers create."""
    if not kind.operators.create:
        raise _forbidden(kind, "", f"operators may not create {kind.plural}")


def check_may_update(kind: Kind) -> None:
    """Raise ForbiddenError where operators change nothing."""
    if not kind.operators.update:
        raise _forbidden(kind, "", f"operators may not change {kind.plural}")


def check_spec(kind: Kind, new: Resource, old: Resource | None) -> None:
    """Raise ForbiddenError where an operator sets a spec that controllers set."""
    if kind.operators.spec:
        return
    before = kind.model.model_validate({"kind": kind.kind}) if old is None else old
    if new.to_wire().get("spec") != before.to_wire().get("spec"):
        text = f"operators may change labels and annotations of {kind.plural}, not spec"
        raise _forbidden(kind, new.name, text)


def status_refused(kind: Kind, name: str) -> ForbiddenError:
    return ForbiddenError(
        f"operators may not write the status of {kind.plural}: controllers do",
        kind=kind.plural,
        name=name,
    )


async def check_may_delete(
    kind: Kind, namespace: str, name: str, transaction: Transaction
) -> None:
    """Raise unless an operator may delete this object now.

    Raises:
        ForbiddenError: Controllers delete it, or it has not ended.
        InvalidError: Another object names it.
        NotFoundError: There is no such object.
    """
    found = await transaction.get(kind.model, namespace, name)
    rights = kind.operators
    if not (rights.delete and rights.deletable(found.to_wire())):
        raise _forbidden(kind, name, f"operators may not delete {kind.plural} {name}")
    users = await _users(kind, namespace, name, transaction)
    if users:
        more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
        raise InvalidError(
            f'{kind.plural}.{GROUP} "{name}" is in use by '
            f"{', '.join(users[:_SHOWN])}{more}: delete or change that first",
            kind=kind.plural,
            name=name,
        )


async def _users(
    kind: Kind, namespace: str, name: str, transaction: Transaction
) -> list[str]:
    """The objects that name this one."""
    users = []
    for other in KINDS:
        for reference in other.references:
            if reference.kind != kind.kind:
                continue
            page = await transaction.list(other.model, namespace=namespace)
            users += [
                f"{other.singular} {user.name}"
                for user in page.items
                if name in reference.names(user.to_wire())
            ]
    return users


def _forbidden(kind: Kind, name: str, what: str) -> ForbiddenError:
    return ForbiddenError(
        f"{what}: {kind.operators.otherwise}", kind=kind.plural, name=name
    )
