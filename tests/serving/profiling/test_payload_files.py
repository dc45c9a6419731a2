"""Payloads in files: arrays as they are, other files as their bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.serving.profiling.payload_files import PayloadsError, read_payloads


def test_arrays_keep_type_and_shape_and_other_files_are_bytes_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    (tmp_path / "a.png").write_bytes(b"picture")
    found = read_payloads(tmp_path, "--data")
    assert list(found) == ["a.png", "b.npy"]
    assert found["a.png"].tobytes() == b"picture"
    assert found["b.npy"].dtype == np.float32
    assert found["b.npy"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff"])
def test_what_is_no_array_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(PayloadsError, match=r"x\.npy"):
        read_payloads(tmp_path, "--data")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(PayloadsError, match=r"x\.npy is not an array as numpy\.save writes one"):
        read_payloads(tmp_path, "--data")


def test_a_folder_without_files_is_said(tmp_path: Path) -> None:
    with pytest.raises(PayloadsError, match=r"--payloads .* is not a folder with files in it"):
        read_payloads(tmp_path, "--payloads")
