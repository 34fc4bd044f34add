# SPDX-License-Identifier: Apache-2.0
"""Tensor operations against plain statements of what they mean."""

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kedge_agent.host import operations
from kedge_agent.host.refusal import Reason, Refusal
from kedge_agent.host.tensors import TensorLimits, TensorTable
from kedge_agent.inference.datatypes import DTYPES
from kedge_wire.world import DATATYPES

NUMERIC = [DTYPES[name] for name in DTYPES if name not in ("BOOL", "BYTES")]
shapes = npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)
small = st.integers(0, 3)  # few values, many ties


def arrays() -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(st.sampled_from(NUMERIC), shapes, elements=small)


@given(array=arrays(), data=st.data())
def test_top_k_is_a_stable_sort_cut_short(
    array: np.ndarray, data: st.DataObject
) -> None:
    last = array.shape[-1]
    k = data.draw(st.integers(1, last))

    values, indices = operations.top_k(array, k)

    assert values.dtype == np.float32
    assert indices.dtype == np.int64
    for position in np.ndindex(array.shape[:-1]):
        row = array[position].tolist()
        wanted = sorted(range(last), key=lambda i: (-row[i], i))[:k]
        assert indices[position].tolist() == wanted
        assert values[position].tolist() == [float(row[i]) for i in wanted]


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8", "|u1", "<u8"])
@pytest.mark.parametrize("k", [1, 5, 69_990, 70_000])
def test_top_k_of_long_rows_keeps_the_rule_for_equal_ones(dtype: str, k: int) -> None:
    random = np.random.default_rng(7)
    rows = random.integers(0, 50, (2, 70_000)).astype(dtype)
    if rows.dtype.kind == "f":
        rows[random.random(rows.shape) < 0.1] = np.nan

    _, indices = operations.top_k(rows, k)

    wanted = np.argsort(-rows.astype(np.float64), axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, wanted)


@pytest.mark.parametrize("k", [5, 500_000])
def test_top_k_takes_no_more_memory_than_it_is_charged(k: int) -> None:
    row = np.random.default_rng(7).random(500_000, np.float32)

    tracemalloc.start()
    operations.top_k(row, k)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak <= operations.top_k_bytes(row, k)
    assert operations.top_k_bytes(row, 5) < 7 * row.nbytes


def test_no_elements_in_a_shape_that_nothing_can_hold_are_refused() -> None:
    empty = np.empty(0, np.float32)
    huge = [0, 2**32 - 1, 2**32 - 1, 2**32 - 1]

    with pytest.raises(Refusal, match="that NumPy can hold") as caught:
        operations.reshape(empty, huge)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    for element in ("fp32", "bytes"):
        with pytest.raises(Refusal, match="that NumPy can hold"):
            operations.from_bytes(huge, element, b"")


def test_numbers_behind_handles_run_out_before_they_are_used_twice() -> None:
    table = TensorTable(TensorLimits())
    table._last = 2**32 - 2

    assert table.worn_out
    assert table.add(np.zeros(1)) == 2**32 - 1
    with pytest.raises(Refusal, match="used up"):
        table.add(np.zeros(1))


def test_top_k_puts_nan_last_and_keeps_infinities_in_order() -> None:
    row = np.array([np.nan, -np.inf, 1.0, np.inf, np.nan], np.float32)

    _, indices = operations.top_k(row, 5)

    assert indices.tolist() == [3, 2, 1, 0, 4]


def test_top_k_tells_integers_apart_that_floats_cannot() -> None:
    row = np.array([2**63, 2**63 + 1, 2**64 - 1, 0], np.uint64)

    assert operations.top_k(row, 4)[1].tolist() == [2, 1, 0, 3]


@given(array=arrays(), data=st.data())
def test_softmax_is_positive_and_sums_to_one(
    array: np.ndarray, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, array.ndim - 1))

    result = operations.softmax(array, axis)

    assert result.dtype == np.float32
    assert (result > 0).all()
    np.testing.assert_allclose(result.sum(axis=axis), 1, rtol=1e-5)


def test_softmax_of_large_values_does_not_overflow() -> None:
    result = operations.softmax(np.array([1000.0, 1000.0, -1000.0]), 0)

    assert result.tolist() == [0.5, 0.5, 0.0]


@given(array=arrays(), data=st.data())
def test_affine_is_a_product_and_a_sum_per_index(
    array: np.ndarray, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, array.ndim - 1))
    numbers = st.floats(-4, 4, width=16)
    size = array.shape[axis]
    scale = data.draw(st.lists(numbers, min_size=size, max_size=size))
    bias = data.draw(st.lists(numbers, min_size=1, max_size=1))

    result = operations.affine(array, scale, bias, axis)

    assert result.dtype == np.float32
    for position in np.ndindex(array.shape):
        wanted = float(array[position]) * scale[position[axis]] + bias[0]
        assert result[position] == pytest.approx(wanted, abs=1e-5)


