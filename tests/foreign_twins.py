"""Generators without forward mode, each beside a twin that has it. All from latents (n, 4) to (n, 1, 6, 6)."""

from __future__ import annotations

import torch
from foreign import Generator, draws, seeded
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.token, self.out, self.fused = nn.Linear(1, 3 * 6), nn.Linear(24, 36), fused

    def forward(self, z):
        query, key, value = self.token(z[:, :, None])[:, None].chunk(3, -1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.mT / 6**0.5).softmax(-1) @ value
        return self.out(mixed.flatten(1)).sigmoid()


class Recurrent(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.lstm, self.out, self.fused = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 36), fused

    def forward(self, z):
        if self.fused:
            return self.out(self.lstm(z[:, :, None])[0][:, -1])
        w, u, b, c = self.lstm.parameters()
        hidden = cell = z.new_zeros(len(z), 8)
        for step in z.split(1, 1):
            i, f, g, o = F.linear(step, w, b).add(F.linear(hidden, u, c)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.out(hidden)


class Sampled(nn.Module):
    """A fixed smooth picture, looked at where the latent says: 36 points of it, with bilinear weights."""

    def __init__(self, fused: bool):
        super().__init__()
        self.where, self.fused = nn.Linear(4, 72), fused
        self.register_buffer("picture", torch.rand(1, 1, 9, 9, generator=draws(5)))

    def forward(self, z):
        place = self.where(z).tanh().view(-1, 36, 1, 2)
        if self.fused:
            picture = self.picture.to(z).expand(len(z), -1, -1, -1)
            return F.grid_sample(picture, place, align_corners=True).flatten(1)
        # A hat function at every knot: the same weights, written as a product.
        knots = torch.linspace(-1, 1, 9, dtype=z.dtype)
        across, down = ((1 - 4 * (place[..., i] - knots).abs()).clamp(min=0) for i in (0, 1))
        return torch.einsum("npy,yx,npx->np", down, self.picture[0, 0].to(z), across)


class Distances(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.centres, self.fused = nn.Parameter(torch.zeros(36, 4)), fused

    def forward(self, z):
        if self.fused:
            return torch.cdist(z, self.centres)
        return (z[:, None] - self.centres).square().sum(-1).sqrt()


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * s * (1 + x * (1 - s))


class Custom(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.first, self.last, self.act = nn.Linear(4, 24), nn.Linear(24, 36), _Swish.apply if fused else F.silu

    def forward(self, z):
        return self.last(self.act(self.first(z)))


WITHOUT_FORWARD_MODE = [Attention, Recurrent, Sampled, Distances, Custom]


def twins(kind) -> tuple[Generator, Generator]:
    """A generator without forward mode, float64, and the same with it."""
    return tuple(seeded(Generator(kind(fused))).double() for fused in (True, False))
