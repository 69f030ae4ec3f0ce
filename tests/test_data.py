"""The digits: real scans in [0, 1], one fixed split. CIFAR-10 and SVHN: read, downloaded and refused as they should."""

from __future__ import annotations

import base64
import hashlib
import http.server
import shutil
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scipy.io import loadmat, savemat

from companion import _matlab, data
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


SERVED = "cifar-10-binary.tar.gz"


@pytest.fixture
def records(monkeypatch, tmp_path):
    """A folder with CIFAR-10's files, of four records each, and what is in them."""
    monkeypatch.setattr(data, "CIFAR10_RECORDS", 4)
    random = torch.Generator().manual_seed(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images = torch.randint(256, (6, 4, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.randint(10, (6, 4), generator=random, dtype=torch.uint8)
    for name, pixels, label in zip(data.CIFAR10_FILES, images, labels, strict=True):
        rows = torch.cat([label[:, None], pixels.flatten(1)], 1)
        (folder / name).write_bytes(rows.numpy().tobytes())
    return tmp_path, images, labels.long()


@pytest.fixture
def archive(records, monkeypatch):
    """The same as an archive, whose SHA-256 counts as published."""
    root, images, labels = records
    with tarfile.open(root / SERVED, "w:gz") as tar:
        tar.add(root / "cifar-10-batches-bin", "cifar-10-batches-bin")
    shutil.rmtree(root / "cifar-10-batches-bin")
    digest = hashlib.sha256((root / SERVED).read_bytes()).hexdigest()
    monkeypatch.setitem(data.PUBLISHED, SERVED, digest)
    return root, images, labels


@pytest.fixture
def server(archive, monkeypatch, tmp_path_factory):
    """Serves the archive's folder, from the byte that is asked for; the list of those bytes; the download cache."""
    root, asked = archive[0], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = (root / self.path.lstrip("/")).read_bytes()
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            asked.append(start)
            self.send_response(416 if start >= len(content) else 206 if start else 200)
            self.send_header("Content-Length", str(max(0, len(content) - start)))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *arguments):
            pass

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("pooch.os_cache", lambda project: cache)
    monkeypatch.delenv(data.VARIABLE, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setitem(data.ADDRESSES, "cifar10", f"http://127.0.0.1:{running.server_address[1]}/")
        yield root, asked, cache
        running.shutdown()


def assert_read(found, images, labels):
    assert torch.equal(found.train_images, images[:5].flatten(0, 1)) and torch.equal(found.test_images, images[5])
    assert torch.equal(found.train_labels, labels[:5].flatten()) and torch.equal(found.test_labels, labels[5])
    assert found.train_images.dtype == torch.uint8 and found.train_labels.dtype == torch.int64


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar10_from_a_folder(records, inside):
    root, images, labels = records
    found = data.cifar10(root=root / inside)
    assert_read(found, images, labels)
    content = (root / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    assert found.copy["sha256"]["test_batch.bin"] == hashlib.sha256(content).hexdigest()
    assert found.copy["data"] == "cifar10" and found.copy["verified"] is False and len(found.copy["sha256"]) == 6


def test_cifar10_from_the_archive_and_by_the_variable(archive, monkeypatch):
    root, images, labels = archive
    monkeypatch.setenv(data.VARIABLE, str(root))
    found = data.cifar10()
    assert_read(found, images, labels)
    assert found.copy["verified"] is True


def test_red_is_the_first_plane_and_rows_come_before_columns(records):
    root, *_ = records
    path = root / "cifar-10-batches-bin" / "test_batch.bin"
    record = bytearray(3073)
    record[1 + 2 * 32 + 5] = 200  # red, row 2, column 5
    path.write_bytes(bytes(record) * 4)
    assert torch.nonzero(data.cifar10(root=root).test_images[0]).tolist() == [[0, 2, 5]]


def test_download_then_cache(server, archive):
    _, images, labels = archive
    assert_read(data.cifar10(), images, labels)
    assert_read(data.cifar10(), images, labels)
    assert server[1] == [0]


@pytest.mark.parametrize("missing", [1000, 0])
def test_a_download_that_broke_off_goes_on(server, archive, missing):
    root, asked, cache = server
    content = (root / SERVED).read_bytes()
    (cache / f"{SERVED}.unfinished").write_bytes(content[: len(content) - missing])
    assert_read(data.cifar10(), *archive[1:])
    assert asked == [len(content) - missing] and not (cache / f"{SERVED}.unfinished").exists()


def test_another_file_than_the_published_one_is_refused(server, monkeypatch):
    root, _, cache = server
    monkeypatch.setitem(data.PUBLISHED, SERVED, "0" * 64)
    with pytest.raises(RuntimeError, match="not the file that was published"):
        data.cifar10()
    assert not list(cache.iterdir())
    with pytest.raises(RuntimeError, match=f"{SERVED} is damaged: its SHA-256 is .* published is 0000"):
        data.cifar10(root=root)


def test_offline_says_what_to_do(server, monkeypatch):
    monkeypatch.setitem(data.ADDRESSES, "cifar10", "http://127.0.0.1:1/")
    with pytest.raises(OSError, match="could not download http://127.0.0.1:1/cifar.*to .*cache.*root=.*COMPANION_DATA"):
        data.cifar10()


def test_without_pooch(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"adversarial-vulnerability\[data\]"):
        data.cifar10()


@pytest.mark.parametrize("load", [data.cifar10, data.svhn])
def test_unknown_and_empty_root(load, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="root must be a folder that exists, got '.*nowhere'"):
        load(root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not hold .*, which is at http.*COMPANION_DATA"):
        load(root=tmp_path)
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="COMPANION_DATA must be a folder that exists"):
        load()


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:3073], lambda c: b"\x0a" + c[1:], lambda c: b""])
def test_damaged_records(records, damage):
    path = records[0] / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RuntimeError, match="data_batch_3.bin is damaged"):
        data.cifar10(root=records[0])


