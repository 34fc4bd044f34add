# SPDX-License-Identifier: Apache-2.0
"""Components from a few lines of WAT: the shipped one with another core module in it.

The shipped component brings the world's types and the glue; what is written here is a
core module with the same exports, whose functions do what a test needs. Its memory:
metadata at 64, texts from 256, results of host functions at 1024, answers at 2048, and
what the host allocates from 4096 on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wasmtime import wat2wasm

ROOT: Final = Path(__file__).parents[4]
SHIPPED: Final = ROOT / "wit/components/image-classifier/image-classifier.wasm"

CORE_MODULE: Final = 1
"""Number of the section that holds a core module; the first is the component's."""

OK: Final = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.const 2048)"
"""Ok, with an empty list."""

REFUSED: Final = """
    (i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2052) (i32.const {case}))
    (i32.store (i32.const 2056) (i32.const 256))
    (i32.store (i32.const 2060) (i32.const 6))
    (i32.const 2048)"""
"""The error of a case, with the message "guest!"."""

IMPORTS: Final = """
  (import "kedge:ai/tensors@0.1.0" "[static]tensor.create"
    (func $create (param i32 i32 i32 i32 i32 i32)))
  (import "kedge:ai/tensors@0.1.0" "[method]tensor.shape" (func $shape (param i32 i32)))
  (import "kedge:ai/tensors@0.1.0" "[method]tensor.read" (func $read (param i32 i32)))
  (import "kedge:ai/tensors@0.1.0" "[method]tensor.reshape"
    (func $reshape (param i32 i32 i32 i32)))
  (import "kedge:ai/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))
  (import "kedge:ai/inference@0.1.0" "[static]model.load"
    (func $load (param i32 i32 i32)))
  (import "kedge:ai/inference@0.1.0" "[method]model.infer"
    (func $infer (param i32 i32 i32 i32)))
  (import "kedge:ai/log@0.1.0" "write" (func $log (param i32 i32 i32)))"""

PASS_ON: Final = """
    (i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2052) (i32.load8_u (i32.const 1028)))
    (i32.store (i32.const 2056) (i32.load (i32.const 1032)))
    (i32.store (i32.const 2060) (i32.load (i32.const 1036)))
    (i32.const 2048)"""
"""The error that a host function left at 1024."""

_CORE: Final = """(module {imports}
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 4096))
  (global $kept (mut i32) (i32.const 0))
  (data (i32.const 256) "guest!")
  (data (i32.const 264) "default")
  (data (i32.const 64) "\\00\\01\\00\\00\\05\\00\\00\\00")
  (data (i32.const 72) "\\00\\01\\00\\00\\05\\00\\00\\00")
  (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  {functions})"""

_SIGNATURES: Final[Mapping[str, str]] = {
    "kedge:ai/model-component@0.1.0#metadata": "",
    "kedge:ai/model-component@0.1.0#preprocess": "(param i32 i32 i32)",
    "kedge:ai/model-component@0.1.0#forward": "(param i32 i32 i32 i32)",
    "kedge:ai/model-component@0.1.0#postprocess": "(param i32 i32 i32 i32)",
    "kedge:ai/lifecycle@0.1.0#configure": "(param i32 i32)",
    "kedge:ai/lifecycle@0.1.0#health": "",
}


def guest(*, start: str = "", more: str = "", **bodies: str) -> bytes:
    """Make a component; a function that is not given answers ok with nothing.

    Args:
        start: Instructions that run when the component is instantiated.
        more: Further definitions of the core module.
        bodies: Instructions of the exported functions, by their names.
    """
    functions = [
        f'(func (export "{name}") {params} (result i32) (local $i i32) {body})'
        for name, params in _SIGNATURES.items()
        for body in [bodies.pop(name.split("#")[1], _default(name))]
    ]
    if bodies:
        raise TypeError(f"no such functions: {bodies}")
    if start:
        functions.append(f"(func $start {start}) (start $start)")
    core = _CORE.format(imports=IMPORTS, functions="\n".join([*functions, more]))
    return splice(SHIPPED.read_bytes(), bytes(wat2wasm(core)))


def splice(component: bytes, core: bytes) -> bytes:
    """Put another core module in place of the first."""
    position = 8
    while component[position] != CORE_MODULE:
        length, body = _leb128(component, position + 1)
        position = body + length
    length, body = _leb128(component, position + 1)
    section = bytes([CORE_MODULE]) + _as_leb128(len(core)) + core
    return component[:position] + section + component[body + length :]


def _default(name: str) -> str:
    return "(i32.const 64)" if name.endswith("#metadata") else OK


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position


def _as_leb128(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
