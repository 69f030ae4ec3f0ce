"""The digits: real scans in [0, 1], one fixed split, disjoint and stratified."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save

from companion import data
from companion.data import digits, held_out_digits


def test_shapes_and_range():
    data = digits()
    assert data.train_images.shape == (1347, 1, 8, 8) and data.held_out_images.shape == (450, 1, 8, 8)
    assert data.train_images.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    assert data.train_images.min() == 0 and data.train_images.max() == 1


def test_split_is_a_partition_of_all_scans():
    from sklearn.datasets import load_digits

    data = digits()
    both = torch.cat([data.train_images, data.held_out_images]).flatten(1).numpy() * 16
    assert sorted(map(tuple, both)) == sorted(map(tuple, load_digits().data))
    held_out = set(map(tuple, data.held_out_images.flatten(1).tolist()))
    assert not held_out & set(map(tuple, data.train_images.flatten(1).tolist()))


def test_split_is_stratified_and_always_the_same():
    data = digits()
    train = torch.bincount(data.train_labels, minlength=10)
    held_out = torch.bincount(data.held_out_labels, minlength=10)
    assert ((held_out / (train + held_out) - 450 / 1797).abs() < 0.01).all()
    for first, second in zip(data, digits(), strict=True):
        assert torch.equal(first, second)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"adversarial-vulnerability\[data\]"):
        digits()


def test_the_shipped_scans_are_scikit_learns():
    """Also the recipe of the file: to the byte."""
    expected = digits()
    images, labels = held_out_digits()
    assert torch.equal(images, expected.held_out_images) and images.dtype == torch.float32
    assert torch.equal(labels, expected.held_out_labels) and labels.dtype == torch.int64
    pixels = (expected.held_out_images * 16).to(torch.uint8)
    content = save({"pixels": pixels, "labels": expected.held_out_labels.to(torch.uint8)})
    assert data.SCANS.read_bytes() == content


def test_the_shipped_scans_need_no_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(held_out_digits()[0]) == data.HELD_OUT


def test_other_scans_than_the_shipped_ones_are_refused(monkeypatch, tmp_path):
    changed = bytearray(data.SCANS.read_bytes())
    changed[-1] ^= 1
    monkeypatch.setattr(data, "SCANS", tmp_path / "scans.safetensors")
    with pytest.raises(FileNotFoundError, match="the held-out scans are missing: .*scans.safetensors; reinstall"):
        held_out_digits()
    data.SCANS.write_bytes(changed)
    with pytest.raises(RuntimeError, match="the held-out scans are damaged or were replaced: .* SHA-256"):
        held_out_digits()
