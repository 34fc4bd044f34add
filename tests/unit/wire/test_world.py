# SPDX-License-Identifier: Apache-2.0
"""The world as data against what the WIT compiles to, and what is refused."""

from typing import Final

import pytest
from wasmtime import Config, Engine, wat2wasm
from wasmtime.component import Component

from kedge_wire.inspection import (
    MAX_COMPONENT_BYTES,
    check_component,
    describe,
)
from kedge_wire.statement import TensorSpec
from kedge_wire.world import (
    EXPORTS,
    IMPORTS,
    WORLD,
    ComponentMetadata,
    WorldError,
    check,
)
from tests.unit.agent.components.guests import SHIPPED, guest

LOG_WRITE: Final = (
    "expected func(level: level, message: string), found func(message: string)"
)


def component(text: str) -> bytes:
    return bytes(wat2wasm(f"(component {text})"))


def problems_of(wasm: bytes) -> tuple[str, ...]:
    with pytest.raises(WorldError) as caught:
        check_component(wasm)
    return caught.value.problems


def test_the_world_as_data_is_the_world_that_the_wit_compiles_to() -> None:
    # The linker made the shipped component from wit/kedge-ai; it uses all of the world.
    engine = Engine(Config())
    imports, exports = describe(engine, Component(engine, SHIPPED.read_bytes()))

    def listing(interfaces: object) -> dict[str, str]:
        assert isinstance(interfaces, dict)
        return {
            f"{interface}#{name}": str(item)
            for interface, items in interfaces.items()
            for name, item in items.items()
        }

    assert imports == listing(IMPORTS)
    assert exports == listing(EXPORTS)


def test_the_shipped_component_fits_and_describes_itself() -> None:
    facts = check_component(SHIPPED.read_bytes())

    assert "kedge:ai/inference@0.1.0#[method]model.infer" in facts.imports
    assert facts.metadata.name == "image-classifier"
    assert facts.metadata.accepts == TensorSpec(
        name="raw", datatype="UINT8", shape=(-1,)
    )
    assert [spec.name for spec in facts.metadata.returns] == ["label", "score", "index"]


@pytest.mark.parametrize(
    ("wasm", "problem"),
    [
        (b"", "expected WebAssembly, found bytes "),
        (b"\x7fELF....", "expected WebAssembly, found bytes 7f 45 4c 46"),
        (b"(component)", "expected WebAssembly, found bytes 28 63 6f 6d"),
        (b"\0asm\x07\0\0\0", "expected a component, found version 07 00 00 00"),
        (bytes(wat2wasm("(module)")), "expected a component, found a core module"),
        (SHIPPED.read_bytes()[:9000], "expected a valid component: "),
        (b"\0asm\x0d\0\1\0" + b"\xff" * 64, "expected a valid component: "),
        (
            bytes(MAX_COMPONENT_BYTES + 1),
            f"expected at most {MAX_COMPONENT_BYTES} bytes",
        ),
    ],
    ids=["empty", "elf", "text", "version", "module", "cut", "damaged", "large"],
)
def test_bytes_that_are_no_component_are_named_for_what_they_are(
    wasm: bytes, problem: str
) -> None:
    (found,) = problems_of(wasm)

    assert found.startswith(problem)


def test_every_missing_export_is_named_with_its_type() -> None:
    problems = problems_of(component(""))

    assert problems == tuple(
        f"export {interface}#{name}: expected {item}, found nothing"
        for interface, items in EXPORTS.items()
        for name, item in items.items()
    )
    assert any(
        "found nothing" in p and "#preprocess: expected func(raw: tensor" in p
        for p in problems
    )


def test_an_export_of_another_type_is_named_with_both_types() -> None:
    text = """
      (core module $m (func (export "f") (result i32) i32.const 0))
      (core instance $i (instantiate $m))
      (func $f (result u32) (canon lift (core func $i "f")))
      (instance $l (export "health" (func $f)))
      (export "kedge:ai/lifecycle@0.1.0" (instance $l))"""

    assert (
        "export kedge:ai/lifecycle@0.1.0#health: "
        "expected func() -> result<_, error>, found func() -> u32"
    ) in problems_of(component(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '(import "wasi:http/types@0.2.0" (instance (export "send" (func))))',
            f"import wasi:http/types@0.2.0#send: not provided by world {WORLD}",
        ),
        (
            """(import "kedge:ai/tensors@0.9.0" (instance
              (export "tensor" (type (sub resource)))))""",
            f"import kedge:ai/tensors@0.9.0#tensor: not provided by world {WORLD}",
        ),
        (
            '(import "kedge:ai/log@0.1.0" (instance (export "erase" (func))))',
            f"import kedge:ai/log@0.1.0#erase: not provided by world {WORLD}",
        ),
        (
            """(import "kedge:ai/log@0.1.0" (instance
              (export "write" (func (param "message" string)))))""",
            f"import kedge:ai/log@0.1.0#write: {LOG_WRITE}",
        ),
        (
            '(import "run" (func (param "f" (option u16)) (result char)))',
            f"import run: not provided by world {WORLD}",
        ),
    ],
    ids=["wasi", "version", "function", "type", "root"],
)
def test_an_import_that_is_not_provided_is_named(text: str, problem: str) -> None:
    assert problem in problems_of(component(text))


