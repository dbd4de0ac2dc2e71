"""What local training minimises, and by which steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.config.run import RunConfig
from deltamask_client.methods.deltamask.scale import share_of_step
from deltamask_client.objective import (
    Objective,
    adam,
    calibrated,
    cross_entropy,
    kl_penalty,
    optimiser_of,
    remembering,
    sgd,
    together,
    vacant_classes,
)

CLASSES = 5
ROWS = torch.arange(40)


def logits_and_labels(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Some logits; classes 0 to 3 at unequal frequencies, and never the last."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES - 1, n, p=[0.6, 0.2, 0.15, 0.05])
    return torch.from_numpy(rng.standard_normal((n, CLASSES)).astype(np.float32)), torch.from_numpy(labels)


def gradient(loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits, labels, torch.arange(len(labels))), logits)
    return found


# -- the calibrated loss


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_it_is_cross_entropy_with_the_logarithms_of_the_frequencies_added(strength: float) -> None:
    logits, labels = logits_and_labels()
    counts = np.bincount(labels.numpy(), minlength=CLASSES)
    seen = counts > 0
    found = calibrated(labels.numpy(), CLASSES, strength)(logits, labels, ROWS)
    shift = torch.from_numpy(np.log(np.where(seen, counts, 0.008) / len(labels))).float()
    assert found.item() == pytest.approx(F.cross_entropy(logits + strength * shift, labels).item(), rel=1e-3)


def test_a_strength_of_zero_is_plain_cross_entropy() -> None:
    logits, labels = logits_and_labels()
    for loss in (calibrated(labels.numpy(), CLASSES, 0.0), calibrated(np.zeros(0, np.int64), CLASSES)):
        assert torch.equal(loss(logits, labels, ROWS), F.cross_entropy(logits, labels))


def test_equal_frequencies_change_nothing() -> None:
    logits, _ = logits_and_labels()
    labels = torch.arange(40) % CLASSES
    loss = calibrated(labels.numpy(), CLASSES)
    torch.testing.assert_close(gradient(loss, logits, labels), gradient(cross_entropy, logits, labels))


def test_a_site_with_a_single_class_learns_next_to_nothing() -> None:
    logits, _ = logits_and_labels()
    labels = torch.full((40,), 2)
    calm = gradient(calibrated(labels.numpy(), CLASSES), logits, labels)
    plain = gradient(cross_entropy, logits, labels)
    assert torch.isfinite(calm).all()
    assert calm.norm() < 0.01 * plain.norm(), "all of its images are explained by its having no others"


def test_the_logits_of_a_class_that_is_lacking_are_left_alone() -> None:
    logits, labels = logits_and_labels()
    calm, plain = (
        gradient(loss, logits, labels)[:, -1].norm() for loss in (calibrated(labels.numpy(), CLASSES), cross_entropy)
    )
    assert calm < 0.01 * plain


# -- classes that a site lacks


def test_it_lacks_the_classes_without_images() -> None:
    assert vacant_classes(np.array([0, 3, 3]), CLASSES).tolist() == [1, 2, 4]
    assert vacant_classes(np.arange(CLASSES), CLASSES).tolist() == []


def test_what_the_received_model_says_of_vacant_classes_is_kept() -> None:
    logits, labels = logits_and_labels()
    labels = labels % 2  # classes 2, 3 and 4 are vacant
    vacant = vacant_classes(labels.numpy(), CLASSES)
    received = torch.roll(logits, 1, dims=0)
    loss = remembering(cross_entropy, vacant, received, 0.3)
    expected = F.cross_entropy(logits, labels)
    for row, logit in enumerate(logits):
        opinion, now = (values.double().softmax(0) for values in (received[row], logit))
        opinion, now = (torch.cat([p[:2].sum()[None], p[2:]]) for p in (opinion, now))
        expected = expected - 0.3 * float((opinion * now.log()).sum()) / len(logits)
    assert loss(logits, labels, ROWS).item() == pytest.approx(expected.item(), rel=1e-5)
    chosen = torch.tensor([7, 3])
    assert loss(logits[chosen], labels[chosen], chosen).item() != loss(logits[chosen], labels[chosen], ROWS[:2]).item()


def test_among_its_own_classes_a_site_is_free() -> None:
    logits, labels = logits_and_labels()
    loss = remembering(lambda logits, target, rows: logits.sum() * 0, np.array([2, 3, 4]), logits, 1.0)
    other = logits.clone()
    other[:, :2] = torch.stack([logits[:, :2].logsumexp(1) + np.log(0.1), logits[:, :2].logsumexp(1) + np.log(0.9)], 1)
    assert loss(other, labels, ROWS).item() == pytest.approx(loss(logits, labels, ROWS).item(), rel=1e-6)
    other[:, 0] += 1
    assert loss(other, labels, ROWS).item() > loss(logits, labels, ROWS).item()


def test_an_opinion_that_has_not_changed_has_no_gradient() -> None:
    logits, labels = logits_and_labels()
    loss = remembering(cross_entropy, np.array([2, 3, 4]), logits, 1.0)
    plain = gradient(cross_entropy, logits, labels)
    torch.testing.assert_close(gradient(loss, logits, labels), plain, atol=1e-7, rtol=1e-4)


# -- the penalty


def kl(score: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Of Bernoulli distributions, in nats, summed."""
    p, q = torch.sigmoid(score), torch.sigmoid(before)
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_the_penalty_adds_the_gradient_of_the_divergence(strength: float) -> None:
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]
    scores = [start.clone().requires_grad_() for start in before]
    add = kl_penalty(scores, strength)
    own = [torch.randn(score.shape, generator=generator, dtype=torch.float64) for score in scores]
    for score, grad in zip(scores, own, strict=True):
        with torch.no_grad():
            score += torch.randn(score.shape, generator=generator, dtype=torch.float64)
        score.grad = grad.clone()
    add()
    for score, start, grad in zip(scores, before, own, strict=True):
        (expected,) = torch.autograd.grad(strength * kl(score, start), score)
        torch.testing.assert_close(score.grad - grad, expected)
        assert expected.abs().max() > 0.01


