# SPDX-License-Identifier: Apache-2.0
"""Trains the two digit classifiers of this folder and writes their files.

    python docs/examples/digits/build.py [folder]

The data is scikit-learn's bundled copy of 1,797 handwritten digits, 8 by 8 pixels of 0
to 16. Both models take `image` FP32 [N,1,8,8] with values of 0 to 1 and answer `logits`
FP32 [N,10]. Version 1 is a softmax regression on few images, poor on purpose; version 2
a small neural network on many, so that a rollout from one to the other is an
improvement that shows. All seeds are fixed: the same versions of the libraries on the
same processor write the same bytes. An interrupted run leaves some files old and some
new; run it again.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 7
HELD_OUT = 500
FEW = 60
"""Images that version 1 is trained on: six of each digit."""

HIDDEN = 48
"""Neurons of version 2."""

IR_VERSION = 10
OPSET = 21

Layer = tuple[np.ndarray, np.ndarray]


def main(folder: Path) -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data / 16.0,
        digits.target,
        test_size=HELD_OUT,
        random_state=SEED,
        stratify=digits.target,
    )
    few_x, _, few_y, _ = train_test_split(
        train_x, train_y, train_size=FEW, random_state=SEED, stratify=train_y
    )
    weak = LogisticRegression(C=0.02, max_iter=1000).fit(few_x, few_y)
    good = MLPClassifier((HIDDEN,), random_state=SEED, max_iter=2000, alpha=0.1)
    good.fit(train_x, train_y)
    write_model(folder / "digits-v1.onnx", [(weak.coef_.T, weak.intercept_)])
    write_model(
        folder / "digits-v2.onnx",
        list(zip(good.coefs_, good.intercepts_, strict=True)),
    )
    # No compression: the bytes must not depend on the compressor's version.
    np.savez(
        folder / "heldout.npz",
        images=np.rint(test_x * 16).astype(np.uint8),
        labels=test_y.astype(np.uint8),
    )
    (folder / "labels.txt").write_text("".join(f"{n}\n" for n in range(10)))
    for name, model in (("v1", weak), ("v2", good)):
        print(
            f"{name}: {model.score(test_x, test_y):.1%} of {HELD_OUT} held-out images"
        )


def write_model(path: Path, layers: list[Layer]) -> None:
    """Write fully connected layers, with a ReLU between one and the next."""
    nodes: list[NodeProto] = [helper.make_node("Flatten", ["image"], ["pixels"])]
    weights: list[TensorProto] = []
    value = "pixels"
    for number, (weight, bias) in enumerate(layers, start=1):
        last = number == len(layers)
        result = "logits" if last else f"sums{number}"
        nodes.append(
            helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [result])
        )
        weights += [_tensor(f"w{number}", weight), _tensor(f"b{number}", bias)]
        if not last:
            value = f"hidden{number}"
            nodes.append(helper.make_node("Relu", [result], [value]))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    model = helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="kedge",
    )
    checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _tensor(name: str, values: np.ndarray) -> Any:
    return numpy_helper.from_array(values.astype(np.float32), name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
