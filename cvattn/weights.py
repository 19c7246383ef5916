"""Weights from elsewhere: timm, torchvision, torch.nn and the papers' own code."""

import re
from collections.abc import Mapping
from os import PathLike

import torch
from torch import Tensor, nn

from .bam import BAM

# Their names and ours: regular expressions for one or more whole parts of a dotted
# name, tried from top to bottom on what the rows before them left. A name that no row
# knows is kept, as are all of torchvision's ResNets.
NAMES = [
    # where attention stands: timm; official CBAM; official BAM
    (r"se|cbam", "attention"),
    (r"bam([123])", r"attention\1"),
    # SE: torchvision's SqueezeExcitation, timm's SEModule
    (r"(^|attention\.)fc([12])", r"\1W\2"),
    # SE: SELayer of moskomule/senet.pytorch
    (r"(^|attention\.)fc\.0", r"\1W1"),
    (r"(^|attention\.)fc\.2", r"\1W2"),
    # CBAM: timm
    (r"channel\.fc1", "channel.W0"),
    (r"channel\.fc2", "channel.W1"),
    (r"spatial\.conv\.conv", "spatial.f"),
    (r"spatial\.conv\.bn", "spatial.norm"),
    # CBAM: official
    (r"ChannelGate\.mlp\.1", "channel.W0"),
    (r"ChannelGate\.mlp\.3", "channel.W1"),
    (r"SpatialGate\.spatial\.conv", "spatial.f"),
    (r"SpatialGate\.spatial\.bn", "spatial.norm"),
    # BAM: official
    (r"channel_att\.gate_c\.gate_c_fc_0", "channel.W0"),
    (r"channel_att\.gate_c\.gate_c_fc_final", "channel.W1"),
    (r"channel_att\.gate_c\.gate_c_bn_1", "channel.norm"),
    (r"spatial_att\.gate_s\.gate_s_conv_reduce0", "spatial.f0"),
    (r"spatial_att\.gate_s\.gate_s_conv_di_0", "spatial.f1"),
    (r"spatial_att\.gate_s\.gate_s_conv_di_1", "spatial.f2"),
    (r"spatial_att\.gate_s\.gate_s_conv_final", "spatial.f3"),
    (r"spatial_att\.gate_s\.gate_s_bn_reduce0", "spatial.norm0"),
    (r"spatial_att\.gate_s\.gate_s_bn_di_0", "spatial.norm1"),
    (r"spatial_att\.gate_s\.gate_s_bn_di_1", "spatial.norm2"),
    # SK: timm's SelectiveKernel, and its blocks
    (r"paths\.(\d+)\.conv", r"F.\1.0"),
    (r"paths\.(\d+)\.bn", r"F.\1.1"),
    (r"attn\.fc_reduce", "W"),
    (r"attn\.bn", "bn"),
    (r"attn\.fc_select", "A"),
    (r"conv([13])\.conv", r"conv\1"),
    (r"conv([13])\.bn", r"bn\1"),
    # attention and the layers of a Transformer: timm's ViT; torch.nn; torchvision's ViT
    (r"attn(?=\.(qkv|proj))", "attention"),
    (r"qkv", "W_QKV"),
    (r"(^|attention\.)proj", r"\1W_O"),
    (r"self_attn|self_attention", "attention"),
    (r"multihead_attn", "cross"),
    (r"in_proj_(weight|bias)", r"W_QKV.\1"),
    (r"out_proj", "W_O"),
    (r"mlp\.fc([12])|linear([12])", r"feed_forward.W\1\2"),
    (r"mlp\.0", "feed_forward.W1"),
    (r"mlp\.3", "feed_forward.W2"),
    (r"ln_([12])", r"norm\1"),
    # ViT: timm; torchvision
    (r"cls_token|class_token", "x_class"),
    (r"pos_embed|encoder\.pos_embedding", "E_pos"),
    (r"patch_embed\.proj|conv_proj", "E"),
    (r"blocks\.(\d+)|encoder\.layers\.encoder_layer_(\d+)", r"layers.\1\2"),
    (r"encoder\.ln", "norm"),
    (r"heads\.head", "head"),
]
# The order in which the files' spatial convolution of CBAM finds its two maps. Ours
# finds (mean, maximum), unless a subclass names another order in `pool`.
OURS = ("mean", "max")
POOLS = {
    r"SpatialGate\.spatial\.conv\.weight$": ("max", "mean"),
    r"spatial\.conv\.conv\.weight$": ("mean", "max"),
}


# What torch.compile, DataParallel and the like put into the names of what they wrap.
WRAPPERS = r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)"


