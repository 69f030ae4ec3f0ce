"""The architectures of the colour images: as large as in the literature, and fit for everything the package does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.certificates import certified_lipschitz
from companion.models import architectures
from companion.smoothness import lipschitz_at

CLASSIFIERS = {
    "lenet": dict(width=1),
    "vgg": dict(depth=11, width=4),
    "resnet": dict(depth=18, width=4),
    "wide_resnet": dict(depth=10, width=1),
}


def build(builder: str, **options) -> nn.Sequential:
    torch.manual_seed(0)
    return getattr(architectures, builder)(**options)


def dcgan() -> nn.Sequential:
    """A small generator in evaluation mode whose batch norm has seen something."""
    with torch.random.fork_rng():
        generator = build("dcgan_generator", latent_dim=7, width=4)
        for _ in range(3):
            generator(torch.randn(50, 7))
    return generator.eval().requires_grad_(False)


# From the papers, in millions: ResNet-18 and -101 with CIFAR's first layer 11.2 and 42.5, WRN-28-10 36.5 and WRN-16-2
# 0.7 (Zagoruyko & Komodakis, table 4 and text), VGG-16 with batch norm and one linear layer 14.7. The exact counts are
# sums over the layers: 9 c_in c_out for a convolution (or 1), 2 c for a batch norm, (c + 1) · 10 for the last layer.
@pytest.mark.parametrize(
    "builder, options, count",
    [
        ("resnet", dict(depth=18), 11_173_962),
        ("resnet", dict(depth=50), 23_520_842),
        ("resnet", dict(depth=101), 42_512_970),
        ("vgg", dict(depth=16), 14_728_266),
        ("wide_resnet", dict(depth=28, width=10), 36_479_194),
        ("wide_resnet", dict(depth=16, width=2), 691_674),
        ("lenet", dict(width=1), 62_006),
        ("dcgan_generator", dict(), 100 * 4096 + 16 * (256 * 128 + 128 * 64) + 2 * (256 + 128 + 64) + 64 * 3 * 16 + 3),
    ],
)
def test_parameters_at_full_width(builder, options, count):
    with torch.device("meta"):
        network = getattr(architectures, builder)(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("builder", CLASSIFIERS)
def test_classifiers_give_logits_with_gradients(builder):
    network = build(builder, **CLASSIFIERS[builder]).eval()
    x = torch.rand(3, 3, 32, 32, requires_grad=True)
    logits = network(x)
    assert isinstance(network, nn.Sequential) and logits.shape == (3, 10)
    logits.square().sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    # In evaluation mode no row depends on the others.
    torch.testing.assert_close(network(x[:1]), logits[:1], rtol=1e-4, atol=1e-5)


def test_width_scales_the_channels():
    narrow, wide = (build("resnet", depth=18, width=width) for width in (8, 16))
    counts = [sum(p.numel() for p in network.parameters()) for network in (narrow, wide)]
    assert 3.8 < counts[1] / counts[0] < 4


def test_strides_leave_an_eighth_of_the_image():
    network = build("resnet", depth=18, width=4).eval()
    assert network[:-3](torch.rand(1, 3, 32, 32)).shape == (1, 32, 4, 4)
    network = build("wide_resnet", depth=10, width=1).eval()
    assert network[:-3](torch.rand(1, 3, 32, 32)).shape == (1, 64, 8, 8)


def test_the_generator_makes_images():
    generator = dcgan()
    images = generator(torch.randn(5, 7))
    assert generator.latent_dim == 7 and images.shape == (5, 3, 32, 32)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.01
    assert generator(torch.zeros(0, 7)).shape == (0, 3, 32, 32)
    assert architectures.dcgan_critic(width=4, outputs=11)(images).shape == (5, 11)


def test_the_generator_goes_through_torch_func():
    generator, z = dcgan().double(), torch.randn(2, 7, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda point: generator(point).flatten(1), z)
    expected = torch.stack([torch.linalg.matrix_norm(rows[i, :, i], 2) for i in range(2)])
    torch.testing.assert_close(lipschitz_at(generator, z), expected)
    assert certified_lipschitz(generator, (7,)).constant >= expected.max()


def test_maxmin_sorts_pairs():
    x = torch.tensor([[1.0, -2, 3, 3, 5, 3]])
    assert architectures.MaxMin()(x).tolist() == [[3, 5, 3, 1, -2, 3]]
    image = torch.randn(2, 6, 4, 5)
    # Channel by channel, whatever the shape behind it.
    rows = image.permute(0, 2, 3, 1).reshape(-1, 6)
    expected = architectures.MaxMin()(rows).reshape(2, 4, 5, 6).permute(0, 3, 1, 2)
    assert torch.equal(architectures.MaxMin()(image), expected)


def test_maxmin_keeps_norms_and_grows_no_distance():
    x, y = torch.randn(2, 5_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near = x + 1e-3 * y
    moved = [architectures.MaxMin()(points) for points in (x, y, near)]
    torch.testing.assert_close(moved[0].norm(dim=1), x.norm(dim=1))
    assert ((moved[0] - moved[1]).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-12)).all()
    # Points whose pairs are in the same order keep their distance: the slope is 1, not less, almost everywhere.
    kept = torch.isclose((moved[0] - moved[2]).norm(dim=1), (x - near).norm(dim=1), rtol=1e-9)
    assert kept.double().mean() > 0.99


@pytest.mark.parametrize("shape", [(4, 3), (4,), ()])
def test_maxmin_needs_pairs(shape):
    with pytest.raises(ValueError, match=r"x must be \(n, channels, ...\) with an even number of channels, got \("):
        architectures.MaxMin()(torch.zeros(shape))


def test_centring():
    assert architectures.Centre()(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-2, 0, 2]


@pytest.mark.parametrize(
    "builder, depth, message",
    [
        ("vgg", 12, "depth must be one of 11, 13, 16, 19, got 12"),
        ("resnet", 20, "depth must be one of 18, 34, 50, 101, got 20"),
        ("wide_resnet", 20, r"depth must be 10, 16, 22, 28 or another 6 n \+ 4, got 20"),
        ("wide_resnet", 4, "depth must be 10"),
    ],
)
def test_unknown_depth(builder, depth, message):
    with pytest.raises(ValueError, match=message):
        getattr(architectures, builder)(depth=depth)
