# SPDX-License-Identifier: Apache-2.0
"""The handwritten-digits example, and what its models answer without Kedge around them.

The files are those of docs/examples/digits and wit/components; a wheel carries copies.
"""

import hashlib
import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kedge_controlplane.errors import SettingsError

PIXEL_MAX: Final = 16  # scikit-learn's digits have values from 0 to 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Answers of one model file run directly by ONNX Runtime in this process."""

    digest: str
    answers: tuple[int, ...]  # the class of every held-out image
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / len(self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    component: Path
    models: tuple[Path, Path]
    config: Path
    schema: Path
    labels: Path
    images: tuple[bytes, ...]  # 64 pixels each, row by row
    truth: tuple[int, ...]
    references: tuple[Reference, Reference]

    @classmethod
    def load(cls) -> Self:
        """Read the example and run both models on it.

        Raises:
            SettingsError: The example or the agent's packages are not installed.
        """
        try:
            import numpy as np
        except ImportError as exc:
            raise SettingsError(
                "the demo runs agents too: expected the agent extra, found no numpy; "
                "pip install 'kedge[agent,controlplane]'"
            ) from exc
        digits, component = _folders()
        with np.load(digits / "heldout.npz") as heldout:
            images = tuple(bytes(image) for image in heldout["images"].astype("u1"))
            truth = tuple(int(label) for label in heldout["labels"])
        models = (digits / "digits-v1.onnx", digits / "digits-v2.onnx")
        return cls(
            component=component / "image-classifier.wasm",
            models=models,
            config=digits / "config.json",
            schema=digits / "config.schema.json",
            labels=digits / "labels.txt",
            images=images,
            truth=truth,
            references=(
                _reference(models[0], images, truth),
                _reference(models[1], images, truth),
            ),
        )

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The answers by model digest."""
        return {reference.digest: reference.answers for reference in self.references}


def _folders() -> tuple[Path, Path]:
    """Folders of the example and of the component: in a checkout, or in the wheel."""
    checkout = Path(__file__).parents[4]
    wheel = Path(str(importlib.resources.files("kedge_controlplane"))) / "examples"
    for digits, component in (
        (
            checkout / "docs/examples/digits",
            checkout / "wit/components/image-classifier",
        ),
        (wheel / "digits", wheel / "image-classifier"),
    ):
        if digits.is_dir() and component.is_dir():
            return digits, component
    raise SettingsError(f"the demo's example: expected it in {wheel}, found nothing")


def _reference(
    path: Path, images: tuple[bytes, ...], truth: tuple[int, ...]
) -> Reference:
    import numpy as np
    import onnxruntime

    model = path.read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = np.frombuffer(b"".join(images), np.uint8).astype(np.float32) / PIXEL_MAX
    (logits,) = session.run(None, {"image": pixels.reshape(-1, 1, 8, 8)})
    answers = tuple(int(answer) for answer in logits.argmax(axis=1))
    return Reference(
        digest=hashlib.sha256(model).hexdigest(),
        answers=answers,
        correct=sum(a == t for a, t in zip(answers, truth, strict=True)),
    )
