"""Live figures: they run in the page, with no kernel and no network::

    from cvattn.book import live
    live.surgery()          # the last line of a cell: the figure shows itself

A figure is a piece of HTML with its data, style and script inside (`page/`), and
with a picture and a sentence that the script replaces when it starts: where no
script runs (a preview, an e-mail) they remain. Its bytes are the same on every
machine: the numbers shown are shipped, never computed here::

    python -m cvattn.book.live shoot [NAME …]  # take the fallback pictures, in Chromium
    python -m cvattn.book.live page DIR        # write each figure as a page of its own
"""

from cvattn.book.live.attention import lookup, weigh
from cvattn.book.live.bam import combine, field, hierarchy
from cvattn.book.live.cbam import paint, slide, spot
from cvattn.book.live.clinic import cover, trap
from cvattn.book.live.figure import Live, arrays
from cvattn.book.live.se import reduction, squeeze, surgery
from cvattn.book.live.sk import axis, grow
from cvattn.book.live.stn import upright, warp
from cvattn.book.live.transformer import arrows, dates, waves
from cvattn.book.live.vit import looks, shuffle

FIGURES = (lookup, weigh, squeeze, surgery, reduction, spot, slide, paint, field,
           combine, hierarchy, axis, grow, warp, upright, arrows, waves, dates, looks,
           shuffle, trap, cover)
__all__ = ["FIGURES", "Live", "arrays", *(make.__name__ for make in FIGURES)]
