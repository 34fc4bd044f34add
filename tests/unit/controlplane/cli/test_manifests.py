# SPDX-License-Identifier: Apache-2.0
"""What manifests may look like, and what is refused before the server is asked."""

import io
import sys
from pathlib import Path

import pytest

from kedge_controlplane.cli.manifests import MAX_BYTES, read_manifests
from kedge_controlplane.errors import InputError


def written(folder: Path, text: str, name: str = "fleet.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_documents_of_a_file_come_in_order(tmp_path: Path) -> None:
    file = written(tmp_path, "kind: Fleet\n---\n---\nkind: Release\n")
    manifests = read_manifests([file])
    assert [m.document["kind"] for m in manifests] == ["Fleet", "Release"]
    assert manifests[1].source == f"{file}, document 3"


def test_a_folder_is_every_manifest_in_it_by_name(tmp_path: Path) -> None:
    written(tmp_path, "kind: B", "2.yml")
    written(tmp_path, '{"kind": "A"}', "1.json")
    written(tmp_path, "not a manifest", "README.md")
    kinds = [m.document["kind"] for m in read_manifests([str(tmp_path)])]
    assert kinds == ["A", "B"]


def test_standard_input_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(b"kind: Fleet"))
    monkeypatch.setattr(sys, "stdin", text)
    assert read_manifests(["-"])[0].document == {"kind": "Fleet"}


def test_a_list_is_its_items(tmp_path: Path) -> None:
    file = written(tmp_path, "kind: List\nitems: [{kind: A}, {kind: B}]")
    assert [m.document["kind"] for m in read_manifests([file])] == ["A", "B"]


def test_nulls_are_absent_and_dates_are_text(tmp_path: Path) -> None:
    file = written(tmp_path, "kind: A\nversion: 2026-01-02\nlabels: null")
    (manifest,) = read_manifests([file])
    assert manifest.document == {"kind": "A", "version": "2026-01-02"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("kind: A\nkind: B", "member 'kind' is there twice"),
        ("kind: A\nspec: {a: 1, a: 2}", "member 'a' is there twice"),
        ("kind: [", "expected YAML or JSON"),
        ("- 1", "expected an object with a kind"),
        ("spec: {}", "expected an object with a kind"),
        ("!!python/object/apply:os.system [ls]", "expected YAML or JSON"),
        ("kind: A\n? [a]\n: b", "fleet.yaml"),
        ("kind: A\nv: !!binary aGk=", "expected a type that JSON has"),
        ("", "expected manifests"),
        ("kind: List\nitems: 5", "items"),
        ("kind: A\nv: .nan", "finite"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_file(
    tmp_path: Path, text: str, found: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InputError, match=found) as caught:
        read_manifests([file])
    assert "fleet.yaml" in str(caught.value)


def test_a_small_file_that_says_a_lot_is_refused(tmp_path: Path) -> None:
    lines = ["kind: A", "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 9)]
    file = written(tmp_path, "\n".join(lines))
    with pytest.raises(InputError, match="at most 200000 values"):
        read_manifests([file])


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    file = written(tmp_path, "#" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="at most"):
        read_manifests([file])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: No such file"):
        read_manifests([str(tmp_path / "gone.yaml")])
