"""The data: what ships, what is found, and what is refused."""

import gzip
import hashlib
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
import torch

from cvattn.book import data


@pytest.fixture
def full_set():
    """Skips where the full set is not on the disk; under CI=true that is a failure."""
    folder = os.environ.get("CVATTN_DATA") or data.DEBIAN
    name = "train-images-idx3-ubyte.gz"
    if not os.path.isfile(os.path.join(folder, name)):
        message = f"no {name} in {folder}: install Debian's dataset-fashion-mnist"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def idx_gz(array):
    """An idx.gz file of bytes, written from the format's description."""
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A Fashion-MNIST of five test pictures; returns its two files by name.

    Neither the environment, Debian's folder nor the user's cache is looked at.
    """
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.array([3, 1, 4, 1, 5], np.uint8)
    files, full = {}, []
    for name, array in (("i.gz", images), ("l.gz", labels)):
        files[name] = idx_gz(array)
        content = sha256(gzip.decompress(files[name]))
        full.append((name, array.shape, sha256(files[name]), content))
    monkeypatch.setattr(data, "FULL", {"test": tuple(full)})
    monkeypatch.setattr(data, "DEBIAN", tmp_path / "no-debian")
    monkeypatch.delenv("CVATTN_DATA", raising=False)
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    return files


def put(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def is_tiny(images, labels):
    return images.shape == (5, 28, 28) and labels.tolist() == [3, 1, 4, 1, 5]


# What ships


@pytest.mark.parametrize(
    "split, per_class, digest",
    [
        (
            "train",
            300,
            "68aadec2e3f3672ccec48b8f2ac0d995923eb6a2fa888bc5b4c0a74d8a761015",
        ),
        (
            "test",
            100,
            "3d7f6d64869a3f2d1afe64ae33ffb9b20670a91b31e3bbf0657e3999ec7b35cf",
        ),
    ],
)
def test_subset_is_balanced_and_fixed(split, per_class, digest):
    images, labels = data.fashion_mnist(split)
    assert images.shape == (10 * per_class, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (10 * per_class,) and labels.dtype == torch.int64
    assert labels.bincount().tolist() == [per_class] * 10
    assert sha256(images.numpy().tobytes()) == digest


def test_callers_do_not_share_pictures():
    first, _ = data.fashion_mnist("test")
    kept = first.clone()
    first.zero_()
    assert torch.equal(data.fashion_mnist("test")[0], kept)


@pytest.mark.parametrize("split", ["train", "test"])
def test_subset_is_the_first_of_each_class(full_set, split):
    images, labels = data.fashion_mnist(split)
    all_images, all_labels = data.fashion_mnist(split, full=True)
    count = data.EMBEDDED_PER_CLASS[split]
    seen, keep = [0] * 10, []
    for i, label in enumerate(all_labels.tolist()):
        seen[label] += 1
        if seen[label] <= count:
            keep.append(i)
    assert torch.equal(images, all_images[keep])
    assert torch.equal(labels, all_labels[keep])


@pytest.fixture
def same_zlib():
    if "zlib-ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("zlib-ng packs the same content into other bytes")


def test_embed_writes_the_same_subset(full_set, same_zlib, tmp_path):
    data.embed_fashion_mnist(tmp_path)
    ours = (data.EMBEDDED / "fashion_mnist.npz").read_bytes()
    assert (tmp_path / "fashion_mnist.npz").read_bytes() == ours


def test_embed_writes_the_same_photographs(same_zlib, tmp_path):
    pytest.importorskip("skimage", reason="the photographs come from scikit-image")
    data.embed_photos(tmp_path)
    ours = (data.EMBEDDED / "photos.npz").read_bytes()
    assert (tmp_path / "photos.npz").read_bytes() == ours


def test_embedded_files_are_small_and_licensed():
    sizes = {p.name: p.stat().st_size for p in data.EMBEDDED.glob("*.npz")}
    assert sizes["fashion_mnist.npz"] < 2e6 and sizes["photos.npz"] < 6e5
    licences = (data.EMBEDDED / "LICENSES.md").read_text("utf-8")
    assert all(f"## {name}" in licences for name in sizes)
    assert "Zalando SE" in licences and "CC0 1.0" in licences


@pytest.mark.parametrize(
    "name, shape, digest",
    [
        (
            "chelsea",
            (150, 225, 3),
            "809f9db2fcdb457c134b99fbbeb7121169c73cfbaedfcc3b15f8b370bb08106f",
        ),
        (
            "coffee",
            (200, 300, 3),
            "4ab8b8aa43bc6ca865a1889e8eb467fd01795ecf64ae680d3eef2859b89f17b2",
        ),
    ],
)
def test_photo(name, shape, digest):
    picture = data.photo(name)
    assert picture.shape == shape and picture.dtype == torch.uint8
    assert sha256(picture.numpy().tobytes()) == digest


def test_halve_is_the_rounded_mean_of_two_by_two():
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    small = data.halve(image)
    assert small.shape == (3, 2, 3)
    for i in range(3):
        for j in range(2):
            for c in range(3):
                four = image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
                assert small[i, j, c] == int(four.mean() + 0.5)


def test_broken_embedded_file_names_itself_and_the_cure(monkeypatch, tmp_path):
    whole = (data.EMBEDDED / "photos.npz").read_bytes()
    monkeypatch.setattr(data, "EMBEDDED", tmp_path)
    with pytest.raises(OSError, match=r"photos\.npz .*reinstall cvattn"):
        data.photo("coffee")
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for content in (b"", whole[:1000], bytes(flipped), b"not a zip file"):
        (tmp_path / "photos.npz").write_bytes(content)
        with pytest.raises(OSError, match=r"photos\.npz .*reinstall cvattn"):
            data.photo("coffee")


# Network input


def test_to_float():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    x = data.to_float(images[:, None, None].expand(3, 19, 23))
    assert x.shape == (3, 1, 19, 23) and x.dtype == torch.float32
    expected = [(v - 0.2860406) / 0.3530242 for v in (0, 0.2, 1)]
    torch.testing.assert_close(x[:, 0, 13, 17], torch.tensor(expected))


def test_mean_and_std_are_those_of_the_training_set(full_set):
    images, _ = data.fashion_mnist("train", full=True)
    counts = np.bincount(images.numpy().ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = (counts * values).sum() / counts.sum()
    std = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
    assert (round(mean, 7), round(std, 7)) == (data.MEAN, data.STD)


@pytest.mark.parametrize(
    "images, got",
    [
        (torch.zeros(2, 28, 28), r"torch.float32 of shape \(2, 28, 28\)"),
        (torch.zeros(28, 28, dtype=torch.uint8), r"torch.uint8 of shape \(28, 28\)"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"\(2, 1, 28, 28\)"),
    ],
)
def test_to_float_refuses_other_input(images, got):
    with pytest.raises(ValueError, match=f"images must be uint8 .* got .*{got}"):
        data.to_float(images)


def test_bad_names():
    with pytest.raises(ValueError, match='"train" or "test", got split=\'dev\''):
        data.fashion_mnist("dev")
    with pytest.raises(ValueError, match="chelsea, coffee, got name='lena'"):
        data.photo("lena")


def test_classes():
    assert len(data.CLASSES) == len(set(data.CLASSES)) == 10
    assert (data.CLASSES[0], data.CLASSES[9]) == ("T-shirt/top", "Ankle boot")


# The full set: where it is found


def test_full_set(full_set):
    for split, n in (("train", 60000), ("test", 10000)):
        images, labels = data.fashion_mnist(split, full=True)
        assert images.shape == (n, 28, 28) and images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [n // 10] * 10


def test_packed_hashes_are_upstream_s(full_set):
    """Upstream's files are Debian's compressed streams under another header."""
    upstream_md5 = {  # printed in upstream's README
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    packed_at = {"train": 1504176606, "t10k": 1504176627}  # August 2017
    if os.environ.get("CVATTN_DATA") or not data.DEBIAN.is_dir():
        pytest.skip("needs Debian's files")
    for name, _, packed, _ in data.FULL["train"] + data.FULL["test"]:
        stream = (data.DEBIAN / name).read_bytes()[10:]
        when = struct.pack("<I", packed_at[name.split("-")[0]])
        head = b"\x1f\x8b\x08\x08" + when + b"\x00\x03"
        file = head + name.removesuffix(".gz").encode() + b"\0" + stream
        assert hashlib.md5(file).hexdigest() == upstream_md5[name]
        assert sha256(file) == packed


def test_order_of_the_places(tiny, monkeypatch, tmp_path):
    asked = []

    def download(name, packed):
        asked.append(name)
        return tmp_path / "downloaded" / name

    put(tmp_path / "downloaded", tiny)
    monkeypatch.setattr(data, "download", download)
    assert is_tiny(*data.fashion_mnist("test", full=True))
    assert asked == ["i.gz", "l.gz"]

    monkeypatch.setattr(data, "DEBIAN", put(tmp_path / "debian", tiny))
    assert is_tiny(*data.fashion_mnist("test", full=True))
    assert asked == ["i.gz", "l.gz"]

    (tmp_path / "debian" / "i.gz").write_bytes(b"never read")
    monkeypatch.setenv("CVATTN_DATA", str(put(tmp_path / "chosen", tiny)))
    assert is_tiny(*data.fashion_mnist("test", full=True))


def test_file_missing_in_the_chosen_folder(tiny, monkeypatch, tmp_path):
    folder = put(tmp_path / "chosen", {"i.gz": tiny["i.gz"]})
    monkeypatch.setenv("CVATTN_DATA", str(folder))
    with pytest.raises(FileNotFoundError, match=r"l\.gz is missing: put https.*l\.gz"):
        data.fashion_mnist("test", full=True)


def test_other_packing_of_the_same_content(tiny, monkeypatch, tmp_path):
    again = {n: gzip.compress(gzip.decompress(c), 1) for n, c in tiny.items()}
    assert again["i.gz"] != tiny["i.gz"]
    monkeypatch.setenv("CVATTN_DATA", str(put(tmp_path / "chosen", again)))
    assert is_tiny(*data.fashion_mnist("test", full=True))


def test_pictures_read_from_a_file_can_be_written_to(tiny, tmp_path):
    folder = put(tmp_path / "chosen", tiny)
    name, shape, _, content = data.FULL["test"][0]
    assert data.read_idx(folder / name, shape, content).flags.writeable


# The full set: what is refused


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda f: f[: len(f) // 2], "is no whole gzip file"),
        (lambda f: flip(f, len(f) // 2), "is no whole gzip file"),
        (lambda f: b"<html>not found</html>", "is no whole gzip file"),
        (lambda f: b"", "is no idx file of bytes with 3 axes"),
        (
            lambda f: gzip.compress(gzip.decompress(f)[:10]),
            "is no idx file of bytes with 3 axes",
        ),
        (
            lambda f: idx_gz(np.zeros(5, np.uint8)),
            "is no idx file of bytes with 3 axes",
        ),
        (
            lambda f: idx_gz(np.zeros((4, 28, 28), np.uint8)),
            r"must hold \(5, 28, 28\), 3920 values; it announces \(4, 28, 28\) and "
            "holds 3136",
        ),
        (
            lambda f: idx_gz(np.zeros((5, 14, 56), np.uint8)),
            r"it announces \(5, 14, 56\) and holds 3920",
        ),
        (
            lambda f: gzip.compress(gzip.decompress(f)[:-1]),
            r"it announces \(5, 28, 28\) and holds 3919",
        ),
        (
            lambda f: gzip.compress(flip(gzip.decompress(f), 1000)),
            "must unpack to SHA-256 .*, got ",
        ),
    ],
    ids=[
        "truncated",
        "damaged",
        "html",
        "empty",
        "header-only",
        "labels-for-images",
        "fewer",
        "other-shape",
        "cut-inside",
        "one-pixel",
    ],
)
def test_spoilt_file_names_itself_and_the_cure(tiny, monkeypatch, tmp_path, spoil, why):
    files = dict(tiny, **{"i.gz": spoil(tiny["i.gz"])})
    folder = put(tmp_path / "chosen", files)
    monkeypatch.setenv("CVATTN_DATA", str(folder))
    with pytest.raises(ValueError, match=why) as error:
        data.fashion_mnist("test", full=True)
    message = str(error.value)
    assert message.startswith(str(folder / "i.gz"))
    assert f"replace it with {data.URL}i.gz" in message


# The full set: download


@pytest.fixture
def server(tiny, monkeypatch):
    """Serves `server.files` on this machine; `server.asked` lists what was fetched.

    With `server.cut`, it announces whole files and closes after that many bytes.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            server.asked.append(name)
            if name not in server.files:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.files[name])))
            self.end_headers()
            self.wfile.write(server.files[name][: server.cut])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.cut = dict(tiny), [], None
    monkeypatch.setattr(data, "URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def cached(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").glob("*"))