@given(array=arrays(), data=st.data())
def test_transposing_back_gives_the_same(
    array: np.ndarray, data: st.DataObject
) -> None:
    axes = data.draw(st.permutations(range(array.ndim)))

    turned = operations.transpose(array, axes)

    assert turned.shape == tuple(array.shape[axis] for axis in axes)
    back = operations.transpose(turned, np.argsort(axes).tolist())
    np.testing.assert_array_equal(back, array)


@given(array=arrays())
def test_reshape_keeps_elements_and_their_order(array: np.ndarray) -> None:
    assert operations.reshape(array, [array.size]).tolist() == array.ravel().tolist()


@given(array=arrays() | npst.arrays(np.bool_, shapes))
def test_bytes_out_and_in_give_the_same(array: np.ndarray) -> None:
    element = operations.element_type(array)
    again = operations.from_bytes(array.shape, element, operations.to_bytes(array))

    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


@given(items=st.lists(st.binary(max_size=20), max_size=10))
def test_byte_strings_out_and_in_give_the_same(items: list[bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    data = operations.to_bytes(array)

    again = operations.from_bytes([len(items)], "bytes", data)

    assert again.tolist() == items
    assert operations.size_in_bytes(array) == len(data)


def test_a_transposed_tensor_reads_row_by_row() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)

    assert operations.to_bytes(operations.transpose(array, [1, 0])) == bytes(
        [0, 3, 1, 4, 2, 5]
    )


FLOATS = np.zeros((2, 3), np.float32)
TEXTS = np.array([b"a", b"b"], object)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operations.reshape(FLOATS, [7]), "expected 6 elements.*found .7"),
        (lambda: operations.reshape(FLOATS, [2**32 - 1] * 4), "expected 6 elements"),
        (
            lambda: operations.reshape(FLOATS, [1] * 17 + [6]),
            "at most 16 sizes, found 18",
        ),
        (lambda: operations.transpose(FLOATS, [0, 0]), "permutation of 0..2"),
        (lambda: operations.transpose(FLOATS, [0]), "permutation of 0..2"),
        (lambda: operations.transpose(FLOATS, [1, 2**32 - 1]), "permutation of 0..2"),
        (lambda: operations.affine(FLOATS, [1, 2], [0], 1), "scale: expected 1 or 3"),
        (
            lambda: operations.affine(FLOATS, [1], [], 1),
            "bias: expected 1 or 3.*found 0",
        ),
        (lambda: operations.affine(FLOATS, [1], [0], 2), "axis: expected below rank 2"),
        (lambda: operations.affine(TEXTS, [1], [0], 0), "numbers, found bytes"),
        (lambda: operations.softmax(FLOATS, 2), "axis: expected below rank 2, found 2"),
        (lambda: operations.softmax(FLOATS > 0, 1), "numbers, found boolean"),
        (lambda: operations.top_k(FLOATS, 0), "k: expected 1 to 3, found 0"),
        (lambda: operations.top_k(FLOATS, 4), "k: expected 1 to 3, found 4"),
        (lambda: operations.top_k(np.zeros(()), 1), "k: expected 1 to 0"),
        (lambda: operations.from_bytes([3], "fp32", bytes(8)), "expected 12 bytes"),
        (lambda: operations.from_bytes([2**31] * 3, "uint8", b""), "found 0"),
        (
            lambda: operations.from_bytes([1], "bytes", b"\x05\0\0\0abc"),
            "whole byte str",
        ),
        (lambda: operations.from_bytes([1], "bytes", b"\x05\0"), "whole byte string"),
        (lambda: operations.from_bytes([2], "bytes", b"\0\0\0\0"), "2 byte strings"),
        (lambda: operations.element_type(np.zeros(1, "c8")), "found complex64"),
    ],
)
def test_what_does_not_fit_is_refused_saying_expected_and_found(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        call()
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_every_element_type_of_the_world_has_a_size() -> None:
    for element in DATATYPES:
        array = operations.from_bytes([0], element, b"")
        assert operations.element_type(array) == element


def test_a_table_counts_what_it_holds_and_what_it_lets_go() -> None:
    table = TensorTable(TensorLimits(count=3, total_bytes=100))
    first = table.add(np.zeros(60, np.uint8))

    with pytest.raises(Refusal, match="at most 100 bytes at a time, found 120"):
        table.add(np.zeros(60, np.uint8))
    table.drop(first)
    table.drop(first)
    second = table.add(np.zeros(100, np.uint8))
    assert second != first
    assert table.take(second).nbytes == 100
    for _ in range(3):
        table.add(np.zeros(1, np.uint8))
    with pytest.raises(Refusal, match="at most 3 at a time"):
        table.add(np.zeros(1, np.uint8))
    table.clear()
    assert (len(table), table.abandoned) == (0, 3)
    with pytest.raises(Refusal, match="one of this request"):
        table.get(second)


def test_affine_beyond_fp32_is_infinite() -> None:
    assert math.isinf(operations.affine(np.array([3e38]), [10], [0], 0)[0])
