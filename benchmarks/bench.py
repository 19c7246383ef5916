"""Time and memory of every module beside its peers, all in one run.

    make bench                                   # the table
    make bench BENCH=--write                     # and keep it in benchmarks/results
    python -m benchmarks.bench --quick           # few turns, to try it
    python -m benchmarks.bench --compiled        # under torch.compile too
    python -m benchmarks.bench --only SE CBAM    # some modules

Before anything is measured, ours gets each peer's weights (`cvattn.weights`) and must
give its output. Then they take turns, in an order that changes, so that whatever else
the machine does slows all. The ratio of a turn is the time of ours over that of the
peer in this turn; the table has the quartiles of these ratios, for the peer with the
lowest median time. It runs on CUDA where there is one.

noise    ours over ours: a second copy takes its turns like any peer. The row is marked
         SLOWER if the ratio's lower quartile is above 1 and its median above the
         upper quartile of the noise.
limit    the time to move the bytes that must move, at the speed of copying a tensor
         of x's size, which takes its turns too. Forward: read x and the weights,
         write y. With backward: again x and the weights, and the gradient of y, and
         write the gradients of x and of the weights. Attention and convolution
         compute for longer than that.
peak     the most memory that a pass takes beyond weights and inputs, as the allocator
         counts it, so also what a fused kernel takes and gives back;
kept     what the forward pass keeps for the backward pass, as `cvattn.cost` counts it;
         ours, and the least among the peers. Marked MORE MEMORY beyond a thousandth.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cvattn
from benchmarks import official, peers
from cvattn import cost, weights
from cvattn.book.experiments.record import hardware, versions
from cvattn.layers import DecoderLayer, EncoderLayer
from cvattn.multihead import MultiHeadAttention

RESULTS = Path(__file__).parent / "results"
PICTURES = [(8, 256, 56, 56), (32, 64, 56, 56), (32, 512, 14, 14)]
LENGTHS = [(8, 196), (2, 1024), (1, 4096)]      # batch, sequence


class Call(nn.Module):
    """A peer that takes x in another way: forward(x) is call(module, x)."""

    def __init__(self, module: nn.Module, call: Callable):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.module, x)


@dataclass
class Case:
    """Ours and its peers; `part` is its name in the peer's whole, if it is a part."""

    name: str
    shape: tuple[int, ...]
    ours: nn.Module
    peers: dict[str, nn.Module]
    part: str = ""


