"""The reader's own picture: any file in, one Fashion-MNIST picture out."""

import io

import numpy as np
import pytest

from cvattn.book.upload import Upload, to_fashion

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


def test_no_message_tells_an_address_in_memory():
    whole = png(square())
    for content in (b"no picture", whole[:60], whole[:30] + b"x" * 50):
        with pytest.raises(ValueError, match="not a picture") as caught:
            to_fashion(content)
        assert "0x" not in str(caught.value) and "<" not in str(caught.value)


def test_a_picture_with_too_many_pixels_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="too many pixels: make it smaller"):
        to_fashion(png(square()))


def test_sixteen_bits_keep_their_shades():
    shades = square(ground=0, ink=100).astype(np.uint16) * 256 + 7
    shades[shades.shape[0] // 2 :] *= 2
    picture = to_fashion(png(shades))
    assert picture[11, 14] == 100 and picture[16, 14] == 200 and picture[0, 0] == 0


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(kind):
    """Black ink on a clear ground whose hidden colour is black as well."""
    alpha = square(ground=0, ink=255)
    picture = Image.new("RGBA", alpha.shape[::-1], (0, 0, 0, 0))
    picture.putalpha(Image.fromarray(alpha))
    file = io.BytesIO()
    picture.convert(kind).save(file, "PNG")
    assert_square(to_fashion(file.getvalue()))


def test_one_colour_can_be_the_transparent_one():
    file = io.BytesIO()
    Image.fromarray(square(ground=3, ink=0)).save(file, "PNG", transparency=3)
    assert_square(to_fashion(file.getvalue()))


def assert_square(picture):
    """White on black, as the ink was black and the ground white."""
    assert picture[14, 14] == 255 and picture[0, 0] == 0 and picture[27, 14] == 0


def test_a_picture_is_turned_as_the_camera_was_held():
    pixels = np.zeros((60, 60), np.uint8)
    pixels[20:40, 10:30] = 255          # left of the middle
    image, file = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6                    # to be turned right: left becomes up
    image.save(file, "PNG", exif=exif)
    picture = to_fashion(file.getvalue())
    assert picture[6, 14] == 255 and picture[14, 6] == 0


def test_sixteen_bits_are_turned_too():
    pixels = np.zeros((60, 60), np.uint16)
    pixels[20:40, 10:30] = 60000
    image, file = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    picture = to_fashion(file.getvalue())
    assert picture[6, 14] == 60000 >> 8 and picture[14, 6] == 0


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
