"""Facts of the LeNets that the contract does not show."""

import torch

import convzoo
from convzoo.models import lenet


def test_table_one_of_the_paper():
    rows = [row for group in lenet.C3_TABLE for row in group]
    assert len(rows) == 16
    assert sum(len(row) for row in rows) == 60  # kernels; with 16 biases, 1,516 parameters
    readers = [sum(chan in row for row in rows) for chan in range(6)]
    assert readers == [10] * 6


def test_c3_is_the_dense_convolution_with_the_unconnected_kernels_at_zero():
    layer = convzoo.create_model("lenet5_1998").c3
    rows = [row for group in lenet.C3_TABLE for row in group]
    kernels = [kernel for conv in layer.convs for kernel in conv.weight]
    dense = torch.zeros(16, 6, 5, 5)
    for index, (row, kernel) in enumerate(zip(rows, kernels, strict=True)):
        dense[index, list(row)] = kernel
    bias = torch.cat([conv.bias for conv in layer.convs])
    x = torch.randn(2, 6, 14, 14)
    assert torch.allclose(layer(x), torch.nn.functional.conv2d(x, dense, bias), atol=1e-5)


def test_codes_are_ten_different_bitmaps_and_stay_put():
    codes = torch.tensor(lenet.class_codes(12))
    assert codes.shape == (12, 84)
    assert set(codes.flatten().tolist()) == {1.0, -1.0}
    distances = (codes[:, None] != codes[None]).sum(-1) + 84 * torch.eye(12, dtype=torch.int64)
    assert distances.min() >= 4  # bitmaps, so similar digits are near: 3 and 9, 8 and 9
    assert torch.equal(codes[:10], torch.tensor(lenet.class_codes(10)))
    model = convzoo.create_model("lenet5_1998")
    assert torch.equal(model.output.codes, codes[:10])
    assert not model.output.codes.requires_grad


def test_output_is_minus_the_squared_distance():
    model = convzoo.create_model("lenet5_1998").eval()
    x = torch.rand(2, 1, 28, 28)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    expected = -torch.cdist(features, model.output.codes).square()
    assert torch.allclose(model(x), expected, rtol=1e-3)


def test_scaled_tanh_of_the_paper():
    assert torch.allclose(lenet.ScaledTanh()(torch.tensor([1.0, -1.0])), torch.tensor([1.0, -1.0]), atol=1e-4)


def test_28_is_padded_to_32():
    model = convzoo.create_model("lenet5")
    padded = convzoo.create_model("lenet5", img_size=32)
    padded.load_state_dict(model.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert torch.allclose(model.eval()(x), padded.eval()(torch.nn.functional.pad(x, (2, 2, 2, 2))), atol=1e-6)
