"""Real images: scikit-learn's handwritten digits, which need no download, and CIFAR-10 and SVHN, which do.

Of the digits, 450 held-out scans also come with the package itself (29 kB), so that the book can show real images
without scikit-learn. They are from the UCI repository, under CC BY 4.0.

CIFAR-10 and SVHN are downloaded once, checked against their published SHA-256 and kept in a cache folder. Files that
you have already are read from the folder given by `root`, or by the environment variable COMPANION_DATA. Nothing is
unpickled, and archives are read without unpacking them.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from companion import _files, _matlab

HELD_OUT = 450
SPLIT_SEED = 0
SCANS = Path(__file__).parent / "scans" / "digits-held-out.safetensors"
SCANS_SHA256 = "c22848d13a8b3de1092aebbc7840f76a99e0b684aa33894fe3fa7c3b4a138c23"


class Digits(NamedTuple):
    """Images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64, in two disjoint parts."""

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


def digits() -> Digits:
    """The 1,797 scanned digits that scikit-learn bundles, as 1,347 to train on and 450 held out.

    A pixel counts ink in a 4 × 4 block of a 32 × 32 scan (0..16), here divided by 16. The split is stratified
    by class and always the same (`SPLIT_SEED`): every accuracy on digits in this project is on the same 450 images.

    Returns:
        A named tuple `(train_images, train_labels, held_out_images, held_out_labels)`.
    Raises:
        ImportError: scikit-learn (the `data` extra) is not installed.
    Source:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        install = "pip install 'adversarial-vulnerability[data]'"
        raise ImportError(f"digits() needs scikit-learn, the data extra: {install}") from error
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(labels).to(torch.int64)
    train, held_out = train_test_split(range(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED)
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


def held_out_digits() -> tuple[Tensor, Tensor]:
    """The 450 held-out scans of `digits`, read from a file of the package: scikit-learn is not needed.

    Returns:
        Images (450, 1, 8, 8) float32 in [0, 1], and labels (450,) int64.
    Raises:
        FileNotFoundError: the file is missing.
        RuntimeError: it is not the one that was shipped (checked before it is parsed).
    Source:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998; CC BY 4.0.
    """
    stored = _files.read(SCANS, SCANS_SHA256, what="the held-out scans", remedy="reinstall the package")
    return stored["pixels"].to(torch.float32) / 16, stored["labels"].to(torch.int64)


class Images(NamedTuple):
    """Colour images and their labels, in two disjoint parts.

    Attributes:
        train_images: (n, 3, 32, 32) uint8; divided by 255 they are the images in [0, 1] that networks take.
        train_labels: (n,) int64.
        test_images: (m, 3, 32, 32) uint8.
        test_labels: (m,) int64.
        copy: which copy of the data this is: `data`, the SHA-256 of every file, and `verified`: whether they are what
            the authors of the data set published. For unpacked files nobody has published a hash.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    copy: dict[str, Any]


VARIABLE = "COMPANION_DATA"
ADDRESSES = {"cifar10": "https://www.cs.toronto.edu/~kriz/", "svhn": "http://ufldl.stanford.edu/housenumbers/"}
PUBLISHED = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FILES = (*(f"data_batch_{part}.bin" for part in range(1, 6)), "test_batch.bin")
CIFAR10_RECORDS = 10_000


def cifar10(*, root: Path | str | None = None, progress: bool = False) -> Images:
    """CIFAR-10: 50,000 and 10,000 photographs of ten kinds of things (`CIFAR10_CLASSES`), 32 × 32 pixels.

    Args:
        root: a folder that holds cifar-10-binary.tar.gz, or the files of that archive, or their folder
            cifar-10-batches-bin. Default: what COMPANION_DATA names; without it the archive (170 MB) is downloaded,
            once, and a download that broke off goes on where it was.
        progress: show a bar while downloading.
    Returns:
        `Images`.
    Raises:
        FileNotFoundError: `root` is no folder, or holds no such file.
        RuntimeError: a file is damaged: another SHA-256 than published, or no whole records.
        OSError: the download failed; the message says what to do without a network.
        ImportError: pooch (the `data` extra) is not installed, and a download is needed.
    Source:
        A. Krizhevsky, Learning multiple layers of features from tiny images, 2009; binary version.
    """
    archive, folder = "cifar-10-binary.tar.gz", _folder(root)
    unpacked = folder and next((f for f in (folder, folder / "cifar-10-batches-bin") if _holds(f, CIFAR10_FILES)), None)
    if unpacked:
        contents = {name: (unpacked / name).read_bytes() for name in CIFAR10_FILES}
    else:
        content = _verified(_locate("cifar10", archive, folder, progress, unpacked=CIFAR10_FILES))
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            members = {name: cast(IO[bytes], tar.extractfile(f"cifar-10-batches-bin/{name}")) for name in CIFAR10_FILES}
            contents = {name: member.read() for name, member in members.items()}
    images, labels = zip(*(_records(name, content) for name, content in contents.items()), strict=True)
    copy = _copy("cifar10", contents, verified=not unpacked)
    return Images(torch.cat(images[:-1]), torch.cat(labels[:-1]), images[-1], labels[-1], copy)


def svhn(*, root: Path | str | None = None, progress: bool = False) -> Images:
    """SVHN, cropped: 73,257 and 26,032 digits of house numbers, 32 × 32 pixels; the label is the digit.

    It raises what `cifar10` raises.

    Args:
        root: a folder that holds train_32x32.mat and test_32x32.mat. Default: what COMPANION_DATA names; without it
            they are downloaded (246 MB), once.
        progress: show a bar while downloading.
    Returns:
        `Images`. The digit 0, which the files call 10, has label 0.
    Source:
        Y. Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011.
    """
    names, folder = ("train_32x32.mat", "test_32x32.mat"), _folder(root)
    contents = {name: _locate("svhn", name, folder, progress).read_bytes() for name in names}
    (train_images, train_labels), (test_images, test_labels) = (_house_numbers(*item) for item in contents.items())
    copy = _copy("svhn", contents)
    copy["verified"] = all(copy["sha256"][name] == PUBLISHED[name] for name in names)
    return Images(train_images, train_labels, test_images, test_labels, copy)


def _folder(root: Path | str | None) -> Path | None:
    """The folder to read from, or None where a download is wanted."""
    given, name = (root, "root") if root is not None else (os.environ.get(VARIABLE) or None, VARIABLE)
    if given is None:
        return None
    if not Path(given).is_dir():
        raise FileNotFoundError(f"{name} must be a folder that exists, got {str(given)!r}")
    return Path(given)


def _holds(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _locate(data: str, name: str, folder: Path | None, progress: bool, unpacked: tuple[str, ...] = ()) -> Path:
    """The file `name`: in `folder`, or downloaded where that is None. `unpacked` names files that would do as well."""
    if folder is None:
        return _download(ADDRESSES[data] + name, name, progress)
    if not (folder / name).is_file():
        for place in (folder, folder / "cifar-10-batches-bin"):
            missing = [part for part in unpacked if not (place / part).is_file()]
            if 0 < len(missing) < len(unpacked):
                raise FileNotFoundError(
                    f"{place} holds {len(unpacked) - len(missing)} of the {len(unpacked)} files of {name}; missing: "
                    f"{', '.join(missing)}; unpack them from {ADDRESSES[data]}{name}, or put {name} itself there"
                )
        raise FileNotFoundError(
            f"{folder} does not hold {name}, which is at {ADDRESSES[data]}{name}; put it there, or give neither "
            f"root nor {VARIABLE} to have it downloaded"
        )
    return folder / name


def _verified(path: Path) -> bytes:
    """The content of a file whose SHA-256 is published, compared before anything is parsed."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PUBLISHED[path.name]:
        raise _files.Damaged(
            f"{path} is damaged: its SHA-256 is {found}, published is {PUBLISHED[path.name]}; delete it, then "
            "download it again"
        )
    return content


def _copy(data: str, contents: dict[str, bytes], verified: bool = False) -> dict[str, Any]:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return {"data": data, "verified": verified, "sha256": hashes}


def _records(name: str, content: bytes) -> tuple[Tensor, Tensor]:
    """Images and labels of one CIFAR-10 file: records of one label byte and 3,072 pixel bytes."""
    if len(content) != CIFAR10_RECORDS * 3073:
        raise _files.Damaged(
            f"{name} is damaged: {CIFAR10_RECORDS} records of 3073 bytes make {CIFAR10_RECORDS * 3073}, "
            f"found {len(content)} bytes"
        )
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 3073)
    labels = rows[:, 0].to(torch.int64)
    if labels.max() > 9:
        raise _files.Damaged(f"{name} is damaged: labels must be 0 to 9, found {int(labels.max())}")
    return rows[:, 1:].reshape(-1, 3, 32, 32), labels


