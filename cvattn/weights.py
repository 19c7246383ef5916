"""Weights from elsewhere: timm, torchvision, torch.nn and the papers' own code."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .bam import BAM

# Their names and ours: regular expressions for one or more whole parts of a dotted
# name, tried from top to bottom on what the rows before them left. A name that no row
# knows is kept, as are all of torchvision's ResNets.
NAMES = [
    # DataParallel
    (r"^module\.(.*)", r"\1"),
    # where attention stands: timm; official CBAM; official BAM
    (r"se|cbam", "attention"),
    (r"bam([123])", r"attention\1"),
    # SE: torchvision's SqueezeExcitation, timm's SEModule
    (r"(^|attention\.)fc([12])", r"\1W\2"),
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


def renamed(theirs: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what we call this tensor; three names if it holds Q, K and V together."""
    ours = theirs
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
    official CBAM                CBAM(C, official=True)
    official ResNet with CBAM    resnet50(partial(CBAM, official=True))
    official BAM                 BAM(C, official=True)
    official ResNet with BAM     resnet50(partial(BAM, official=True), place="stage")

    CBAM's spatial convolution is turned to the order of its two maps in the model. A
    linear layer takes a 1x1 convolution's weights and the other way round. The prefix
    of DataParallel is dropped. BatchNorm's `num_batches_tracked` may be missing
    throughout, as in files of 2018, and is then left alone: nothing is computed
    from it.

    Shape:
        Each tensor of state has the shape of the model's, after the changes above.

    Args:
        model: one of this package's models or modules, of any dtype, on any device.
        state: their state dict, name -> tensor.

    Returns:
        The model, loaded in place.

    Raises:
        ValueError: if state is not names and tensors, or if anything does not fit;
            the message lists what is missing, what is unexpected and each shape
            beside the model's. The model is then as it was.

    Differs from the source in what a name cannot tell, and so is not checked: where a
    bottleneck has its stride (`stride_in`), the number of heads, dilation, groups of
    equal shape, epsilon, activation. Their picture size is the model's.

    >>> from cvattn import SE
    >>> theirs = {"fc1.weight": torch.ones(2, 8, 1, 1), "fc2.weight": torch.ones(8, 2)}
    >>> load(SE(8, reduction=4), theirs).W1.weight.shape
    torch.Size([2, 8])
    """
    if not isinstance(state, Mapping):
        raise ValueError(
            f"state must map names to tensors, got {type(state).__name__}; "
            "of a module, give its state_dict()"
        )
    strange = [f"{k!r}: {type(v).__name__}" for k, v in state.items()
               if not isinstance(k, str) or not isinstance(v, Tensor)]
    if strange:
        raise ValueError(
            f"state must map names to tensors, got {strange[0]}; in a checkpoint they "
            "are often under 'state_dict' or 'model'"
        )
    own, fitted, origin, wrong = model.state_dict(), {}, {}, []
    for theirs, tensor in state.items():
        for name, part in renamed(theirs, tensor).items():
            said = theirs if theirs == name else f"{name} (their {theirs})"
            if name in origin:
                wrong.append(f"twice: {said}, also from {origin[name]}")
            elif name not in own:
                wrong.append(f"unexpected: {said}")
            elif layer(part.shape) != layer(own[name].shape):
                wrong.append(f"shape: {said} is {tuple(part.shape)}, "
                             f"the model's {tuple(own[name].shape)}")
            elif is_turned(model, theirs, name):
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
    if wrong:
        raise ValueError("the weights do not fit:\n" + "\n".join(sorted(wrong)))
    model.load_state_dict(own | {k: v.reshape(own[k].shape) for k, v in fitted.items()})
    return model
