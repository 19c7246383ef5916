"""Files are whole or not there."""

import numpy as np
import pytest

from cvattn.book import files


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "a.json"
    files.write(file, "before")
    with pytest.raises(OSError, match="disk full"), files.replacing(file) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    file = tmp_path / "a.json"
    with files.replacing(file) as first:
        first.write_text("first")
        with files.replacing(file) as second:
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_what_is_written_comes_back(tmp_path):
    files.write(tmp_path / "text", "\u00fc\n")
    files.write(tmp_path / "bytes", b"\x00\xff")
    files.write_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    assert (tmp_path / "text").read_bytes() == b"\xc3\xbc\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
