from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from common.models.masking import Masks, SampledMask
from common.models.remember_bits import RememberBits


def test_straight_through_gradient_equals_a_hand_computed_one() -> None:
    w = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    s = torch.tensor([[0.0, 1.0], [-1.0, 2.0]], requires_grad=True)
    u = torch.tensor([[0.4, 0.9], [0.1, 0.5]])
    x = torch.tensor([1.0, -2.0])
    y = SampledMask.apply(s, w, u < torch.sigmoid(s)) @ x
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


class Small(nn.Module):
    """Every kind of masked layer in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.linear(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1)


TENSORS = ["conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "linear.weight"]


def small() -> tuple[Small, Masks]:
    torch.manual_seed(0)
    model = Small().eval()
    places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in TENSORS]
    return model, Masks(model, places)


def test_gradients_are_bit_for_bit_those_of_plain_autograd_and_each_mask_is_drawn_once() -> None:
    torch.manual_seed(0)
    plain = Small().eval()
    model, masks = small()
    scores = torch.randn(masks.d)
    x = torch.randn(4, 3, 6, 6)
    masks.load_scores(scores)
    masks.generator.manual_seed(3)
    loss = model(x).square().sum()
    loss.backward()

    rng = torch.Generator().manual_seed(3)
    weights, products, slopes = dict(plain.named_parameters()), {}, {}
    for name, part in zip(TENSORS, torch.split(scores, list(masks.segments)), strict=True):
        p = torch.sigmoid(part.view_as(weights[name]))
        products[name] = (weights[name] * (torch.rand(p.shape, generator=rng) < p)).detach().requires_grad_()
        slopes[name] = p * (1 - p)
    expected = torch.func.functional_call(plain, weights | products, x).square().sum()
    expected.backward()
    assert torch.equal(loss, expected)
    for name, parameter in zip(TENSORS, masks.parameters(), strict=True):
        assert torch.equal(parameter.grad, products[name].grad * weights[name] * slopes[name]), name


def test_mean_masks_multiply_with_probabilities_and_have_the_gradient_of_plain_autograd() -> None:
    torch.manual_seed(0)
    plain = Small().eval()
    model, masks = small()
    flat, x = torch.randn(masks.d), torch.randn(4, 3, 6, 6)
    masks.load_scores(flat, sampled=False)
    loss = model(x).square().sum()
    loss.backward()

    weights = dict(plain.named_parameters())
    scores = {
        name: part.view_as(weights[name]).clone().requires_grad_()
        for name, part in zip(TENSORS, torch.split(flat, list(masks.segments)), strict=True)
    }
    products = {name: torch.sigmoid(score) * weights[name].detach() for name, score in scores.items()}
    expected = torch.func.functional_call(plain, weights | products, x).square().sum()
    expected.backward()
    assert torch.equal(loss, expected)
    for name, parameter in zip(TENSORS, masks.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, scores[name].grad)
    masks.load_scores(flat)
    assert not torch.equal(model(x).square().sum(), loss), "a sample again, unless it is asked otherwise"


@pytest.mark.parametrize("lean", [True, False])
def test_no_masked_weight_outlives_its_layer(monkeypatch, lean: bool) -> None:
    products = []
    note = RememberBits.note

    def watch(self, product, weight, mask) -> None:
        products.append(weakref.ref(product))
        if lean:
            note(self, product, weight, mask)

    monkeypatch.setattr(RememberBits, "note", watch)
    model, masks = small()
    masks.load_scores(torch.ones(masks.d))
    loss = model(torch.randn(4, 3, 6, 6)).sum()
    alive = sum(product() is not None for product in products)
    assert len(products) == len(TENSORS)
    assert (alive == 0) if lean else (alive > 0)  # autograd alone would keep them
    loss.backward()


def test_a_forward_pass_that_fails_leaves_nothing_behind() -> None:
    model, masks = small()
    masks.load_scores(torch.ones(masks.d))
    with pytest.raises(RuntimeError):
        model(torch.randn(4, 2, 6, 6))
    weight = torch.randn(3, 3, requires_grad=True)
    (torch.randn(3, 3, requires_grad=True) @ weight).sum().backward()
    first, second = model.attention.in_proj_weight, model.attention.in_proj_weight
    assert not torch.equal(first, second)


def test_unmasked_weights_are_the_frozen_ones() -> None:
    model, masks = small()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        masks.set_multiplier(torch.ones(masks.d))
        ones = model(x)
        masks.set_multiplier(torch.zeros(masks.d))
        masks.unmask()
        assert torch.equal(model(x), ones)


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
