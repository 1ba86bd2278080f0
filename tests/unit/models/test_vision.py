"""A patch embedding by a product is the convolution that it stands for."""

import pytest
import torch
from torch import nn

from eyas.models.adapter import VisionLanguageModel
from eyas.models.vision import _OfOnePatch
from families import build


@pytest.mark.parametrize("input_size", [(2, 4, 4), (4, 8, 4)])  # one patch, and several: the plain convolution
@pytest.mark.parametrize("bias", [True, False])
def test_patches_and_gradients_are_those_of_the_convolution(input_size, bias):
    plain = nn.Conv3d(3, 5, kernel_size=(2, 4, 4), stride=(2, 4, 4), bias=bias)
    product = nn.Conv3d(3, 5, kernel_size=(2, 4, 4), stride=(2, 4, 4), bias=bias)
    product.load_state_dict(plain.state_dict())
    product.__class__ = _OfOnePatch
    patches = torch.randn(7, 3, *input_size, generator=torch.Generator().manual_seed(0))
    found, expected = product(patches), plain(patches)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(product.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_towers_of_qwen_take_the_product_and_keep_their_weights_names(name):
    model, processor = build(name)
    names = set(model.state_dict())
    VisionLanguageModel(model, processor)
    assert any(type(m) is _OfOnePatch for m in model.modules())
    assert set(model.state_dict()) == names
