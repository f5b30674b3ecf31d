"""The operations that the recorder knows: for each the uses it makes of its weights. Others fall back, exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ntkit.errors import InputError
from ntkit.torch.record import SOURCE, Recorder, cut, is_examples
from ntkit.torch.uses import Convolution, Dense, Entry, Lookup, Matrix

Tensor = torch.Tensor


def _cut(rec: Recorder, weight: Any) -> Any:
    return cut(weight) if rec.wanted(weight) else weight


def _data(x: Any) -> bool:
    return isinstance(x, Tensor) and is_examples(x)


def _aligned(weight: Tensor, ndim: int, axis: int | None = None) -> tuple[int, ...]:
    """The weight's shape against `ndim` axes: at the end, or a vector along `axis`."""
    if axis is None:
        return (1,) * (ndim - weight.ndim) + tuple(weight.shape)
    return (1,) * axis + (weight.numel(),) + (1,) * (ndim - axis - 1)


def _entry(rec: Recorder, site, weight: Any, factor: Any = 1.0, axis: int | None = None, part=None) -> None:
    if rec.wanted(weight):
        rec.note(site, Entry(weight, _aligned(weight, len(site.shape), axis), factor, part))


def linear(rec: Recorder, func, input: Tensor, weight: Tensor, bias: Any = None):
    if not _data(input) or not (rec.wanted(weight) or rec.wanted(bias)):
        return func(input, weight, bias)
    out = func(input, _cut(rec, weight), _cut(rec, bias))
    site = rec.site(out)
    if rec.wanted(weight):
        rec.note(site, Dense(weight, input.detach(), Matrix(rows_out=True)))
    _entry(rec, site, bias)
    return out


def matmul(rec: Recorder, func, input: Tensor, other: Tensor):
    if rec.wanted(other) and _data(input) and other.ndim == 2 and input.ndim >= 2:
        out = func(input, cut(other))
        rec.note(rec.site(out), Dense(other, input.detach(), Matrix(rows_out=False)))
        return out
    if rec.wanted(input) and _data(other) and input.ndim == 2 and other.ndim >= 2:
        out = func(cut(input), other)
        rec.note(rec.site(out), Dense(input, other.detach(), Matrix(rows_out=True, left=True)))
        return out
    return func(input, other)


def rmatmul(rec: Recorder, func, input: Tensor, other: Tensor):
    """`other @ input`, called as a method of `input`."""
    return matmul(rec, lambda a, b: torch.matmul(a, b), other, input)


def addmm(rec: Recorder, func, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1):
    if beta != 1 or alpha != 1 or not _data(mat1) or not rec.wanted(mat2):
        return func(input, mat1, mat2, beta=beta, alpha=alpha)
    out = func(_cut(rec, input), mat1, cut(mat2))
    site = rec.site(out)
    rec.note(site, Dense(mat2, mat1.detach(), Matrix(rows_out=False)))
    _entry(rec, site, input)
    return out


def _tuple(value: Any, d: int) -> tuple[int, ...]:
    return (value,) * d if isinstance(value, int) else tuple(value) * (d if len(value) == 1 else 1)


def _padding(padding: Any, size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, size)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return tuple((p, p) for p in _tuple(padding, len(size)))


def conv(rec: Recorder, func, input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1):
    d = weight.ndim - 2
    plain = not _data(input) or input.ndim != weight.ndim or not (rec.wanted(weight) or rec.wanted(bias))
    if plain:
        return func(input, weight, bias, stride, padding, dilation, groups)
    out = func(input, _cut(rec, weight), _cut(rec, bias), stride, padding, dilation, groups)
    site, size = rec.site(out), tuple(weight.shape[2:])
    if rec.wanted(weight):
        dilations = _tuple(dilation, d)
        pads = _padding(padding, size, dilations)
        form = Convolution(size, _tuple(stride, d), pads, dilations, groups, tuple(out.shape[2:]))
        rec.note(site, Dense(weight, input.detach(), form))
    _entry(rec, site, bias, axis=1)
    return out


