"""The reader's own picture: any file in, one Fashion-MNIST picture out."""

import io

import numpy as np
import pytest

from cvattn.upload import Upload, to_fashion

Image = pytest.importorskip("PIL.Image")


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def square(size=(90, 60), ground=255, ink=0):
    pixels = np.full(size, ground, np.uint8)
    h, w = size
    pixels[h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = ink
    return pixels


def test_bright_on_black_and_28_by_28():
    for ground, ink in ((255, 0), (0, 255)):
        picture = to_fashion(png(square(ground=ground, ink=ink)))
        assert picture.shape == (28, 28)
        assert picture[14, 14] == 255
        assert picture[0, 0] == 0


def test_colour_becomes_grey():
    colour = np.zeros((40, 40, 3), np.uint8)
    colour[10:30, 10:30] = (0, 200, 0)
    assert to_fashion(png(colour))[14, 14] == 117    # 0.587 of 200


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="not a picture"):
        to_fashion(b"no picture")


@pytest.mark.parametrize("version", [7, 8])
def test_both_generations_of_upload_buttons(version):
    pytest.importorskip("ipywidgets")
    seen = []
    upload = Upload(seen.append)
    file = {"name": "a.png", "content": memoryview(png(square()))}
    upload.changed({"new": {"a.png": file} if version == 7 else (file,)})
    assert seen[0].shape == (28, 28)


def test_a_broken_file_is_told_not_raised(capsys):
    pytest.importorskip("ipywidgets")
    seen = []
    Upload(seen.append).changed({"new": ({"content": b"no picture"},)})
    assert seen == []
    assert "not a picture" in capsys.readouterr().out


def test_a_page_shows_a_sentence():
    pytest.importorskip("ipywidgets")
    bundle = Upload(print)._repr_mimebundle_()
    assert bundle["text/plain"] == Upload.SENTENCE == repr(Upload(print))
