"""Real modules, small, and the Jacobian contraction of torch.func that every one of them is compared with."""

import warnings

import torch
from torch import nn
from torch.nn import functional as F


def contraction(module, x1, x2=None):
    """K (n1, n2, o, o) by `torch.func`, as its tutorial has it, over the parameters that require grad."""
    values = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def output(params, example):
        return torch.func.functional_call(module, params, (example[None],))[0]

    def rows(x):
        each = [torch.func.jacrev(output)(values, example) for example in x]  # vmap has no rule for a GRU
        return torch.stack([torch.cat([j.reshape(len(j), -1) for j in jacobian.values()], 1) for jacobian in each])

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # vmap without a rule, but right
        one = rows(x1)
        other = one if x2 is None else rows(x2)
    return torch.einsum("nap,mbp->nmab", one, other)


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def convolutions():
    """Dilated, grouped, transposed, depthwise, strided, with pooling and an activation in place."""
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding="same", dilation=2, groups=2),
        nn.GELU(),
        nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 3, groups=4, stride=2, padding=1, padding_mode="circular"),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def signals():
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, stride=2), nn.SiLU(), nn.ConvTranspose1d(3, 2, 4), nn.Flatten(), nn.LazyLinear(2)
    )


def volumes():
    return nn.Sequential(
        nn.Conv3d(2, 3, 2, padding=1),
        nn.SiLU(),
        nn.ConvTranspose3d(3, 2, 2, stride=2),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
    )


class Bottom(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, c, d, stride):
        super().__init__()
        self.one, self.two = nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.Conv2d(d, d, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(d), nn.BatchNorm2d(d)
        self.act = nn.ReLU(inplace=True)
        changed = stride > 1 or c != d
        self.short = nn.Sequential(nn.Conv2d(c, d, 1, stride, bias=False), nn.BatchNorm2d(d)) if changed else None

    def forward(self, x):
        y = self.norm2(self.two(self.act(self.norm1(self.one(x)))))
        y += x if self.short is None else self.short(x)
        return self.act(y)


def resnet18(width=4, outputs=3):
    """The shape of ResNet-18, with statistics as after training."""
    blocks = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    c = width
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            blocks.append(Bottom(c, width * 2**stage, stride))
            c = width * 2**stage
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, outputs))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return net


class ViT(nn.Module):
    """Patches, a class token, positions, encoder layers, a head."""

    def __init__(self, width=8, layers=2, outputs=2):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width))
        layer = nn.TransformerEncoderLayer(width, 2, 16, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.encoder(x))[:, 0])


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.inner, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.inner(x).chunk(3, 2))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class GPT(nn.Module):
    """GPT-2's shape: the head is the table of tokens; positions from a table. `logits` of the last token."""

    def __init__(self, words=11, width=8, layers=2, heads=2, length=6, logits=3):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.attention = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        self.logits = logits

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for i, (attention, mlp) in enumerate(zip(self.attention, self.mlp)):
            x = x + attention(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x))[:, -1, : self.logits]


class Twice(nn.Module):
    """One layer called twice, and its weight once more, transposed, by a function."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = torch.tanh(self.inner(torch.tanh(self.inner(x))))
        return self.outer(torch.sin(x @ self.inner.weight))


class Functional(nn.Module):
    """Parameters used by functions only, in many ways."""

    def __init__(self):
        super().__init__()
        self.w, self.v, self.b = (nn.Parameter(torch.randn(s)) for s in ((5, 4), (4, 3), (4,)))
        self.left, self.scale, self.kernel = (nn.Parameter(torch.randn(s)) for s in ((6, 5), (1, 4), (2, 1, 3)))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)

    def forward(self, x):
        h = torch.tanh(torch.addmm(self.b, x, self.w)) * self.scale + self.frozen
        h = F.layer_norm(h, (4,), self.b, self.scale[0])
        k = F.conv1d(h[:, None], self.kernel, padding=1).mean(1)
        tokens = self.left @ (x[:, :, None] * (1 - self.b))
        y = (k + tokens.mean(1) - self.b).matmul(self.v)
        return y + F.rms_norm(h, (4,), self.b) @ (self.v * 2)


class LoRA(nn.Module):
    """Adapters beside frozen layers: one by two products, one merged into the weight."""

    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(8, 2))
        self.c, self.d = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(2, 2))
        self.base.requires_grad_(False)
        self.head.requires_grad_(False)

    def forward(self, x):
        h = torch.relu(self.base(x) + F.linear(F.linear(x, self.a), self.b))
        return F.linear(h, self.head.weight + self.d @ self.c, self.head.bias)


class Custom(nn.Module):
    """Operations without a rule: einsum, a power by a parameter, a recurrent cell, a bilinear form."""

    def __init__(self):
        super().__init__()
        self.w, self.power = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.rand(4))
        self.pair, self.cell = nn.Bilinear(4, 4, 3), nn.GRUCell(4, 4)

    def forward(self, x):
        h = torch.einsum("ni,ij->nj", x, self.w)
        h = (h.abs() + 0.1) ** self.power
        return self.pair(h, self.cell(h))


class SequenceFirst(nn.Module):
    """Attention over (length, n, width), as torch's layers have it by default, also with keys of another sequence."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2)
        self.merged = nn.Linear(4, 4)

    def forward(self, x):
        x = x.transpose(0, 1)
        x = self.one(x, x, x)[0]
        x = self.two(x, x.flip(0), x.flip(0), need_weights=False)[0]
        return self.merged(x.reshape(-1, 4)).view(x.shape).sum(0)


class Merged(nn.Module):
    """Examples and frames share an axis; a parametrised (normalised) weight; instance norm and PReLU fall back."""

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 2))
        self.norm, self.act, self.out = nn.InstanceNorm1d(3, affine=True), nn.PReLU(3), nn.Linear(9, 2)

    def forward(self, x):
        n, frames = x.shape[:2]
        h = self.act(self.norm(self.conv(x.flatten(0, 1))))
        return self.out(h.mean(-1).reshape(n, frames * 3))


class Scalars(nn.Module):
    """Parameters without axes: a scale, a gate used twice, one that is only added, and one behind an exponential."""

    def __init__(self):
        super().__init__()
        self.scale, self.gate, self.shift, self.log = (nn.Parameter(torch.tensor(v)) for v in (0.7, 0.3, -0.2, 0.1))
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        h = self.inner(x) * self.scale
        h = h + self.gate * torch.tanh(h * self.gate)
        return h * self.log.exp() + self.shift