def conv_transpose(
    rec: Recorder, func, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    d = weight.ndim - 2
    plain = not _data(input) or input.ndim != weight.ndim or not (rec.wanted(weight) or rec.wanted(bias))
    if plain:
        return func(input, weight, bias, stride, padding, output_padding, groups, dilation)
    out = func(input, _cut(rec, weight), _cut(rec, bias), stride, padding, output_padding, groups, dilation)
    site, size = rec.site(out), tuple(weight.shape[2:])
    if rec.wanted(weight):
        pads = _padding(padding, size, _tuple(dilation, d))
        space = tuple(input.shape[2:])
        form = Convolution(size, _tuple(stride, d), pads, _tuple(dilation, d), groups, space, transposed=True)
        rec.note(site, Dense(weight, input.detach(), form))
    _entry(rec, site, bias, axis=1)
    return out


def embedding(
    rec: Recorder,
    func,
    input,
    weight,
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
):
    rest = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if not _data(input) or not rec.wanted(weight) or max_norm is not None or scale_grad_by_freq:
        return func(input, weight, *rest)
    out = func(input, cut(weight), *rest)
    index = input.detach().long()
    if padding_idx is not None:
        index = index.masked_fill(index == padding_idx % len(weight), -1)
    rec.note(rec.site(out), Lookup(weight, index))
    return out


def _norm(rec: Recorder, out: Tensor, weight, bias, normal: Callable[[], Tensor], axis: int | None):
    """The uses of a normalisation's scale and shift; `normal` is the normalised input, computed when it is asked
    for."""
    site = rec.site(out)
    _entry(rec, site, weight, normal, axis=axis)
    _entry(rec, site, bias, axis=axis)
    return out


def layer_norm(rec: Recorder, func, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    if not (rec.wanted(weight) or rec.wanted(bias)):
        return func(input, normalized_shape, weight, bias, eps)
    out, x = func(input, normalized_shape, _cut(rec, weight), _cut(rec, bias), eps), input.detach()
    return _norm(rec, out, weight, bias, lambda: F.layer_norm(x, normalized_shape, None, None, eps), None)


def rms_norm(rec: Recorder, func, input, normalized_shape, weight=None, eps=None):
    if not rec.wanted(weight):
        return func(input, normalized_shape, weight, eps)
    out, x = func(input, normalized_shape, _cut(rec, weight), eps), input.detach()
    return _norm(rec, out, weight, None, lambda: F.rms_norm(x, normalized_shape, None, eps), None)


def group_norm(rec: Recorder, func, input, num_groups, weight=None, bias=None, eps=1e-5):
    if not (rec.wanted(weight) or rec.wanted(bias)):
        return func(input, num_groups, weight, bias, eps)
    out, x = func(input, num_groups, _cut(rec, weight), _cut(rec, bias), eps), input.detach()
    return _norm(rec, out, weight, bias, lambda: F.group_norm(x, num_groups, None, None, eps), 1)


def batch_norm(
    rec: Recorder,
    func,
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
):
    if training:
        raise InputError(
            "`module` normalises by the statistics of the batch (batch_norm with training=True), so that no example has a "  # noqa: E501
            "kernel of its own. Call `module.eval()` first, with running statistics in its BatchNorm layers."
        )
    rest = (False, momentum, eps)
    if not (rec.wanted(weight) or rec.wanted(bias)):
        return func(input, running_mean, running_var, weight, bias, *rest)
    out, x = func(input, running_mean, running_var, _cut(rec, weight), _cut(rec, bias), *rest), input.detach()
    normal = lambda: F.batch_norm(x, running_mean, running_var, None, None, *rest)  # noqa: E731
    return _norm(rec, out, weight, bias, normal, 1)


def _weight_and_data(rec: Recorder, a: Any, b: Any) -> tuple[Tensor, Tensor, bool] | None:
    """Which of two operands is the weight, the other, and whether the weight comes first; None if it is not so."""
    if _data(a) and rec.wanted(b):
        return b, a, False
    return (a, b, True) if _data(b) and rec.wanted(a) else None


def _source(weight: Tensor) -> Tensor:
    """What `weight` was expanded from: the sum over the expanded axes is then taken example by example."""
    return getattr(weight, SOURCE, weight)


def _elementwise(rec: Recorder, func, a: Any, b: Any, factor: Callable[[Tensor, bool], Any]):
    found = _weight_and_data(rec, a, b)
    if found is None:
        return func(a, b)
    weight, data, first = found
    source = _source(weight)
    copy = cut(source).expand(weight.shape)
    out = func(copy, data) if first else func(data, copy)
    _entry(rec, rec.site(out), source, factor(data.detach(), first))
    return out


def add(rec: Recorder, func, input, other, *, alpha: Any = 1):
    if alpha != 1:
        return func(input, other, alpha=alpha)
    return _elementwise(rec, func, input, other, lambda _, __: 1.0)


def iadd(rec: Recorder, func, input, other, *, alpha: Any = 1):
    """In place: what is added to must be the examples' own."""
    return add(rec, func, input, other, alpha=alpha) if _data(input) else _plain_add(func, input, other, alpha)


def _plain_add(func, input, other, alpha: Any):
    return func(input, other) if alpha == 1 else func(input, other, alpha=alpha)


def sub(rec: Recorder, func, input, other, *, alpha: Any = 1):
    if alpha != 1:
        return func(input, other, alpha=alpha)
    return _elementwise(rec, func, input, other, lambda _, first: 1.0 if first else -1.0)


def rsub(rec: Recorder, func, input, other):
    """`other - input`, called as a method of `input`."""
    return _elementwise(rec, func, input, other, lambda _, first: -1.0 if first else 1.0)


def mul(rec: Recorder, func, input, other):
    return _elementwise(rec, func, input, other, lambda data, _: lambda: data)


def cat(rec: Recorder, func, tensors, dim=0):
    if not any(rec.wanted(t) for t in tensors) or not all(t.ndim == tensors[0].ndim for t in tensors):
        return func(tensors, dim)
    sources = [_source(t) if rec.wanted(t) else t for t in tensors]
    copies = [cut(s).expand(t.shape) if rec.wanted(t) else t for s, t in zip(sources, tensors)]
    out = func(copies, dim)
    site, axis, start = rec.site(out), dim % out.ndim, 0
    for source, tensor in zip(sources, tensors):
        if rec.wanted(tensor):
            _entry(rec, site, source, part=(axis, start, tensor.shape[axis]))
        start += tensor.shape[axis]
    return out


def refuse_dropout(p: float, training: bool) -> None:
    if training and p > 0:
        raise InputError(
            f"`module` drops out at random (p={p}), so that it is not a function of its input. Call `module.eval()` "
            f"first."
        )


def dropout(rec: Recorder, func, input, p=0.5, training=True, inplace=False):
    refuse_dropout(p, training)
    return func(input, p, training, inplace)


def attention(rec: Recorder, func, query, key, value, attn_mask=None, dropout_p=0.0, *args, **kwargs):
    refuse_dropout(dropout_p, True)
    return func(query, key, value, attn_mask, dropout_p, *args, **kwargs)


RULES: dict[Any, Callable] = {
    F.linear: linear,
    torch.addmm: addmm,
    Tensor.addmm: addmm,
    F.embedding: embedding,
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.group_norm: group_norm,
    F.batch_norm: batch_norm,
    F.scaled_dot_product_attention: attention,
    torch.cat: cat,
    torch.concat: cat,
    torch.concatenate: cat,
    Tensor.__rsub__: rsub,
    Tensor.__rmatmul__: rmatmul,
}
RULES |= dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), matmul)
RULES |= dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), conv)
RULES |= dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), conv_transpose)
RULES |= dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), add)
RULES |= dict.fromkeys((Tensor.add_, Tensor.__iadd__), iadd)
RULES |= dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__), sub)
RULES |= dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), mul)
RULES |= dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), dropout)
