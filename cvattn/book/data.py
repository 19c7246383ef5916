"""Fashion-MNIST and two photographs, on the disk already or one download away.

A subset of Fashion-MNIST ships with the package, so that every chapter runs
without a network: of each class the first 300 pictures of the training set and
the first 100 of the test set, in the order of the originals.

`python -m cvattn.book.data embed` writes those files anew (it needs the full set, and
scikit-image for the photographs). Sources and licences: _data/LICENSES.md.

Fashion-MNIST: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747v2.
"""

import gzip
import hashlib
import math
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = 0.2860406, 0.3530242  # of all 60,000 training pictures, as x / 255
PHOTOS = ("chelsea", "coffee")

EMBEDDED = Path(__file__).parent / "_data"
EMBEDDED_PER_CLASS = {"train": 300, "test": 100}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
URL = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
    "b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/"
)

# Per split: images, labels; each with its file, shape, the SHA-256 of the file as
# upstream serves it, and that of its unpacked content. Debian packs the same
# content anew, so files found on the disk are checked by content.
FULL = {
    "train": (
        (
            "train-images-idx3-ubyte.gz",
            (60000, 28, 28),
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            (60000,),
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    "test": (
        (
            "t10k-images-idx3-ubyte.gz",
            (10000, 28, 28),
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            (10000,),
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}


def fashion_mnist(split: str, *, full: bool = False) -> tuple[Tensor, Tensor]:
    """Pictures of clothes and their classes.

    Shape:
        images (N, 28, 28) uint8, labels (N,) int64, indices into `CLASSES`.
        N is 3,000 (train) or 1,000 (test); in full 60,000 or 10,000. All balanced.

    Args:
        split: "train" or "test".
        full: the whole set instead of the embedded subset. It is looked for in the
            folder that the environment variable CVATTN_DATA names; without that
            variable in Debian's folder (package dataset-fashion-mnist), then in
            pooch's cache, which downloads it once (31 MB).

    Raises:
        ValueError: another split, or a file whose content is not the published one.
        OSError: a file is missing, or its download failed. Nothing is left behind.
        ImportError: the full set has to be downloaded, and pooch is not installed.
    """
    if split not in FULL:
        raise ValueError(f'split must be "train" or "test", got split={split!r}')
    if full:
        images, labels = (
            read_idx(find(name, packed), shape, content)
            for name, shape, packed, content in FULL[split]
        )
    else:
        arrays = load_embedded("fashion_mnist.npz")
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def to_float(images: Tensor) -> Tensor:
    """Network input: (x / 255 - MEAN) / STD, with a channel axis.

    Shape:
        (N, H, W) uint8 -> (N, 1, H, W) float32.
    """
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise ValueError(
            "images must be uint8 of shape (N, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    return (images[:, None].float() / 255 - MEAN) / STD  # (N, 1, H, W)


def photo(name: str) -> Tensor:
    """A colour photograph: "chelsea" (a cat) or "coffee" (a cup on a table).

    Shape:
        (H, W, 3) uint8; (150, 225, 3) for chelsea, (200, 300, 3) for coffee.
    """
    if name not in PHOTOS:
        raise ValueError(f"name must be one of {', '.join(PHOTOS)}, got name={name!r}")
    return torch.from_numpy(load_embedded("photos.npz")[name])


def find(name: str, packed: str) -> Path:
    """Where a file of the full set lies; downloads it as the last resort."""
    folder = os.environ.get("CVATTN_DATA")
    if folder:
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: put {URL}{name} there, or unset CVATTN_DATA"
            )
        return path
    if (DEBIAN / name).is_file():
        return DEBIAN / name
    return download(name, packed)


def download(name: str, packed: str) -> Path:
    """Fetch a file into pooch's cache, or find it there.

    pooch writes to a temporary file, compares its SHA-256 with `packed`, and only
    then gives it its name: the cache never holds a broken file.
    """
    cure = (
        "try again with a network, install Debian's dataset-fashion-mnist, or put "
        "the file into a folder and name the folder in CVATTN_DATA"
    )
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            f"downloading {name} needs pooch: pip install pooch, or {cure}"
        ) from error
    try:
        path = pooch.retrieve(
            URL + name, known_hash=packed, fname=name, path=pooch.os_cache("cvattn")
        )
    except (OSError, ValueError) as error:  # no network; another content
        raise OSError(f"{URL}{name} did not arrive ({error}): {cure}") from error
    return Path(path)


def read_idx(path: Path, shape: tuple[int, ...], content: str) -> np.ndarray:
    """Unpack an idx.gz file of bytes: 0, 0, 8, number of axes, the axes, the values.

    Raises:
        ValueError: the file is cut short or damaged, is no idx file, has other sizes
            than `shape`, or its SHA-256 is not `content`.
    """
    head = 4 + 4 * len(shape)
    try:
        data = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken(path, f"is no whole gzip file ({error})") from error
    if data[:4] != bytes([0, 0, 8, len(shape)]) or len(data) < head:
        raise broken(path, f"is no idx file of bytes with {len(shape)} axes")
    sizes = struct.unpack(f">{len(shape)}I", data[4:head])
    if sizes != shape or len(data) != head + math.prod(shape):
        raise broken(
            path,
            f"must hold {shape}, {math.prod(shape)} values; "
            f"it announces {sizes} and holds {len(data) - head}",
        )
    found = hashlib.sha256(data).hexdigest()
    if found != content:
        raise broken(path, f"must unpack to SHA-256 {content}, got {found}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape).copy()


def broken(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} {why}: replace it with {URL}{path.name} "
        "(in Debian's folder: apt-get install --reinstall dataset-fashion-mnist)"
    )


def load_embedded(name: str) -> dict[str, np.ndarray]:
    path = EMBEDDED / name
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(
            f"{path} ships with cvattn and cannot be read ({error}): reinstall cvattn"
        ) from error


def embed_fashion_mnist(folder: Path) -> None:
    """Write the subset; with the same zlib, the same bytes every time."""
    arrays = {}
    for split, count in EMBEDDED_PER_CLASS.items():
        images, labels = fashion_mnist(split, full=True)
        firsts = [(labels == c).nonzero()[:count, 0] for c in range(len(CLASSES))]
        keep = torch.cat(firsts).sort().values
        arrays[f"{split}_images"] = images[keep].numpy()
        arrays[f"{split}_labels"] = labels[keep].byte().numpy()
    write_embedded(folder / "fashion_mnist.npz", arrays)


def embed_photos(folder: Path) -> None:
    """Write the photographs, halved, as scikit-image has them."""
    from skimage import data as originals

    photos = {name: halve(getattr(originals, name)()) for name in PHOTOS}
    write_embedded(folder / "photos.npz", photos)


def write_embedded(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a file under another name first, so that `path` is never half a file."""
    half = path.with_name(f".{path.name}.part")
    try:
        with half.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def halve(image: np.ndarray) -> np.ndarray:
    """The rounded mean of every 2 x 2 pixels; an odd last row or column is dropped."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).astype(np.uint16)
    return ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)  # (h, w, 3)


if __name__ == "__main__":
    if sys.argv[1:] != ["embed"]:
        sys.exit("usage: python -m cvattn.book.data embed")
    embed_fashion_mnist(EMBEDDED)
    embed_photos(EMBEDDED)
