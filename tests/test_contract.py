"""What every module of the package promises, whatever paper it comes from.

A new module gets an entry in cases.py and some lines in BAD_ARGUMENTS.
"""

import ast
import copy
import inspect
import io
import math
import os
import pickle
import re
import shutil
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import MODULES, VARIANTS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

import cvattn
from cvattn import (
    BAM,
    CBAM,
    SE,
    SK,
    ChannelAttention,
    ChannelGate,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    PositionalEncoding,
    SpatialAttention,
    SpatialGate,
    SpatialTransformer,
    Transformer,
    ViT,
    checks,
    rollout,
)
from cvattn.book.experiments.bam_variants import BAMVariant
from cvattn.book.experiments.cbam_variants import (
    CBAMVariant,
    ChannelVariant,
    SpatialVariant,
)

CI = os.environ.get("CI", "").lower() == "true"
BATCHES, SIZES = (1, 2, 5), ((3, 7), (13, 11))


MULTIPLE = "channels must be a positive multiple of {}, got channels={}, {}={}".format
HEADS = "dim must be a positive multiple of num_heads, got dim={}, num_heads={}".format
POOL = 'pool must be ("mean",), ("max",) or both, in either order, got pool={!r}'
NORM = 'norm must be "last" or "hidden", got norm={!r}'.format
WHOLE = "{0} must be a whole number from 1 up, got {0}={1}".format
SHARE = "dropout must be from 0 to 1, got dropout={}".format
KERNEL = "kernel_size must be odd and positive, got kernel_size={}".format
BAD_ARGUMENTS = [
    *[(cls, (c,), {"reduction": r}, MULTIPLE("reduction", c, "reduction", r))
      for cls in (SE, ChannelAttention, CBAM, ChannelGate, SpatialGate, BAM,
                  ChannelVariant, CBAMVariant, BAMVariant)
      for c, r in ((0, 16), (-16, 16), (16, 0), (16, -4))],
    *[(cls, (c,), {"reduction": r},
       MULTIPLE("reduction", c, "reduction", r) + f": reduction={fits} would fit")
      for cls in (SE, ChannelAttention, CBAM, ChannelGate, SpatialGate, BAM, SK,
                  ChannelVariant, CBAMVariant, BAMVariant)
      for c, r, fits in ((96, 36, 32), (32, 48, 32), (64, 96, 64), (32, 5, 4))],
    *[(cls, args, {"kernel_size": k}, KERNEL(k))
      for cls, args in ((SpatialAttention, (5,)), (CBAM, (16,)),
                        (SpatialVariant, (5,)), (CBAMVariant, (16,)))
      for k in (0, 2, 8, -3)],
    *[(cls, (0,), {}, WHOLE("channels", 0))
      for cls in (SpatialAttention, SpatialVariant)],
    *[(cls, (16,), {"pool": pool}, POOL.format(pool))
      for cls in (ChannelVariant, SpatialVariant)
      for pool in ((), ("mean", "mean"), ("median",), "mean")],
    (ChannelVariant, (16,), {"pool": "conv"}, POOL.format("conv")),
    (CBAMVariant, (16,), {"order": "both"}, "order must be one of ('channel-spatial', "
     "'spatial-channel', 'parallel', 'channel', 'spatial'), got order='both'"),
    (BAMVariant, (16,), {"norm": True}, NORM(True)),
    *[(cls, (16,), {"dilation": 0}, WHOLE("dilation", 0))
      for cls in (SpatialGate, BAM, BAMVariant)],
    (BAMVariant, (16,), {"combine": "mean"},
     "combine must be one of ('sum', 'product', 'max'), got combine='mean'"),
    (SK, (48,), {}, MULTIPLE("groups", 48, "groups", 32) + ": groups=24 would fit"),
    *[(SK, (64,), {name: 0}, WHOLE(name, 0))
      for name in ("branches", "minimum", "stride")],
    (SpatialTransformer, (nn.Identity(),), {"features": 0},
     WHOLE("features", 0)),
    (SpatialTransformer, (nn.Identity(),), {"features": 3, "transform": "warp"},
     "transform must be Affine(), Attention(), Projective() or "
     "ThinPlateSpline(points), got 'warp'"),
    (SpatialTransformer, (nn.Identity(),), {"features": 3, "size": (5, 0)},
     "size must be two whole numbers from 1 up, got (5, 0)"),
    *[(cls, (d,), {"num_heads": h}, HEADS(d, h))
      for cls in (MultiHeadAttention, EncoderLayer, DecoderLayer)
      for d, h in ((0, 1), (8, 0), (-8, 8))],
    *[(cls, (d,), {"num_heads": h}, HEADS(d, h) + f": num_heads={fits} would fit")
      for cls in (MultiHeadAttention, EncoderLayer, DecoderLayer)
      for d, h, fits in ((10, 3, 2), (4, 8, 4))],
    *[(cls, (32,), {"dim": 10, "num_heads": 3},
       HEADS(10, 3) + ": num_heads=2 would fit") for cls in (Transformer, ViT)],
    *[(cls, (16,), {"dropout": dropout}, SHARE(dropout))
      for cls in (MultiHeadAttention, EncoderLayer, DecoderLayer, PositionalEncoding,
                  Transformer, ViT)
      for dropout in (1.5, -0.1, math.nan)],
    (FeedForward, (8,), {"hidden": 0}, WHOLE("hidden", 0)),
    (PositionalEncoding, (0,), {}, WHOLE("dim", 0)),
    (PositionalEncoding, (8,), {"max_length": 0}, WHOLE("max_length", 0)),
    (Transformer, (9,), {"layers": 0}, WHOLE("layers", 0)),
    *[(Transformer, (9,), {"pad": pad}, "pad must be an id from 0 to vocabulary - 1, "
       f"got pad={pad}, vocabulary=9") for pad in (9, -1, 2.0)],
    (ViT, (33,), {}, "image_size must be a positive multiple of patch_size, "
     "got image_size=33, patch_size=16: patch_size=11 would fit"),
    *[(ViT, (size,), {}, "image_size must be a whole number from 1 up or two, (H, W), "
       f"got image_size={size!r}")
      for size in (0, 32.0, (32,), (3, 32, 32), (32, 0), "32", None)],
]