def test_a_resource_of_the_components_own_is_not_the_hosts() -> None:
    text = """
      (import "kedge:ai/tensors@0.1.0" (instance
        (export "tensor" (type (sub resource)))))
      (type $own (resource (rep i32)))
      (core module $m (func (export "f") (param i32)))
      (core instance $i (instantiate $m))
      (func $f (param "raw" (own $own)) (canon lift (core func $i "f")))
      (component $c
        (import "tensor" (type $t (sub resource)))
        (import "f" (func $f (param "raw" (own $t))))
        (export $x "tensor" (type $t))
        (export "preprocess" (func $f) (func (param "raw" (own $x)))))
      (instance $e (instantiate $c (with "tensor" (type $own)) (with "f" (func $f))))
      (export "kedge:ai/model-component@0.1.0" (instance $e))"""

    assert any(
        problem.endswith("found func(raw: another tensor)")
        for problem in problems_of(component(text))
    )


def test_types_that_unfold_without_end_are_refused() -> None:
    doubled = "".join(f"(type $t{n} (tuple $t{n - 1} $t{n - 1}))" for n in range(1, 18))
    text = f'(type $t0 (tuple u8 u8)) {doubled} (import "f" (func (param "x" $t17)))'

    assert problems_of(component(text)) == ("expected types of at most 50000 parts",)


def test_a_long_list_of_problems_is_cut() -> None:
    functions = "".join(f'(import "f{n}" (func))' for n in range(100))

    problems = problems_of(component(functions))

    assert len(problems) == 21
    assert problems[-1] == "and 86 more"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("(unreachable)", "metadata: .*unreachable"),
        ("(loop $again (br $again)) (unreachable)", "metadata: .*fuel"),
        ("(i32.const 65535)", "metadata: "),
        (
            "(i32.store (i32.const 64) (i32.const 4097)) (i32.const 64)",
            "metadata: expected a name",
        ),
        ("(call $drop (i32.const 1)) (i32.const 64)", "metadata: "),
    ],
    ids=["trap", "loop", "out-of-bounds", "name", "import"],
)
def test_metadata_that_cannot_be_read_is_refused(body: str, problem: str) -> None:
    with pytest.raises(WorldError, match=problem):
        check_component(guest(metadata=body))


def record(**changes: object) -> dict[str, object]:
    spec = {"name": "x", "element-type": "fp32", "shape": [1, -7]}
    return {
        "name": "guest",
        "version": "1.0",
        "accepts": spec,
        "model-inputs": [spec],
        "model-outputs": [],
        "returns": [],
        **changes,
    }


def test_metadata_is_given_with_the_protocols_datatypes() -> None:
    metadata = ComponentMetadata.from_record(record())

    assert metadata.model_inputs == (
        TensorSpec(name="x", datatype="FP32", shape=(1, -1)),
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "No Name"}, "expected a name like"),
        ({"version": ""}, "a version like"),
        (
            {"returns": [record()["accepts"]] * 65},
            "returns: expected at most 64, found 65",
        ),
        (
            {"accepts": {"name": "x" * 300, "element-type": "fp32", "shape": []}},
            "at most 256 characters",
        ),
        (
            {"accepts": {"name": "x", "element-type": "fp32", "shape": [1] * 17}},
            "16 dimensions, found 1 and 17",
        ),
    ],
    ids=["name", "version", "many", "long", "rank"],
)
def test_metadata_beyond_its_limits_is_refused(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(WorldError, match=problem):
        ComponentMetadata.from_record(record(**changes))


def test_a_component_may_export_more_than_the_world_asks_for() -> None:
    exports = {
        f"{i}#{n}": str(x) for i, items in EXPORTS.items() for n, x in items.items()
    }

    assert check({}, {**exports, "extra#f": "func()"}) == []


def test_names_are_charged_as_often_as_types_repeat_them() -> None:
    functions = "".join(f'(import "f{i}" (func (type $long)))' for i in range(300))
    parameter = "x" * 4000

    (problem,) = problems_of(
        component(f'(type $long (func (param "{parameter}" u8))) {functions}')
    )

    assert problem == "expected names of at most 1000000 characters in all"


def test_a_problem_repeats_little_of_what_was_found() -> None:
    problems = problems_of(component(f'(import "{"x" * 4000}" (func))'))

    assert max(map(len, problems)) < 1000
    assert problems[0].startswith(f"import {'x' * 400}...: not provided")


def test_resource_types_are_counted() -> None:
    resources = "".join(f'(import "r{i}" (type (sub resource)))' for i in range(600))

    (problem,) = problems_of(component(resources))

    assert problem == "expected at most 500 resource types"