def test_the_penalty_is_flat_where_training_starts_and_absent_at_strength_zero() -> None:
    score = torch.randn(6).requires_grad_()
    for strength in (2.0, 0.0):
        score.grad = torch.ones(6)
        add = kl_penalty([score], strength)
        add()
        assert torch.equal(score.grad, torch.ones(6))
    with torch.no_grad():
        score += 1
    add()  # of strength 0
    assert torch.equal(score.grad, torch.ones(6))


def test_an_objective_is_plain_cross_entropy_unless_it_says_otherwise() -> None:
    logits, labels = logits_and_labels()
    assert torch.equal(Objective().loss(logits, labels, ROWS), F.cross_entropy(logits, labels))
    Objective().add_gradient()


# -- the steps


def test_together_steps_both_parts_each_by_its_own_optimiser() -> None:
    start = [torch.full((3,), 1.0), torch.full((2,), 2.0), torch.full((2, 2), 3.0)]
    parameters = [value.clone().requires_grad_() for value in start]
    both = together(sgd(0.5, momentum=0.0), 1, adam(0.01))(parameters)
    for _ in range(3):
        both.zero_grad()
        assert all(parameter.grad is None for parameter in parameters)
        sum(4 * parameter.sum() for parameter in parameters).backward()
        both.step()
    torch.testing.assert_close(parameters[0].detach(), start[0] - 3 * 0.5 * 4)
    for parameter, value in zip(parameters[1:], start[1:], strict=True):  # Adam's step is its rate, whatever the slope
        torch.testing.assert_close(parameter.detach(), value - 3 * 0.01)


def test_each_round_has_a_fresh_optimiser() -> None:
    parameter = torch.zeros(1).requires_grad_()
    make = sgd(1.0, momentum=0.9)
    for expected in (-1.0, -2.0):
        optimiser = make([parameter])
        optimiser.zero_grad()
        parameter.sum().backward()
        optimiser.step()
        assert parameter.item() == expected, "no momentum of the round before"


def test_weights_and_signs_are_trained_as_the_run_says() -> None:
    run = RunConfig(method="fedavg", optimiser="sgd", momentum=0.5)
    found = optimiser_of(run, 0.2)([torch.zeros(1, requires_grad=True)])
    assert isinstance(found, torch.optim.SGD)
    assert (found.defaults["lr"], found.defaults["momentum"]) == (0.2, 0.5)
    found = optimiser_of(run.replace(optimiser="adam", momentum=0.9), 0.2)([torch.zeros(1, requires_grad=True)])
    assert isinstance(found, torch.optim.Adam)
    assert found.defaults["lr"] == 0.2


# -- how long a step is


@pytest.mark.parametrize(
    ("counts", "share"),
    [([4] * 10, 1.0), ([3] * 100, 1.0), ([9, 1, 0], 0.1412), ([5, 5, 0], 0.301), ([0, 7], 0.0), ([0, 0], 0.0)],
)
def test_a_site_with_little_to_tell_apart_takes_smaller_steps(counts: list[int], share: float) -> None:
    assert share_of_step(np.repeat(np.arange(len(counts)), counts)) == pytest.approx(share, abs=1e-3)