def test_download_once(server, tmp_path):
    for _ in range(2):
        assert is_tiny(*data.fashion_mnist("test", full=True))
    assert server.asked == ["i.gz", "l.gz"]
    assert cached(tmp_path) == ["i.gz", "l.gz"]


@pytest.mark.parametrize("fault", ["missing", "other-bytes", "truncated", "cut-off"])
def test_failed_download_leaves_nothing_and_can_be_repeated(
    server, tiny, tmp_path, fault
):
    if fault == "missing":
        server.files = {}
    elif fault == "other-bytes":
        server.files["i.gz"] = idx_gz(np.ones((5, 28, 28), np.uint8))
    elif fault == "truncated":
        server.files["i.gz"] = tiny["i.gz"][:1000]
    else:
        server.cut = 1000
    with pytest.raises(OSError, match=r"i\.gz did not arrive .*CVATTN_DATA"):
        data.fashion_mnist("test", full=True)
    assert cached(tmp_path) == []
    server.files, server.cut = dict(tiny), None
    assert is_tiny(*data.fashion_mnist("test", full=True))


def test_interrupted_download_leaves_nothing(server, monkeypatch, tmp_path):
    import requests

    whole = requests.Response.iter_content

    def interrupted(self, *args, **kwargs):
        yield next(whole(self, 512))
        assert len(cached(tmp_path)) == 1  # the temporary file is there by now
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.Response, "iter_content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.fashion_mnist("test", full=True)
    assert cached(tmp_path) == []


