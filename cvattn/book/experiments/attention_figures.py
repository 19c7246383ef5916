"""Collect the feature map that the chapter "What attention is" weighs by hand.

    python -m cvattn.book.experiments.attention_figures --out cvattn/book/results

reads results/se.safetensors and the test pictures, and writes
results/attention_live.npz: bytes that the page shows as they are. Run
`python -m cvattn.book.live shoot` after it to take the figures' pictures anew.

Rules that choose what is shown, so that nothing is picked by hand: the pictures are
those of `se_figures`; the channels are the SHOWN_CHANNELS of the second stage's output
whose means differ most (standard deviation) between those pictures.
"""


import torch

from cvattn.book import data
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.se import trained
from cvattn.book.experiments.se_figures import first_correct
from cvattn.resnet import ResNet

SHOWN_CHANNELS = 6


def collect(net: ResNet, images: torch.Tensor, labels: torch.Tensor) -> dict:
    """Return the arrays of attention_live.npz, by name."""
    seen = []
    hook = net.layer2.register_forward_hook(lambda m, args, y: seen.append(y))
    try:
        with torch.inference_mode():
            logits = torch.cat([net(data.to_float(x)) for x in images.split(500)])
    finally:
        hook.remove()
    index = first_correct(logits, labels)
    u = torch.cat(seen)[index]                                  # (4, 32, 14, 14)
    spread = u.mean(dim=(2, 3)).std(dim=0)
    channels = spread.topk(SHOWN_CHANNELS).indices.sort().values
    arrays = {
        "pictures": images[index],                              # (4, 28, 28) uint8
        "labels": labels[index].int(),
        "channels": channels.int(),
        "u": u[:, channels],                                    # (4, 6, 14, 14)
    }
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    keep_arrays("attention_live", __doc__, lambda: collect(
        trained("se"), *data.fashion_mnist("test")))
