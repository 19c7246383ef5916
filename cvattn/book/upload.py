"""Let the reader hand over a picture of their own. Needs a running kernel."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


def to_fashion(content: bytes) -> Tensor:
    """Return a picture file as Fashion-MNIST would show it, uint8 (28, 28).

    Grey, the middle square, 28 x 28 pixels, bright on black: where the border is
    brighter than the middle, black and white change places. It is turned as the
    camera was held; what is transparent counts as white.

    Raises:
        ValueError: if the bytes are no picture that Pillow can read, or if the
            picture has more pixels than Pillow takes from a stranger.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as file:
            picture = grey(ImageOps.exif_transpose(file))
    except Image.DecompressionBombError:
        raise ValueError(
            "this picture has too many pixels: make it smaller, 2000 x 2000 at most"
        ) from None
    except UnidentifiedImageError:
        raise ValueError(
            "this file is not a picture I can read: try a PNG or a JPEG"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:    # cut short, or damaged
        raise ValueError(
            f"this file is not a picture I can read: {error}"
        ) from None
    pixels = np.asarray(ImageOps.fit(picture, (28, 28)))
    inside = pixels[4:-4, 4:-4]
    border = (pixels.sum(dtype=int) - inside.sum(dtype=int)) / (28**2 - inside.size)
    if border > inside.mean():
        pixels = 255 - pixels
    return torch.from_numpy(pixels.copy())


def grey(picture: "Image.Image") -> "Image.Image":
    """Return a Pillow picture in 8-bit grey, with white below what is transparent."""
    from PIL import Image

    if picture.mode.startswith("I"):    # 16 bits; convert("L") would cut at 255
        return Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("L")


class Upload:
    """A button that takes a picture file and shows `answer(picture)` below it.

    `answer` gets the picture as `to_fashion` returns it and draws or prints.
    Without a kernel (a page, a printout) only a sentence is shown. Works with
    ipywidgets 7 and 8, whose upload buttons keep their files differently.
    """

    SENTENCE = "Run this notebook, on Colab or at home, to upload a picture here."

    def __init__(self, answer: Callable[[Tensor], object]):
        import ipywidgets

        self.answer = answer
        self.button = ipywidgets.FileUpload(
            accept="image/*", multiple=False, description="Your picture"
        )
        self.shown = ipywidgets.Output()
        self.box = ipywidgets.VBox([self.button, self.shown])
        self.button.observe(self.changed, names="value")

    def changed(self, change: dict) -> None:
        files = change["new"]
        if not files:
            return
        file = list(files.values())[-1] if isinstance(files, dict) else files[-1]
        self.show(bytes(file["content"]))

    def show(self, content: bytes) -> None:
        self.shown.clear_output(wait=True)
        with self.shown:
            try:
                picture = to_fashion(content)
            except ValueError as error:
                print(error)
            else:
                self.answer(picture)

    def __repr__(self) -> str:
        return self.SENTENCE

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {
            "text/plain": self.SENTENCE,
            "application/vnd.jupyter.widget-view+json": view,
        }