ALL = MODULES | VARIANTS
public = pytest.mark.parametrize("case", MODULES.values(), ids=MODULES)
every = pytest.mark.parametrize("case", ALL.values(), ids=ALL)
sized = pytest.mark.parametrize("h, w", SIZES)


def fresh(case):
    """A module as it is built; a module among its arguments is copied first."""
    return copy.deepcopy(case.build)()


def made(case):
    """A module in eval mode whose weights are large enough to matter."""
    torch.manual_seed(0)
    module = fresh(case).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(case.scale).add_(0.1 * torch.randn_like(p))
        for m in module.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2)
    return module


def cast(xs, dtype):
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in xs)


def some(case, b, h, w, dtype=torch.float32):
    return cast(case.inputs(b, h, w, torch.Generator().manual_seed(1)), dtype)


def those(wanted):
    """Parametrise over the cases that are as wanted."""
    names = [name for name, case in ALL.items() if wanted(case)]
    return pytest.mark.parametrize("case", [ALL[n] for n in names], ids=names)


pictures = those(lambda case: some(case, 1, 3, 7)[0].ndim == 4)
floating = those(lambda case: some(case, 1, 3, 7)[0].is_floating_point())
learning = those(lambda case: any(True for _ in fresh(case).parameters()))


def heads(module):
    return [m for m in module.modules() if isinstance(m, MultiHeadAttention)]


attending = those(lambda case: heads(fresh(case)))


def shape(names, sizes):
    return tuple(sizes.get(name, name) for name in names)


