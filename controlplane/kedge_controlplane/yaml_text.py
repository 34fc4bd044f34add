# SPDX-License-Identifier: Apache-2.0
"""YAML as Kubernetes reads it, of which only what JSON can say is understood.

Text that looks like a date stays text, a member twice is refused rather than half
ignored, and so is every tag but those of JSON's types. Nesting is bounded before
anything is built: the parser recurses.
"""

from collections.abc import Iterator
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 64  # our deepest kind needs 12; JSON Schemas a few more

_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = ("null", "bool", "int", "float")


class _Loader(yaml.CSafeLoader):
    """Knows JSON's types and nothing else."""

    yaml_constructors = {}  # noqa: RUF012 - filled below, as PyYAML does


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if "timestamp" not in tag]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    # A tag may claim anything; PyYAML's constructors believe it.
    meant = loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's stubs
    if meant != node.tag:
        raise yaml.MarkedYAMLError(
            problem=f"{node.value!r:.40} is no {node.tag.removeprefix(_TAG)}",
            problem_mark=node.start_mark,
        )
    return yaml.CSafeLoader.yaml_constructors[node.tag](loader, node)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(
                problem="a member's name is no text", problem_mark=key_node.start_mark
            )
        if key_node.value in seen and key_node.value != "<<":
            raise yaml.MarkedYAMLError(
                problem=f"member {key_node.value!r:.80} is there twice",
                problem_mark=key_node.start_mark,
            )
        seen.add(key_node.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _unknown(loader: _Loader, node: yaml.Node) -> Any:
    del loader
    raise yaml.MarkedYAMLError(
        problem=f"expected a type that JSON has, found {node.tag!r:.80}",
        problem_mark=node.start_mark,
    )


for _name in _SCALARS:
    _Loader.add_constructor(f"{_TAG}{_name}", _scalar)
for _name in ("str", "seq"):
    _Loader.add_constructor(
        f"{_TAG}{_name}", yaml.CSafeLoader.yaml_constructors[f"{_TAG}{_name}"]
    )
_Loader.add_constructor(f"{_TAG}map", _mapping)
_Loader.add_constructor(None, _unknown)


def load(text: bytes) -> Any:
    """Read one document without aliases: a few of them unfold to gigabytes.

    Raises:
        ValueError: It is not one, it nests too deeply, or it has aliases.
    """
    documents = list(_loaded(text, aliases=False))
    if len(documents) > 1:
        raise ValueError(f"expected one document, found {len(documents)}")
    return documents[0] if documents else None


def load_all(text: bytes) -> Iterator[Any]:
    """Read documents whose aliases share what they name; ValueError as above."""
    return _loaded(text, aliases=True)


def _loaded(text: bytes, *, aliases: bool) -> Iterator[Any]:
    try:
        _check_events(text, aliases=aliases)
        yield from yaml.load_all(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _check_events(text: bytes, *, aliases: bool) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise ValueError("expected YAML without aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"expected at most {MAX_DEPTH} levels of nesting")