def test_spoilt_cache_is_replaced(server, tmp_path):
    put(tmp_path / "cache", {"i.gz": b"spoilt"})
    assert is_tiny(*data.fashion_mnist("test", full=True))
    assert server.asked == ["i.gz", "l.gz"]


def test_no_network(tiny, monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = unused.getsockname()[1]
        monkeypatch.setattr(data, "URL", f"http://127.0.0.1:{port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(OSError, match="did not arrive .*dataset-fashion-mnist"):
            data.fashion_mnist("test", full=True)
    assert cached(tmp_path) == []


def test_without_pooch(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pip install pooch, or .*CVATTN_DATA"):
        data.fashion_mnist("test", full=True)


def test_imports_torch_and_numpy_alone():
    code = (
        "import sys, cvattn.book.data as d; d.fashion_mnist('test'); d.photo('coffee');"
        "print({'pooch', 'requests', 'skimage', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_a_failed_embed_leaves_the_file_that_was_there(monkeypatch, tmp_path):
    small = torch.arange(10).repeat(300), torch.zeros(3000, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr(data, "fashion_mnist", lambda split, full: small[::-1])
    data.embed_fashion_mnist(tmp_path)
    before = (tmp_path / "fashion_mnist.npz").read_bytes()

    def full_disk(target, **arrays):
        file = target if hasattr(target, "write") else open(target, "wb")
        file.write(b"half a")
        file.close()
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space left"):
        data.embed_fashion_mnist(tmp_path)
    assert (tmp_path / "fashion_mnist.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fashion_mnist.npz"]


def test_the_docstring_names_the_error_without_pooch():
    assert "ImportError: " in data.fashion_mnist.__doc__.split("Raises:")[1]