def test_every_public_module_is_in_the_list():
    public = {name for name in cvattn.__all__ if inspect.isclass(getattr(cvattn, name))
              and issubclass(getattr(cvattn, name), nn.Module)}
    listed = {case.build.func.__name__ for case in MODULES.values()}
    assert public == listed and public, "add it to cases.py"
    variants = {case.build.func.__name__ for case in VARIANTS.values()}
    assert public | variants == {bad[0].__name__ for bad in BAD_ARGUMENTS}


def test_every_public_name_has_an_example_and_stands_on_the_api_page():
    page = (Path(__file__).parents[1] / "api.md").read_text()
    for name in cvattn.__all__:
        assert ">>> " in inspect.getdoc(getattr(cvattn, name)), name
        assert re.search(rf"^\.\. auto(class|function):: cvattn\.{name}$", page,
                         re.MULTILINE), name


@public
def test_the_docstring_has_its_parts(case):
    text = inspect.getdoc(case.build.func)
    assert re.search(r"\((with )?(Eqs?\.|sections?) ", text)
    for part in ("Shape:", "Args:", "Raises:", "Differs from the paper:", "Source:",
                 ">>> "):
        assert part in text, part
    for name in inspect.signature(case.build.func).parameters:
        assert re.search(rf"^ +{name}: ", text, re.MULTILINE), name


@every
def test_arguments_are_hinted_and_keyword_only_after_the_first(case):
    first, *others = inspect.signature(case.build.func).parameters.values()
    assert first.kind == first.POSITIONAL_OR_KEYWORD
    for p in [first, *others]:
        assert p.annotation is not p.empty
    for p in others:
        assert p.kind == p.KEYWORD_ONLY
        assert p.default is not p.empty or p.name in case.demanded


@every
@sized
@pytest.mark.parametrize("b", BATCHES)
def test_shape_type_and_map(case, b, h, w):
    module, xs = made(case), some(case, b, h, w)
    before, sizes = [x.clone() for x in xs], case.axes(b, h, w)
    y = module(*xs)
    assert y.shape == shape(case.out, sizes)
    assert y.dtype == torch.float32 and y.isfinite().all()
    assert all(map(torch.equal, xs, before)), "the input was changed in place"
    if case.map:
        assert getattr(module, case.map)(*xs).shape == shape(case.map_shape, sizes)


@every
@sized
def test_a_picture_does_not_see_its_neighbours_in_eval(case, h, w):
    module, xs = made(case), some(case, 5, h, w)
    y = module(*xs)
    alone = torch.cat([module(*(x[i:i + 1] for x in xs)) for i in range(5)])
    torch.testing.assert_close(y, alone, rtol=1e-4, atol=1e-5)
    turned = module(*(x.flip(0) for x in xs))
    torch.testing.assert_close(turned, y.flip(0), rtol=1e-4, atol=1e-5)


@every
@sized
def test_gradcheck(case, h, w):
    module, xs = made(case).double(), some(case, 2, h, w, torch.float64)
    names = dict(module.named_parameters())
    floating = [x.requires_grad_() for x in xs if x.is_floating_point()]

    def call(*values):
        given = iter(values[:len(floating)])
        inputs = [next(given) if x.is_floating_point() else x for x in xs]
        weights = dict(zip(names, values[len(floating):], strict=True))
        return torch.func.functional_call(module, weights, tuple(inputs))

    inputs = (*floating, *names.values())
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


@learning
def test_a_training_step_reaches_every_parameter(case):
    """By far more than rounding, but for those that it cannot reach: they are named."""
    module = made(case).double().train()
    y = module(*some(case, 5, 3, 7, torch.float64))
    (y * torch.randn_like(y)).sum().backward()
    most = {name: p.grad.abs().max() for name, p in module.named_parameters()}
    assert set(case.idle) <= most.keys()
    for name, gradient in most.items():
        share = gradient / max(most.values())
        assert share < 1e-9 if name in case.idle else share > 1e-4, (name, share)


