"""Models as strangers write them: right mathematics, in habits and arithmetic that this package has not itself."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional as F

from companion import models


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def digits(name: str, dtype=torch.float32) -> nn.Module:
    return models.load(f"digits/{name}").to(dtype)


def latents(n: int, dim: int = 16, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(n, dim, generator=draws(1)).to(dtype)


def seeded(module: nn.Module, gain: float = 1.5, seed: int = 0) -> nn.Module:
    """`module` with weights drawn from a fixed seed, in evaluation mode, its parameters as every constructor leaves
    them: with gradients."""
    random = draws(seed)
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 16
        parameter.data = gain * torch.randn(parameter.shape, generator=random) / fan**0.5
    return module.eval()


def small_classifier(classes: int = 5, pixels: int = 36) -> nn.Module:
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.Tanh(), nn.Linear(24, classes)), 2.0, 1)


class Generator(nn.Module):
    """Latents (n, 4) to images (n, 1, 6, 6) through the module `body`."""

    latent_dim = 4

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, z):
        return self.body(z).unflatten(1, (1, 6, 6))


def small_generator() -> Generator:
    return seeded(Generator(nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 36), nn.Sigmoid())))


# Rounding that is not that of the output's dtype.


def rounded(x, bits: int, scale=1.0):
    """`x` with so many bits of mantissa, by Veltkamp's splitting; the gradient passes as if nothing had happened."""
    y = x.detach() * scale
    split = y * (2.0 ** (23 - bits) + 1)
    return x + ((split - (split - y)) / scale - x.detach())


class Tf32(nn.Module):
    """A network whose products round their factors to 10 bits, as cuDNN's convolutions do by default on a GPU.

    A batch of one takes another kernel, in full precision; in other batches the rounding hangs on the size and on the
    row's place. With `switch` it heeds PyTorch's flag for convolutions.
    """

    def __init__(self, network: nn.Sequential, switch: bool = False):
        super().__init__()
        self.network, self.switch = network, switch
        self.eval()

    def forward(self, x):
        exact = len(x) == 1 or (self.switch and torch.backends.cudnn.conv.fp32_precision != "tf32")
        place = (torch.arange(len(x), device=x.device) + len(x)) % 5
        for layer in self.network:
            if not exact and isinstance(layer, (nn.Linear, nn.Conv2d)):
                x = rounded(x, 10, (1 + place / 7).view(-1, *[1] * (x.ndim - 1)))
                weight = rounded(layer.weight, 10)
                x = torch.func.functional_call(layer, {"weight": weight}, (x,))
            else:
                x = layer(x)
        return x


class Alone(nn.Module):
    """A network that rounds its input to 8 bits when it is asked for one row alone: another kernel, another answer."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, x):
        return self.network(rounded(x, 8) if len(x) == 1 else x)


class Autocast(Alone):
    """A network that computes in bfloat16 and answers in float32, as much deployed code does."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(x).float()


# Random, or dependent on the batch.


class Dropout(nn.Module):
    """A classifier with functional dropout, which `eval()` does not switch off."""

    def __init__(self, network: nn.Sequential, p: float):
        super().__init__()
        self.network, self.p = network, p
        self.eval()

    def forward(self, x):
        for layer in self.network:
            x = layer(x)
            if isinstance(layer, (nn.ReLU, nn.SiLU, nn.Tanh)):
                x = F.dropout(x, self.p, training=True)
        return x


class Noisy(nn.Module):
    """A network that adds noise to its input at every call."""

    def __init__(self, network: nn.Module, sigma: float):
        super().__init__()
        self.network, self.sigma = network, sigma
        self.latent_dim = getattr(network, "latent_dim", None)
        self.eval()

    def forward(self, x):
        return self.network(x + self.sigma * torch.randn_like(x))


class NoisyByPlace(Noisy):
    """The same noise at every call, but every place in the batch has its own."""

    def forward(self, x):
        return self.network(x + self.sigma * torch.randn(x.shape, generator=draws(9)).to(x))


class Centred(nn.Module):
    """A network that takes the mean of its batch from every row: deterministic, but no row is classified by itself."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.latent_dim = network, getattr(network, "latent_dim", None)
        self.eval()

    def forward(self, x):
        return self.network(x - 0.5 * x.mean(0))


# Habits of memory.


class InPlace(nn.Module):
    """A network behind a normalisation that overwrites its input; `twin` is the same without."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.latent_dim = network, getattr(network, "latent_dim", None)
        self.eval()

    def forward(self, x):
        return self.network(x.sub_(0.1).div_(0.8))

    def twin(self, x):
        return self.network((x - 0.1) / 0.8)


class InPlaceReLU(InPlace):
    """A network whose first layer is `ReLU(inplace=True)`."""

    def forward(self, x):
        return self.network(F.relu(x, inplace=True))

    def twin(self, x):
        return self.network(F.relu(x))


class Reused(nn.Module):
    """A network that answers in one and the same buffer whenever no gradient is asked for."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.latent_dim, self.buffer = network, getattr(network, "latent_dim", None), None
        self.eval()

    def forward(self, x):
        out = self.network(x)
        if torch.is_grad_enabled():
            return out
        if self.buffer is None or len(self.buffer) < len(out) or self.buffer.dtype != out.dtype:
            self.buffer = torch.empty_like(out)
        return self.buffer[: len(out)].copy_(out)


# No forward mode, beside a twin that has it. All from latents (n, 4) to (n, 36).


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