@pytest.fixture
def house_numbers(tmp_path):
    """A folder with SVHN's two files, tiny, and what is in them."""
    random = np.random.default_rng(0)
    content = {}
    for name, count in (("train_32x32.mat", 12), ("test_32x32.mat", 5)):
        pixels = random.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = random.integers(1, 11, (count, 1), dtype=np.uint8)
        labels[0] = 10
        savemat(tmp_path / name, {"X": pixels, "y": labels}, do_compression=True)
        content[name] = pixels, labels
    return tmp_path, content


def test_svhn(house_numbers, monkeypatch):
    root, content = house_numbers
    found = data.svhn(root=root)
    pixels, labels = content["train_32x32.mat"]
    assert found.train_images.shape == (12, 3, 32, 32) and found.train_images.dtype == torch.uint8
    assert found.train_images[7, 1, 20, 3] == pixels[20, 3, 1, 7]
    assert found.train_labels[0] == 0 and (found.train_labels.numpy() == labels[:, 0] % 10).all()
    assert found.test_images.shape == (5, 3, 32, 32) and found.copy["verified"] is False
    for name, digest in found.copy["sha256"].items():
        monkeypatch.setitem(data.PUBLISHED, name, digest)
    assert data.svhn(root=root).copy["verified"] is True


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 4), np.uint8)}),
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((3, 1), np.uint8)}),
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1), np.uint8)}),
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.zeros((2, 1), np.uint8)}),
    ],
)
def test_damaged_house_numbers(house_numbers, damage):
    damage(house_numbers[0] / "test_32x32.mat")
    with pytest.raises(RuntimeError, match="test_32x32.mat is damaged"):
        data.svhn(root=house_numbers[0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i4", "i8", "f4", "f8"])
def test_arrays_of_matlab_are_those_that_scipy_reads(tmp_path, packed, kind):
    random = np.random.default_rng(0)
    written = {"X": random.integers(0, 100, (4, 5, 3, 2)).astype(kind), "name of length 17": np.ones((3, 1), kind)}
    savemat(
        tmp_path / "a.mat", written | {"text": "left out", "cell": np.array([1, "a"], object)}, do_compression=packed
    )
    found, expected = _matlab.arrays((tmp_path / "a.mat").read_bytes()), loadmat(tmp_path / "a.mat")
    assert found.keys() >= written.keys() and "cell" not in found
    for name in written:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_file_that_kills_scipys_reader_is_refused():
    # Found by tools/fuzz.py: scipy.io.loadmat ends the whole process with a bus error.
    content = base64.b64decode(
        "TUFUIDVBTEIuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IEZyaSBOb3YgMjcgMjA6NDA6MzMgMjAyNgAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAAQQAAAHic7cbBCYBAEATBUVG8"
        "j/i8p2EYivlH4oIXhVQtzeyR5O7JVrtXLZ+1OqtrtFRzNdU9TUFUIDVBTEIuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENy"
        "ZWF0ZWQgb246IEZyaSBOb3YgMjcgMjA6NDA6MzMgMjAyNgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAABSU0PAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAPAAAAAADwQy+MWAFEDwAA"
        "AC0AAAB4nONj408PAAAAAADwQy+MWAFEDwAAAC0AAAB4nONjYWBwAGI2IOYAYj4GCGCF8pmAmBGMGRkqYWBwAGI2IOYAYj4GCGCF"
        "8pmAmBGMGRmBNA8QC0DFQIALSgMALqYBKoE0DxALQMVAgAtKAwAuph0BHQ=="
    )
    with pytest.raises(RuntimeError, match="test_32x32.mat is damaged"):
        data._house_numbers("test_32x32.mat", content)


def test_no_changed_byte_does_more_than_be_refused(house_numbers):
    for packed in (False, True):
        file = house_numbers[0] / "test_32x32.mat"
        pixels, labels = house_numbers[1][file.name]
        savemat(file, {"X": pixels[..., :1] // 200, "y": labels[:1]}, do_compression=packed)
        good, random = file.read_bytes(), np.random.default_rng(0)
        for _ in range(500):
            bad = bytearray(good)
            bad[random.integers(120, 120 + min(len(good) - 120, 200))] = random.integers(256)
            try:
                data._house_numbers(file.name, bytes(bad))
            except RuntimeError as error:
                assert "is damaged" in str(error)