def _house_numbers(name: str, content: bytes) -> tuple[Tensor, Tensor]:
    """Images and labels of one SVHN file."""
    try:
        stored = _matlab.arrays(content)
        pixels, labels = torch.from_numpy(stored["X"]), torch.from_numpy(stored["y"]).flatten().to(torch.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise _files.Damaged(f"{name} is damaged or no MATLAB file with X and y: {error!r}") from error
    if pixels.dtype != torch.uint8 or pixels.shape != (32, 32, 3, len(labels)) or not len(labels):
        found = f"{tuple(pixels.shape)} of {pixels.dtype} for {len(labels)} labels"
        raise _files.Damaged(f"{name} is damaged: X must be (32, 32, 3, n) bytes with n labels in y, found {found}")
    if labels.min() < 1 or labels.max() > 10:
        raise _files.Damaged(f"{name} is damaged: labels must be 1 to 10, found {int(labels.min())} to {labels.max()}")
    return pixels.permute(3, 2, 0, 1).contiguous(), labels % 10


def _download(address: str, name: str, progress: bool) -> Path:
    """The file at `address`, from the cache or fetched into it, its SHA-256 as published."""
    try:
        import pooch
        import requests
    except ImportError as error:
        install = "pip install 'adversarial-vulnerability[data]'"
        raise ImportError(f"to download {name}, pooch is needed, the data extra: {install}") from error
    cache = Path(pooch.os_cache("adversarial-vulnerability"))
    pooch.get_logger().setLevel("WARNING")  # it announces every download

    def resume(url: str, output_file: str, _pooch: Any) -> None:
        unfinished = cache / f"{name}.unfinished"
        if unfinished.is_symlink():  # not ours, and what it points to is not to be written
            unfinished.unlink()
        done = unfinished.stat().st_size if unfinished.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code != 416:  # 416: there is nothing beyond what we have
                answer.raise_for_status()
                done = done if answer.status_code == 206 else 0
                total = done + int(answer.headers.get("Content-Length", 0)) or None
                options = dict(desc=name, unit="B", unit_scale=True, disable=not progress)
                with unfinished.open("ab" if done else "wb") as file, tqdm(initial=done, total=total, **options) as bar:
                    for block in answer.iter_content(2**18):
                        bar.update(file.write(block))
        os.replace(unfinished, output_file)

    try:
        _files.ready(cache)
    except OSError as error:
        raise OSError(
            f"{error}. Downloads are kept there: set XDG_CACHE_HOME to a folder that can be written, or "
            f"get {address} elsewhere and name its folder by root= or in the environment variable {VARIABLE}"
        ) from error
    try:
        with _files.locked(cache):  # whoever comes second finds the file there
            return Path(pooch.retrieve(address, f"sha256:{PUBLISHED[name]}", fname=name, path=cache, downloader=resume))
    except requests.RequestException as error:
        raise OSError(
            f"could not download {address} to {cache}: {error}. The same call goes on where it broke off. Without a "
            f"network: get the file elsewhere, put it into a folder, and name the folder by root= or in the "
            f"environment variable {VARIABLE}"
        ) from error
    except ValueError as error:
        raise _files.Damaged(f"{address} is not the file that was published, or broke on the way: {error}") from error