@every
def test_forward_stores_nothing(case):
    module = made(case)

    def state():
        return [(name, dict(vars(m)), {k: v.clone() for k, v in m.state_dict().items()})
                for name, m in module.named_modules()]

    before = state()
    module(*some(case, 2, 3, 7))
    for (name, had, values), (_, has, now) in zip(before, state(), strict=True):
        assert had.keys() == has.keys(), name
        assert all(had[k] is has[k] for k in had), name
        assert values.keys() == now.keys()
        assert all(torch.equal(values[k], now[k]) for k in values), name


@every
def test_state_dict_round_trip(case):
    module, xs = made(case), some(case, 2, 3, 7)
    torch.manual_seed(99)
    other = fresh(case).eval()
    learns = bool(module.state_dict())
    assert torch.equal(other(*xs), module(*xs)) != learns
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(*xs), module(*xs))


@every
@pytest.mark.parametrize("copied", [copy.deepcopy,
                                    lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_apart(case, copied):
    module, xs = made(case), some(case, 2, 3, 7)
    y, twin = module(*xs), copied(module)
    assert torch.equal(twin(*xs), y)
    for p in twin.parameters():
        nn.init.zeros_(p)
    assert torch.equal(module(*xs), y)
    assert torch.equal(twin(*xs), y) != bool(list(twin.parameters()))


@public
@pytest.mark.parametrize("assign", [False, True])
def test_built_on_the_meta_device(case, assign):
    """Then loaded: into memory that holds anything, or with the file's own tensors."""
    module, xs = made(case), some(case, 2, 3, 7)
    with torch.device("meta"):
        other = fresh(case).eval()
    if not assign:
        other.to_empty(device="cpu")
        for t in [*other.parameters(), *other.buffers()]:
            t.data.fill_(math.nan if t.is_floating_point() else 7)
    other.load_state_dict(copy.deepcopy(module.state_dict()), assign=assign)
    assert torch.equal(other(*xs), module(*xs))


@public
def test_vmap(case):
    """Two batches at once are each what they are alone; so are gradients, one each."""
    module, xs = made(case).double(), some(case, 4, 3, 7, torch.float64)
    many = [x.unflatten(0, (2, 2)) for x in xs]
    y = torch.func.vmap(module)(*many)
    torch.testing.assert_close(y.flatten(0, 1), module(*xs))
    weights = dict(module.named_parameters())

    def loss(weights, *xs):
        return torch.func.functional_call(module, weights, xs).square().sum()

    each = torch.func.grad(loss)
    found = torch.func.vmap(each, in_dims=(None, *[0] * len(xs)))(weights, *many)
    wanted = each(weights, *(x[1] for x in many))
    for name in weights:
        torch.testing.assert_close(found[name][1], wanted[name])


@pictures
def test_vmap_of_channels_last(case):
    module, (x, *more) = made(case).double(), some(case, 4, 3, 7, torch.float64)
    x = x.to(memory_format=torch.channels_last)
    y = torch.func.vmap(module)(*(x.unflatten(0, (2, 2)) for x in (x, *more)))
    torch.testing.assert_close(y.flatten(0, 1), module(x, *more))


@public
def test_jit_trace(case):
    """Traced at one size, right at others too."""
    module = made(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # torch.jit is deprecated
        traced = torch.jit.trace(module, some(case, 2, 3, 7))
    for xs in (some(case, 2, 3, 7), some(case, 5, 13, 11)):
        torch.testing.assert_close(traced(*xs), module(*xs), rtol=1e-4, atol=1e-5)


@public
def test_fx(case):
    """The graph is right at other sizes, and refuses what the module refuses."""
    module = made(case)
    optional = {p.name: p.default for p in
                inspect.signature(module.forward).parameters.values()
                if p.default is not p.empty and p.name != "context"}
    (x, *more) = some(case, 5, 13, 11)
    if isinstance(module, MultiHeadAttention) and not more:
        optional["context"] = None
    graph = torch.fx.symbolic_trace(module, concrete_args=optional)
    torch.testing.assert_close(graph(x, *more), module(x, *more))
    with pytest.raises(ValueError, match=f"^{re.escape(case.rule)}"):
        graph(x[0], *more)


@public
def test_dynamic_int8(case):
    from torch.ao.quantization import quantize_dynamic

    module, xs = made(case), some(case, 2, 3, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # torch.ao is deprecated
        small = quantize_dynamic(copy.deepcopy(module), {nn.Linear}, torch.qint8)
    y, want = small(*xs), module(*xs)
    close(y, want, 0.2)
    if case.map:
        getattr(small, case.map)(*xs)


# Of torch's list, see use_deterministic_algorithms: what has no other way on CUDA.
# Interpolation has: off the CPU it then takes operations that do.
RANDOM = {"adaptive_max_pool2d", "adaptive_avg_pool2d", "grid_sampler_2d",
          "fractional_max_pool2d", "reflection_pad2d", "median", "nll_loss2d_forward"}


class Operations(TorchDispatchMode):
    """Collects the names of all that torch computes."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.overloadpacket.__name__.lstrip("_"))
        return operation(*args, **kwargs or {})


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@public
def test_deterministic_algorithms(case, deterministic):
    """Nothing that would raise on CUDA, and the same gradient as without."""
    module, xs = made(case).double(), some(case, 2, 3, 7, torch.float64)

    def gradient():
        for p in module.parameters():
            p.grad = None
        inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in xs]
        with Operations() as used:
            y = module(*inputs)
        y.square().sum().backward()
        return used.names, [t.grad for t in [*module.parameters(), *inputs]
                            if t.requires_grad]

    names, found = gradient()
    torch.use_deterministic_algorithms(False)
    _, wanted = gradient()
    assert names and not names & RANDOM
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@public
def test_double_backward(case):
    """Of attention on the CPU within the kernel that has one, see `attention`."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    module, xs = made(case).double(), some(case, 1, 2, 3, torch.float64)
    if xs[0].is_floating_point():
        call, inputs = module, tuple(x.requires_grad_() for x in xs)
    else:
        [(name, weight), *_] = module.named_parameters()
        call, inputs = (lambda w: torch.func.functional_call(
            module, {name: w}, xs)), (weight,)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True, rtol=1e-3,
                                            atol=1e-4)


@pictures
@sized
def test_channels_last_gives_the_same_and_is_kept(case, h, w):
    module, (x, *more) = made(case), some(case, 5, h, w)
    y = module(x.to(memory_format=torch.channels_last), *more)
    torch.testing.assert_close(y, module(x, *more), rtol=1e-4, atol=1e-5)
    if y.shape == x.shape:
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert not y.is_contiguous() and module(x, *more).is_contiguous()


HALVES = torch.bfloat16, torch.float16


@every
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast(case, dtype):
    """The result is right to bfloat16's three digits, and the layers ran in it."""
    module, xs = made(case), some(case, 5, 3, 7)
    with torch.autocast("cpu", dtype):
        y = module(*xs)
    want = module(*xs)
    close(y, want, case.bf16)
    assert (y.dtype == torch.float32) == case.keeps_type
    learns = bool(list(module.parameters()))
    assert torch.equal(y.float(), want) != learns, "autocast did not reach the layers"


def close(y, want, tolerance):
    """Assert that y's root mean square error is small beside the wanted values."""
    error = (y.float() - want).square().mean().sqrt()
    assert error <= tolerance * want.square().mean().sqrt()


@every
@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
def test_other_types(case, dtype):
    module, xs = made(case), some(case, 2, 3, 7)
    y = copy.deepcopy(module).to(dtype)(*cast(xs, dtype))
    assert y.dtype == dtype
    close(y, module(*xs), case.bf16 if dtype in HALVES else 1e-5)


@attending
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("autocast", [False, True])
def test_scores_beyond_float16(case, dtype, autocast):
    """Queries and keys that float16 holds, and products that it does not."""
    module, xs = made(case), some(case, 2, 3, 7)
    with torch.no_grad():
        for m in heads(module):
            m.W_Q.weight.mul_(300)
            m.W_K.weight.mul_(300)
    if not autocast:
        module, xs = module.to(dtype), cast(xs, dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        y, A = module(*xs), getattr(module, case.map)(*xs)
    assert y.isfinite().all()
    torch.testing.assert_close(A.float().sum(-1), torch.ones(A.shape[:-1]),
                               rtol=0, atol=0.02)
    if A.ndim == 5 and A.shape[3] == A.shape[4]:
        assert rollout(A).isfinite().all()


@every
def test_export_with_free_sizes(case):
    module, sizes = made(case), {}
    free = tuple({axis: sizes.setdefault(name, torch.export.Dim(name, min=3, max=17))
                  for axis, name in names.items()} for names in case.free)
    program = torch.export.export(
        module, some(case, 4, 13, 11), dynamic_shapes=free).module()
    for b, (h, w) in zip((5, 3), SIZES, strict=True):
        xs = some(case, b, *((h, w) if len(sizes) > 1 else (13, 11)))
        torch.testing.assert_close(program(*xs), module(*xs), rtol=1e-4, atol=1e-5)


def test_compile_in_one_graph():
    """On one network that holds every module: each compilation takes seconds."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        (pytest.fail if CI else pytest.skip)("torch.compile needs a C++ compiler")
    first = {case.build.func: case for case in reversed(ALL.values())}
    cases = list(first.values())
    modules = [made(case) for case in cases]
    inputs = [some(case, 2, 3, 7) for case in cases]

    def network(inputs):
        return [module(*xs) for module, xs in zip(modules, inputs, strict=True)]

    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True)(inputs)
        for got, want in zip(compiled, network(inputs), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda():
    for case in ALL.values():
        module, xs = made(case), some(case, 5, 3, 7)
        want = module(*xs)
        y = module.cuda()(*(x.cuda() for x in xs))
        assert y.is_cuda
        torch.testing.assert_close(y.cpu(), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cls, args, kwargs, message", BAD_ARGUMENTS)
def test_bad_arguments(cls, args, kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cls(*args, **kwargs)


@every
def test_bad_inputs(case):
    """Too few axes, too many, and one that is too long or in another place."""
    module, (x, *more) = made(case), some(case, 2, 3, 7)
    bad = [x[0, ..., 0], x[0], x[None], torch.zeros(())]
    if x.is_floating_point() and not case.any_channels:
        axis = 1 if x.ndim == 4 else -1
        bad += [torch.cat([x, x], axis), x.narrow(axis, 0, 1), x.transpose(axis, -2)]
    for wrong in bad:
        message = f"^{re.escape(case.rule)}.*, got {re.escape(str(tuple(wrong.shape)))}"
        for call in (module, getattr(module, case.map or "forward")):
            with pytest.raises(ValueError, match=message):
                call(wrong, *more)


def unusable(case):
    """Yield inputs of the right axes that no module can use, and the rule for each."""
    x = some(case, 2, 6, 8)[0]
    for axis in (2, 3) if x.ndim == 4 else (1,) if case.map or x.ndim == 2 else ():
        rule = "x must have H and W from 1 up" if x.ndim == 4 else ".* N from 1 up"
        yield x.narrow(axis, 0, 0), f"^{rule}, got "
    if x.is_floating_point():
        for dtype in (torch.uint8, torch.int64, torch.bool, torch.complex64):
            yield x.to(dtype), f"^x must be floating point, got {dtype}$"
    else:
        for dtype in (torch.uint8, torch.bool, torch.float32):
            yield x.to(dtype), f".* of torch.int64 or torch.int32, got .* {dtype}$"


def norms(module):
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@every
def test_the_unusable_is_refused_before_anything_changes(case):
    """In training mode, where a BatchNorm would remember it."""
    module, (_, *more) = made(case).train(), some(case, 2, 6, 8)
    before = copy.deepcopy(module.state_dict())
    bad = list(unusable(case))
    if norms(module):
        x = case.inputs(1, 1, 1, torch.Generator())[0]
        bad.append((x, "^x must hold at least two (pictures|pixels) in training mode, "
                    r"for BatchNorm .*, got \(1, .* DataLoader\(drop_last=True\)"))
    for x, rule in bad:
        for call in (module, getattr(module, case.map or "forward")):
            with pytest.raises(ValueError, match=rule):
                call(x, *more)
            assert all(torch.equal(t, before[name])
                       for name, t in module.state_dict().items())


@those(lambda case: norms(fresh(case)))
def test_sync_batchnorm(case, monkeypatch):
    """Converted it does the same; if it sees other devices, one picture is enough."""
    module, xs = made(case).train(), some(case, 2, 3, 7)
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(module))
    assert torch.equal(twin(*xs), module(*xs))
    one = some(case, 1, 1, 1)
    with pytest.raises(ValueError, match="^x must hold at least two"):
        twin(*one)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda self, x: x)
    assert twin(*one).shape == shape(case.out, case.axes(1, 1, 1))
    with pytest.raises(ValueError, match="^x must hold at least two"):
        module(*one)


@those(lambda case: norms(fresh(case)))
def test_statistics_that_are_not_kept_are_estimated_in_eval_mode_too(case):
    module = made(case)
    for norm in norms(module):
        norm.running_mean = norm.running_var = None
    with pytest.raises(ValueError, match="^x must hold at least two"):
        module(*some(case, 1, 1, 1))


@public
def test_whole_numbers(case):
    """64 * 0.5 is refused by name; NumPy's integers and tensors build the same."""
    parameters = inspect.signature(case.build.func).parameters
    given = {**dict(zip(parameters, case.build.args, strict=False)),
             **case.build.keywords}
    numbers = {name: value for name, value in given.items() if type(value) is int}
    assert numbers or "localise" in given
    shapes = {name: t.shape for name, t in case.build().state_dict().items()}
    for kind in (np.int64, torch.tensor):
        other = case.build.func(**{**given, **{n: kind(v) for n, v in numbers.items()}})
        assert {n: t.shape for n, t in other.state_dict().items()} == shapes
        assert not any(isinstance(v, np.integer) for m in other.modules()
                       for v in vars(m).values())
    for name, number in numbers.items():
        for wrong in (float(number), str(number), math.nan):
            with pytest.raises(ValueError, match=f"must be .*, got .*{name}={wrong!r}"):
                case.build.func(**{**given, name: wrong})


@pytest.mark.parametrize("number, found", [
    (3, 3), (np.int64(3), 3), (np.uint8(3), 3), (torch.tensor(3), 3), (3.0, None),
    (np.float64(3), None), (torch.tensor(3.0), None), (True, None), (np.True_, None),
    (torch.tensor(True), None), (torch.tensor([3, 4]), None), ("3", None),
    (None, None), (math.nan, None)])
def test_what_counts_as_a_whole_number(number, found):
    got = checks.index(number)
    assert got == found and type(got) is type(found)


@every
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_an_empty_result(case, training):
    module = made(case).train(training)
    before = copy.deepcopy(module.state_dict())
    y = module(*some(case, 0, 3, 7))
    assert y.shape == shape(case.out, case.axes(0, 3, 7))
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items()
               if not name.endswith("num_batches_tracked"))


@floating
def test_nan_spoils_its_own_picture_and_no_other(case):
    module, (x, *more) = made(case), some(case, 5, 13, 11)
    y = module(x, *more)
    x[(2, 1, 1, 1)[:x.ndim]] = float("nan")
    spoiled = module(x, *more)
    bad = spoiled[2].isnan()
    assert {"all": bad.all(), "some": bad.any() and not bad.all(),
            "none": not bad.any()}[case.nan]
    others = [0, 1, 3, 4]
    torch.testing.assert_close(spoiled[others], y[others], rtol=0, atol=0)


# The comments that end a line with a shape, such as `z = …  # (B, C)`.

COMMENT = re.compile(r"#\s*\(([^()]*)\)\s*$")


def comments(function):
    """Map each commented line to (the name that it assigns, or None, and axes)."""
    lines, first = inspect.getsourcelines(function)
    found = {}
    for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return):
            match = COMMENT.search(lines[node.end_lineno - 1].rstrip())
            if match:
                target = (None if isinstance(node, ast.Return) else
                          ast.unparse(getattr(node, "target", None) or node.targets[0]))
                axes = [axis.strip() for axis in match[1].split(",") if axis.strip()]
                found[first + node.lineno - 1] = target, axes
    return found


def fits(got, axes, sizes, bound):
    """True if the shape is that of the axes; names not in sizes are bound once."""
    return len(got) == len(axes) and all(
        n == (int(axis) if axis.isdigit() else
              sizes[axis] if axis in sizes else bound.setdefault(axis, n))
        for n, axis in zip(got, axes, strict=True))


def false_comments(functions, call, sizes):
    """Run call() and return (lines checked, what was false) for the functions.

    A name that is not in `sizes` stands for one size within one call of a function.
    """
    by_code = {code: comments(f) for f in functions for code in codes(f.__code__)}
    checked, wrong = set(), []

    def trace(frame, event, value):
        code = frame.f_code
        table = by_code.get(code)
        if not table:
            return None
        previous, bound = None, {}

        def compare(value, axes):
            checked.add(previous)
            got = tuple(value.shape)
            if not fits(got, axes, sizes, bound):
                wrong.append(f"{code.co_name} line {previous}: {got}, not {axes} "
                             f"with {sizes | bound}")

        def inside(frame, event, value):
            nonlocal previous
            if event in ("line", "return") and previous in table:
                target, axes = table[previous]
                if target is None and event == "return" and value is not None:
                    compare(value, axes)
                elif target is not None and target in frame.f_locals:
                    compare(frame.f_locals[target], axes)
            previous = frame.f_lineno
            return inside

        return inside

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(old)
    return checked, wrong


def codes(code):
    """The code of a function, and of the functions within it."""
    yield code
    for inner in code.co_consts:
        if inspect.iscode(inner):
            yield from codes(inner)


def functions_of(module):
    """The functions and methods that are written in the module's file."""
    found = []
    for value in vars(module).values():
        if getattr(value, "__module__", None) == module.__name__:
            members = vars(value).values() if inspect.isclass(value) else [value]
            found += [f for f in members if inspect.isfunction(f)]
    return found


def files(case):
    return case.build.func.__module__, *case.files


FILES = sorted({name for case in ALL.values() for name in files(case)})


@pytest.mark.parametrize("name", FILES)
def test_shape_comments_are_true(name):
    functions = functions_of(sys.modules[name])
    reached = set()
    for case in ALL.values():
        if name not in files(case):
            continue
        for h, w in SIZES:
            def call(case=case, h=h, w=w):
                module, xs = made(case), some(case, 5, h, w)
                module(*xs)
                if case.map:
                    getattr(module, case.map)(*xs)
                case.further(module, *xs)

            checked, wrong = false_comments(functions, call, case.axes(5, h, w))
            assert not wrong
            reached |= checked
    written = {line for f in functions for line in comments(f)}
    assert written
    assert not written - reached, "commented lines that were not reached"


def test_a_false_shape_comment_is_found():
    def lying(x):
        z = x.mean(dim=(2, 3))          # (B, C, 1)
        y = z[:, :2]                    # (B, N)
        y = z[:, :3]                    # (B, N)
        return y[:, :, None, None]      # (B, N, 1, 1)

    checked, wrong = false_comments(
        [lying], lambda: lying(torch.zeros(2, 5, 3, 7)), {"B": 2, "C": 5})
    assert len(checked) == 4 and len(wrong) == 3 and "(2, 5)" in wrong[0]