def pictures(timm, torchvision, shape: tuple[int, ...]) -> Iterator[Case]:
    """The modules that take (B, C, H, W)."""
    from timm.layers import SelectiveKernel, SEModule
    from timm.layers.cbam import CbamModule, ChannelAttn, SpatialAttn

    C = shape[1]
    yield Case("SE", shape, cvattn.SE(C, bias=True), {
        "torchvision": torchvision.ops.SqueezeExcitation(C, C // 16),
        "timm": SEModule(C, rd_channels=C // 16)})
    yield Case("ChannelAttention", shape, cvattn.ChannelAttention(C), {
        "timm": ChannelAttn(C)}, "channel")
    yield Case("SpatialAttention", shape, cvattn.SpatialAttention(C, norm=True), {
        "timm": SpatialAttn()}, "spatial")
    yield Case("CBAM", shape, cvattn.CBAM(C, official=True), {
        "timm": CbamModule(C, mlp_bias=True), "official": official.CBAM(C)})
    yield Case("BAM", shape, cvattn.BAM(C, official=True), {
        "official": official.BAM(C)})
    yield Case("SK", shape, cvattn.SK(C), {
        "timm": SelectiveKernel(C, C, kernel_size=[3, 5], groups=32, rd_divisor=32,
                                split_input=False)})
    localise = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    yield Case("SpatialTransformer", shape,
               cvattn.SpatialTransformer(localise, features=16 * C),
               {"torch.nn": official.SpatialTransformer(localise, 16 * C)})


def sequences(timm, torchvision, shape: tuple[int, ...]) -> Iterator[Case]:
    """The modules that take (B, N, d)."""
    from timm.layers import Attention
    from timm.models.vision_transformer import Block
    from torchvision.models.vision_transformer import EncoderBlock

    d, h = shape[2], shape[2] // 64
    mine = partial(MultiHeadAttention, d, num_heads=h, bias=True)
    theirs = partial(nn.MultiheadAttention, d, h, batch_first=True)
    yield Case("MultiHeadAttention", shape, mine(), {
        "torch.nn": Call(theirs(), lambda m, x: m(x, x, x, need_weights=False)[0]),
        "timm": Attention(d, h, qkv_bias=True)})
    causal = torch.triu(torch.ones(shape[1], shape[1], dtype=torch.bool), 1)
    yield Case("MultiHeadAttention causal", shape,
               Call(mine(), lambda m, x: m(x, causal=True)), {
        "torch.nn": Call(theirs(), lambda m, x: m(
            x, x, x, need_weights=False, is_causal=True,
            attn_mask=causal.to(x.device))[0])})
    plain = partial(nn.TransformerEncoderLayer, d, h, 4 * d, 0.0, batch_first=True)
    ours = partial(EncoderLayer, d, num_heads=h, hidden=4 * d, dropout=0.0, bias=True)
    yield Case("EncoderLayer", shape, ours(), {"torch.nn": plain()})
    yield Case("ViT layer", shape, ours(norm_first=True, activation=F.gelu, eps=1e-6), {
        "torch.nn": plain(norm_first=True, activation="gelu", layer_norm_eps=1e-6),
        "torchvision": EncoderBlock(h, d, 4 * d, 0.0, 0.0),
        "timm": Block(d, h, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))})
    yield Case("DecoderLayer", shape,
               Call(DecoderLayer(d, num_heads=h, hidden=4 * d, dropout=0.0,
                                        bias=True), lambda m, x: m(x, x)), {
        "torch.nn": Call(
            nn.TransformerDecoderLayer(d, h, 4 * d, 0.0, batch_first=True),
            lambda m, x: m(x, x, tgt_is_causal=True, tgt_mask=causal.to(x.device)))})


def cases(timm, torchvision) -> Iterator[Case]:
    for shape in PICTURES:
        yield from pictures(timm, torchvision, shape)
    for batch, length in LENGTHS:
        yield from sequences(timm, torchvision, (batch, length, 512))


def load(model: nn.Module, state: dict[str, Tensor], part: str) -> None:
    if part:
        model = nn.ModuleDict({part: model})
        state = {f"{part}.{name}": tensor for name, tensor in state.items()}
    weights.load(model, state)


def agree(case: Case, x: Tensor) -> None:
    """Assert that ours, given a peer's weights, gives the peer's output."""
    inner = [m.module if isinstance(m, Call) else m
             for m in (case.ours, *case.peers.values())]
    for (name, peer), module in zip(case.peers.items(), inner[1:], strict=True):
        for p in module.parameters():
            nn.init.normal_(p, std=0.05)      # nothing may be zero by its design
        load(inner[0], module.state_dict(), case.part)
        with torch.inference_mode():
            want, got = peer.eval()(x), case.ours.eval()(x)
        error, size = (got - want).abs().max().item(), want.abs().max().item()
        if not error <= 1e-4 * size:
            raise AssertionError(
                f"{case.name} is not {name}'s: off by {error:.1e} of {size:.1e}")


def forward(model: nn.Module, x: Tensor, g: Tensor) -> None:
    with torch.inference_mode():
        model(x)


def both(model: nn.Module, x: Tensor, g: Tensor) -> None:
    model.zero_grad()
    x.grad = None
    model(x).backward(g)


PASSES = {"forward": forward, "forward + backward": both}


def peak(do: Callable, model: nn.Module, x: Tensor, g: Tensor) -> int:
    """Return the most bytes of a pass beyond those before it, gradients included."""
    return cost.peak(lambda model, inputs: do(model, *inputs, g), model, [x], x.device)


def least_bytes(name: str, model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return what a pass must move, see the top of the file."""
    w = sum(p.nbytes for p in model.parameters())
    if name == "forward":
        return x.nbytes + y.nbytes + w
    return 3 * x.nbytes + 2 * y.nbytes + 3 * w


def rows(case: Case, device: str, budget: float, compiled: bool,
         channels_last: bool) -> Iterator[dict]:
    """Yield what was measured: forward, with backward, and these again compiled."""
    layout = (torch.channels_last if channels_last and len(case.shape) == 4
              else torch.contiguous_format)
    models = {"cvattn": case.ours, **case.peers}
    models = {n: m.to(device, memory_format=layout) for n, m in models.items()}
    x = torch.randn(case.shape, device=device).to(memory_format=layout)
    agree(case, x)
    x.requires_grad_()
    with torch.no_grad():
        y = case.ours(x)
    g, room = torch.randn_like(y), torch.empty_like(x)
    for form in ("eager", "compiled")[: 1 + compiled]:
        if form == "compiled":
            torch.compiler.reset()
            models = {n: torch.compile(m, dynamic=False) for n, m in models.items()}
        for name, do in PASSES.items():
            steps = {n: partial(do, m.train(do is both), x, g)
                     for n, m in models.items()}
            steps["again"] = steps["cvattn"]
            steps["copy"] = partial(room.copy_, x.detach())
            for step in steps.values():
                step()      # libraries choose their kernels, compilers compile
            times = cost.turns(steps, x.device, 5, budget=budget, shortest=0.005)
            memory = {}
            if form == "eager":
                memory["peak"] = {n: peak(do, m, x, g) for n, m in models.items()}
                if do is both:
                    memory["kept"] = {n: cost.kept(m, (x,)) for n, m in models.items()}
            yield row(case, name, form, times, memory,
                      least_bytes(name, case.ours, x, y) / (2 * x.nbytes))


def row(case: Case, name: str, form: str, times: dict[str, list[float]],
        memory: dict[str, dict[str, int]], copies: float) -> dict:
    """Arrange one measurement as data."""
    ratio = {peer: cost.quartiles(times["cvattn"], times[peer]) for peer in case.peers}
    median = {n: statistics.median(t) for n, t in times.items()}
    fastest = min(case.peers, key=median.get, default=None)
    noise = cost.quartiles(times["cvattn"], times["again"])
    q = ratio.get(fastest)
    return {
        "module": case.name, "shape": case.shape, "pass": name, "form": form,
        "turns": len(times["cvattn"]), "seconds": median, "ratio": ratio,
        "noise": noise, "fastest": fastest, "limit": copies * median["copy"],
        "slower": q is not None and q[0] > 1 and q[1] > noise[2],
        "memory": memory,
        "more": any(
            b["cvattn"] > 1.001 * min(v for n, v in b.items() if n != "cvattn")
            for b in memory.values() if len(b) > 1),
    }


HEAD = (f"{'module':26}{'shape':19}{'pass':20}{'form':10}{'ms':>9}{'limit':>8}  "
        f"{'peer':12}{'ratio':22}{'noise':14}{'peak MB':>16}{'kept MB':>16}")


def line(r: dict) -> str:
    """Return a row as text."""
    def pair(key: str) -> str:
        b = r["memory"].get(key)
        if b is None:
            return ""
        least = min((v for n, v in b.items() if n != "cvattn"), default=math.nan)
        return f"{b['cvattn'] / 1e6:.1f} / {least / 1e6:.1f}"

    q = r["ratio"].get(r["fastest"])
    ratio = f"{q[1]:.2f} [{q[0]:.2f}, {q[2]:.2f}]" if q else "no peer"
    marks = " SLOWER" * r["slower"] + " MORE MEMORY" * r["more"]
    return (f"{r['module']:26}{str(tuple(r['shape'])):19}{r['pass']:20}{r['form']:10}"
            f"{r['seconds']['cvattn'] * 1e3:9.2f}{r['limit'] * 1e3:8.2f}  "
            f"{r['fastest'] or '':12}{ratio:22}"
            f"{'[{:.2f}, {:.2f}]'.format(r['noise'][0], r['noise'][2]):14}"
            f"{pair('peak'):>16}{pair('kept'):>16}{marks}")


def record(found: list[dict], timm, torchvision, channels_last: bool) -> Path:
    """Keep the table as data, with what it was measured on."""
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name().lower().replace(" ", "-") if cuda else "cpu"
    path = RESULTS / f"{name}{'-channels-last' * channels_last}.json"
    RESULTS.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({
        "command": "python -m benchmarks.bench " + " ".join(sys.argv[1:]),
        "hardware": hardware(torch.device("cuda" if cuda else "cpu"))
                    | {"threads": torch.get_num_threads()},
        "versions": versions() | {"timm": timm.__version__,
                                  "torchvision": torchvision.__version__},
        "rows": found,
    }, indent=1) + "\n")
    os.replace(part, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="for each row")
    parser.add_argument("--quick", action="store_true", help="five turns for each row")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="these modules")
    parser.add_argument("--write", action="store_true", help=f"keep it in {RESULTS}")
    options = parser.parse_args()
    if options.write and (options.only or options.quick):
        parser.error("--write keeps the whole table: not with --only or --quick")
    try:
        timm, torchvision = peers.load()
    except ImportError as error:
        sys.exit(f"The benchmark compares with timm and torchvision. {error}")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(HEAD, flush=True)
    found = []
    for case in cases(timm, torchvision):
        if options.only and case.name not in options.only:
            continue
        for r in rows(case, device, 0 if options.quick else options.seconds,
                      options.compiled, options.channels_last):
            found.append(r)
            print(line(r), flush=True)
    print(f"{len(found)} rows, {sum(r['slower'] for r in found)} SLOWER, "
          f"{sum(r['more'] for r in found)} MORE MEMORY")
    if options.write:
        print(record(found, timm, torchvision, options.channels_last))


if __name__ == "__main__":
    main()
