from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.models import Masks, SampledMask


def test_straight_through_gradient_equals_a_hand_computed_one() -> None:
    w = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    s = torch.tensor([[0.0, 1.0], [-1.0, 2.0]], requires_grad=True)
    u = torch.tensor([[0.4, 0.9], [0.1, 0.5]])
    x = torch.tensor([1.0, -2.0])
    y = SampledMask.apply(s, w, u) @ x
    # sigmoid(s) = 0.5, 0.731, 0.269, 0.881, so m = [[1, 0], [1, 1]] and y = [2, 0.5 - 6].
    assert y.tolist() == [2.0, -5.5]
    (3 * y[0] + y[1]).backward()
    p = 1 / (1 + np.exp(-s.detach().numpy()))
    upstream = np.array([[3.0, -6.0], [1.0, -2.0]])  # d loss / d (w m) = outer([3, 1], x)
    expected = upstream * w.numpy() * p * (1 - p)
    np.testing.assert_allclose(s.grad.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "conv", "attention"])
def test_any_weight_of_any_module_can_be_masked_and_stays_frozen(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "linear":
        model, tensor, x = nn.Linear(6, 4), "weight", torch.randn(3, 6)
    elif kind == "conv":
        model, tensor, x = nn.Conv2d(2, 4, 3), "weight", torch.randn(3, 2, 5, 5)
    else:
        model, tensor, x = nn.MultiheadAttention(8, 2, batch_first=True), "in_proj_weight", torch.randn(3, 5, 8)
    run = (lambda: model(x, x, x)[0]) if kind == "attention" else (lambda: model(x))
    plain = run().detach()
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    masks = Masks(model, [(model, tensor)])
    assert masks.segments == (frozen[tensor].numel(),)

    masks.set_multiplier(torch.ones(masks.d))
    torch.testing.assert_close(run(), plain, rtol=0, atol=1e-6)
    masks.set_multiplier(torch.zeros(masks.d))
    assert not torch.allclose(run(), plain)

    masks.load_scores(torch.full((masks.d,), 1.0))
    optimiser = torch.optim.Adam(masks.parameters(), lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        run().square().sum().backward()
        optimiser.step()
    assert not torch.equal(masks.probabilities(), torch.full((masks.d,), torch.tensor(1.0).sigmoid()))
    now = dict(model.state_dict())
    assert torch.equal(now.pop(f"parametrizations.{tensor}.original"), frozen.pop(tensor))
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert [p for p in model.parameters() if p.requires_grad] == masks.parameters()


def test_masks_are_drawn_anew_in_every_forward_with_the_right_share_of_ones() -> None:
    layer = nn.Linear(300, 300, bias=False)
    nn.init.ones_(layer.weight)
    masks = Masks(layer, [(layer, "weight")])
    masks.load_scores(torch.full((masks.d,), float(np.log(0.9 / 0.1))))
    masks.generator.manual_seed(1)
    first, second = layer.weight.detach(), layer.weight.detach()
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    assert first.mean().item() == pytest.approx(0.9, abs=5 * np.sqrt(0.09 / masks.d))
    masks.generator.manual_seed(1)
    assert torch.equal(layer.weight.detach(), first)


def test_flat_vectors_follow_the_order_of_the_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    masks = Masks(model, [(model[0], "weight"), (model[1], "weight")])
    masks.load_scores(torch.arange(9.0))
    assert masks.segments == (6, 3)
    torch.testing.assert_close(masks.probabilities(), torch.arange(9.0).sigmoid())
    with pytest.raises(RuntimeError):
        masks.load_scores(torch.zeros(8))