def unwrapped(name: str) -> str:
    """Return the name without the wrappers' parts."""
    return re.sub(r"^(module\.)+", "", re.sub(WRAPPERS, "", name).lstrip("."))


def renamed(theirs: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what we call this tensor; three names if it holds Q, K and V together."""
    ours = unwrapped(theirs)
    for pattern, name in NAMES:
        ours = re.sub(rf"(?<![^.])(?:{pattern})(?![^.])", name, ours)
    if "W_QKV" not in ours:
        return {ours: tensor}
    parts = tensor.chunk(3) if tensor.ndim else [tensor] * 3
    return {ours.replace("QKV", x): p for x, p in zip("QKV", parts, strict=False)}


def layer(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A linear layer and a 1x1 convolution do the same: return the former's shape."""
    return shape[:2] if shape[2:] == (1, 1) else tuple(shape)


def is_turned(model: nn.Module, theirs: str, ours: str) -> bool:
    """Whether the model has CBAM's two maps in the other order than their file."""
    order = next((o for key, o in POOLS.items() if re.search(key, theirs)), None)
    if order is None:
        return False
    spatial = model.get_submodule(ours.removesuffix(".f.weight"))
    return getattr(spatial, "pool", OURS) == order[::-1]


def multiplies(bam: BAM) -> bool:
    """Whether its branches meet in a product, as in the official code."""
    return bam.combine(*torch.tensor([2.0, 3.0], device="cpu")) == 6


def both(cbam: nn.Module) -> bool:
    """Whether it is a CBAM of means and maxima, channels first, as the files are."""
    pools = getattr(getattr(cbam, "channel", None), "pool", OURS)
    return (getattr(cbam, "order", "channel-spatial") == "channel-spatial"
            and set(pools) == set(OURS))


def strange(part: Tensor, own: Tensor) -> str | None:
    """Return what keeps this tensor's numbers from standing for the model's, if any."""
    if part.is_meta:
        return "on the meta device, without numbers"
    if part.is_quantized or part.layout != torch.strided:
        return f"{part.layout}, {part.dtype}"
    kinds = part.is_complex(), part.is_floating_point()
    if kinds != (own.is_complex(), own.is_floating_point()):
        return f"{part.dtype}, the model's {own.dtype}"
    return None


def copy(model: nn.Module, fitted: dict[str, Tensor]) -> None:
    """Load what fits; whatever happens meanwhile, leave the model whole."""
    before = {name: t.clone() for name, t in model.state_dict().items()
              if name in fitted}
    try:
        model.load_state_dict(fitted, strict=False)
    except BaseException as error:
        with torch.no_grad():
            for name, t in model.state_dict().items():
                if name in before:
                    t.copy_(before[name])
        if isinstance(error, RuntimeError):
            raise ValueError(f"the weights could not be copied: {error}") from error
        raise


def load(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load weights that another library saved, all of them or none.

    Their names are turned into ours; by their names alone is it known whose they
    are. Then nothing may be missing, left over or of another shape. Equal outputs
    need equal models too, so build the one that computes what theirs does:

    timm seresnet50              resnet50(partial(SE, bias=True))
    timm skresnext50_32x4d       sknet50()
    timm vit_base_patch16_224    vit_b16()
    torchvision resnet50         resnet50(), and so for the other ResNets
    torchvision resnext50_32x4d  resnext50()
    torchvision vit_b_16         vit_b16()
    SqueezeExcitation, SEModule  SE(C, bias=True)
    timm CbamModule              CBAM(C) with its `spatial` = SpatialAttention(C,
                                 norm=True); if theirs has mlp_bias=True,
                                 CBAM(C, official=True)
    timm SelectiveKernel         SK(C), if theirs has split_input=False, rd_divisor=32
    nn.MultiheadAttention        MultiHeadAttention(d, num_heads=h, bias=True), and so
                                 for timm's Attention
    nn.TransformerEncoderLayer   EncoderLayer(d, num_heads=h, bias=True), and so for
                                 the decoder's
    moskomule SELayer            SE(C), and so for its se_resnet50: resnet50(SE)
    official CBAM                CBAM(C, official=True)
    official ResNet with CBAM    resnet50(partial(CBAM, official=True))
    official BAM                 BAM(C, official=True)
    official ResNet with BAM     resnet50(partial(BAM, official=True), place="stage")

    CBAM's spatial convolution is turned to the order of its two maps in the model. A
    linear layer takes a 1x1 convolution's weights and the other way round. What
    DataParallel, torch.compile, FSDP and AveragedModel add to the names is dropped, on
    both sides. BatchNorm's `num_batches_tracked` may be missing throughout, as in files
    of 2018, and is then left alone: nothing is computed from it.

    Shape:
        Each tensor of state has the shape of the model's, after the changes above.

    Args:
        model: one of this package's models or modules, of any dtype, on any device but
            meta.
        state: their state dict, name -> tensor.

    Returns:
        The model, loaded in place.

    Raises:
        ValueError: if state is not names and tensors, if model is on the meta device,
            or if anything does not fit; the message lists what is missing, what is
            unexpected, each shape beside the model's, and what is quantised, sparse,
            on the meta device or of another kind of number. The model is then as it
            was, also where the copying itself fails.

    Differs from the source in what a name cannot tell, and so is not checked: where a
    bottleneck has its stride (`stride_in`) and its attention (`place`), whether
    LayerNorm comes first (`norm_first`), what a ViT's head sees (timm's `global_pool`),
    the number of heads, dilation, groups of equal shape, epsilon, activation, and
    whether two layers `fc1`, `fc2` alone are SE's or half of timm's CBAM. Checked are
    BAM's product and CBAM's order and pools. Their picture size is the model's.

    >>> from cvattn import SE
    >>> theirs = {"fc1.weight": torch.ones(2, 8, 1, 1), "fc2.weight": torch.ones(8, 2)}
    >>> load(SE(8, reduction=4), theirs).W1.weight.shape
    torch.Size([2, 8])
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a module, got {model!r}")
    if not isinstance(state, Mapping):
        hint = ("of a file, give torch.load(path, weights_only=True)"
                if isinstance(state, str | PathLike) else
                "of a module, give its state_dict()")
        raise ValueError(
            f"state must map names to tensors, got {type(state).__name__}; {hint}")
    odd = [f"{k!r}: {type(v).__name__}" for k, v in state.items()
           if not isinstance(k, str) or not isinstance(v, Tensor)]
    if odd:
        raise ValueError(
            f"state must map names to tensors, got {odd[0]}; in a checkpoint they "
            "are often under 'state_dict' or 'model'"
        )
    names = {unwrapped(name): name for name in model.state_dict()}
    own = {unwrapped(name): t for name, t in model.state_dict().items()}
    fitted, origin, wrong = {}, {}, []
    for theirs, tensor in state.items():
        if unwrapped(theirs) == "n_averaged" and "n_averaged" not in own:
            continue
        kept = unwrapped(theirs) in own
        parts = {unwrapped(theirs): tensor} if kept else renamed(theirs, tensor)
        for name, part in parts.items():
            said = theirs if theirs == name else f"{name} (their {theirs})"
            if name in origin:
                wrong.append(f"twice: {said}, also from {origin[name]}")
            elif name not in own:
                wrong.append(f"unexpected: {said}")
            elif layer(part.shape) != layer(own[name].shape):
                wrong.append(f"shape: {said} is {tuple(part.shape)}, "
                             f"the model's {tuple(own[name].shape)}")
            elif is_turned(model, theirs, names[name]):
                part = part.flip(1)
            origin[name] = theirs
            fitted[name] = part
    counted = any(name.endswith("num_batches_tracked") for name in origin)
    wrong += [f"missing: {name}" for name in own if name not in origin
              and (counted or not name.endswith("num_batches_tracked"))]
    if any("gate_c_fc_0" in theirs for theirs in state):
        wrong += [f"official BAM multiplies Mc and Ms, {type(m).__name__} does not"
                  for m in model.modules()
                  if isinstance(m, BAM) and not multiplies(m)]
    if any(re.search(key, theirs) for key in POOLS for theirs in state):
        wrong += ["CBAM's files take means and maxima, channels before places, "
                  f"{type(m).__name__} does not" for m in model.modules()
                  if hasattr(m, "spatial") and not isinstance(m, BAM) and not both(m)]
    wrong = wrong or [f"kind: {origin[name]} is {kind}" for name, part in fitted.items()
                      if (kind := strange(part, own[name]))]
    if wrong:
        first = {name.partition(".")[0] + "." for name in state}
        if len(first) == 1 and not any(n.startswith(*first) for n in own) and all(
                unwrapped(n) == n for n in state):
            wrong.append(f"each of their names begins with {first.pop()!r}: "
                         "give the state without it")
        raise ValueError("the weights do not fit:\n" + "\n".join(sorted(wrong)))
    if any(t.is_meta for t in own.values()):
        raise ValueError("model must hold numbers, got one on the meta device: "
                         "call its to_empty(device=…) first")
    copy(model, {names[k]: v.reshape(own[k].shape) for k, v in fitted.items()})
    return model
