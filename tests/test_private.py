"""The private method: what its answers can show, that they say what they should, and who refuses what."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.run import RunConfig
from common.errors import ConfigError, PayloadError, PrivacyError
from common.methods.private.accountant import FURTHEST, Budget, bits_scale, epsilon_of, gaussian_deviation, rho_of
from common.methods.private.response import change_of, pack_responses, response_bytes, unpack_responses
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.heads.moments import pack_moments, unpack_moments
from common.subset import share_code, subset
from common.theta import ONE, Version, probabilities, scores
from deltamask_client.methods.private.gradients import mean_direction
from deltamask_client.methods.private.ledger import Ledger
from deltamask_client.methods.private.noise import Noise
from deltamask_client.methods.private.statistics import noisy_moments, usual_length
from tests.e2e.in_process import run_in_process

PRIVATE: dict[str, Any] = {"method": "private", "validation-fraction": 0.0, "screen-heads": False}


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_the_accountant_agrees_with_that_of_opacus() -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 512))
    for rho in (1e-4, 0.01, 0.3, 1.2, 20.0):
        theirs, _ = rdp.get_privacy_spent(orders=orders, rdp=rho * np.array(orders), delta=1e-5)
        assert epsilon_of(rho, 1e-5) == pytest.approx(theirs, rel=0.005)


@given(st.floats(0.01, 500), st.floats(1e-12, 1e-2))
@settings(deadline=None, max_examples=50)
def test_rho_is_the_largest_that_epsilon_allows(epsilon: float, delta: float) -> None:
    rho = rho_of(epsilon, delta)
    assert epsilon_of(rho, delta) <= epsilon < epsilon_of(rho * 1.001, delta)


@given(
    st.floats(-FURTHEST, FURTHEST), st.floats(-FURTHEST, FURTHEST), st.sampled_from([1.01, 1.5, 2.0, 8.0, 64.0, 1e3])
)
def test_a_bit_shows_no_more_than_it_is_charged_for(x: float, y: float, alpha: float) -> None:
    p, q = 0.5 + x, 0.5 + y
    terms = [alpha * math.log(a) + (1 - alpha) * math.log(b) for a, b in ((p, q), (1 - p, 1 - q))]
    divergence = float(np.logaddexp(*terms)) / (alpha - 1)
    charged = (64 / 15) ** 2 * (x - y) ** 2 / 8
    assert divergence <= alpha * charged + 1e-9


def test_the_scale_of_bits_spends_the_whole_budget() -> None:
    # Neighbours are 2 / n apart, times the scale.
    assert (64 / 15) ** 2 * (bits_scale(50, 0.3) * 2 / 50) ** 2 / 8 == pytest.approx(0.3)
    assert 2.0**2 / (2 * gaussian_deviation(2.0, 0.3) ** 2) == pytest.approx(0.3)


def test_head_and_rounds_share_the_budget() -> None:
    budget = Budget.from_config(RunConfig(**snake(PRIVATE), privacy_epsilon=3.0, num_server_rounds=7))
    assert budget.head + 7 * budget.round == pytest.approx(budget.total)
    assert epsilon_of(budget.total, budget.delta) == pytest.approx(3.0)


def snake(config: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in config.items()}


# -- what travels ------------------------------------------------------------------------------------------------------


def test_positions_are_the_same_for_all_and_others_in_each_round() -> None:
    first, again, second = (subset(100_000, share_code(0.05), 7, number) for number in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(first) == pytest.approx(5_000, rel=0.05)
    assert len(np.intersect1d(first, second)) < 500
    assert len(subset(10, share_code(1e-6), 7, 1)) == 1, "never none"
    assert len(subset(1000, share_code(1.0), 7, 1)) == 1000


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_responses_come_back(count: int, seed: int) -> None:
    bits = np.random.default_rng(seed).random(count) < 0.5
    version = Version(np.full(200, 60_000, np.uint16))
    payload = pack_responses(bits, version, 3, 1)
    assert len(payload) == response_bytes(count)
    assert np.array_equal(unpack_responses(payload, 200, count, 3, 1, version.digest), bits)
    for wrong in ((200, count + 1, 3, 1), (200, count, 4, 1), (200, count, 3, 2), (201, count, 3, 1)):
        with pytest.raises(PayloadError):
            unpack_responses(payload, *wrong, version.digest)


def test_bits_behind_the_responses_are_refused() -> None:
    version = Version(np.full(200, 60_000, np.uint16))
    bits = np.ones(13, np.bool_)
    payload = pack_responses(np.ones(16, np.bool_), version, 1, 0)
    forged = pack_responses(bits, version, 1, 0)[:34] + payload[34:]
    with pytest.raises(PayloadError):
        unpack_responses(forged, 200, 13, 1, 0, version.digest)


def test_the_mean_of_many_answers_is_what_was_learnt() -> None:
    x = np.linspace(-FURTHEST, FURTHEST, 9)
    at, noise, tries = np.arange(9) * 2, Noise(1, "test"), 4000
    total = sum(change_of(noise.bits(0.5 + x), at, 18, 0.25) for _ in range(tries)) / tries / ONE
    assert total[at] == pytest.approx(2 * 0.25 * x, abs=4 * 0.25 / math.sqrt(tries))
    assert not total[1::2].any()


def test_noise_is_the_operating_systems_unless_a_seed_is_given() -> None:
    assert not np.array_equal(Noise(None, "a").normal((50,)), Noise(None, "a").normal((50,)))
    assert np.array_equal(Noise(3, "a").normal((50,)), Noise(3, "a").normal((50,)))
    assert not np.array_equal(Noise(3, "a").normal((50,)), Noise(3, "b").normal((50,)))
    drawn = Noise(3, "a").normal((100, 500))
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, rel=0.02)
    noise = Noise(3, "a")
    assert not np.array_equal(noise.normal((50,)), noise.normal((50,))), "no stream is used twice"


# -- one image ---------------------------------------------------------------------------------------------------------


class Images:
    """Prefix outputs at hand."""

    device = torch.device("cpu")

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def batch(self, index: np.ndarray) -> torch.Tensor:
        return self.tokens[torch.from_numpy(index)]


NETWORKS = {
    "transformer": ("letters-vit", "default", 0, 1),
    "convolutions": ("lenet", "random:1", 28, 0),
    "packed attention": ("open_clip:ViT-B-32/openai", "random:1", 0, 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_image_has_the_same_voice(name: str) -> None:
    backbone = load_backbone(*NETWORKS[name])
    rng, spec, count = np.random.default_rng(0), backbone.spec, 18 if name != "packed attention" else 3
    pictures = torch.from_numpy(rng.normal(size=(count, spec.channels, spec.size, spec.size)).astype(np.float32))
    with torch.no_grad():
        tokens = backbone.prefix(pictures)
    theta = rng.integers(50_000, 65_000, backbone.masks.d).astype(np.uint16)
    at = np.sort(rng.choice(backbone.masks.d, 500, replace=False))
    head = Head(rng.normal(size=(10, backbone.features)).astype(np.float32), np.zeros(10, np.float32))
    labels = rng.integers(0, 10, count)
    found = mean_direction(backbone, head, Images(tokens), labels, theta, at)  # type: ignore[arg-type]

    # The same by automatic differentiation, image by image, of the scores.
    backbone.masks.load_scores(torch.from_numpy(scores(theta)), sampled=False)
    p, expected = probabilities(theta).astype(float)[at], np.zeros(500)
    for i in range(count):
        logits = torch.nn.functional.linear(backbone.tail(tokens[i : i + 1]).float(), torch.tensor(head.weight))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([labels[i]]))
        gradients = torch.autograd.grad(loss, backbone.masks.parameters())
        gradient = torch.cat([part.flatten() for part in gradients]).double().numpy()[at] / (p * (1 - p))
        expected -= gradient / np.linalg.norm(gradient) / count
    assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()
    assert np.linalg.norm(found) <= 1

    # Another image in the place of one.
    changed = tokens.clone()
    changed[1] = 5 * torch.randn(tokens[1].shape, generator=torch.Generator().manual_seed(1))
    other = mean_direction(backbone, head, Images(changed), labels, theta, at)  # type: ignore[arg-type]
    assert 0 < np.linalg.norm(other - found) <= 2 / count


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1e-9, 1e-4, 0.1, 10.0, 1e6]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_noisy_moments_are_possible_ones(seed: int, images: int, rho: float, matrix: bool) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(scale=3, size=(images, 5)).astype(np.float32)
    labels = rng.integers(0, 4, images)
    noise = Noise(seed, "moments")
    moments = noisy_moments(features, labels, 4, matrix=matrix, radius=4.0, rho=rho, noise=noise)
    unpack_moments(pack_moments(moments), 4, 5, images, matrix)
    assert (np.linalg.norm(moments.means, axis=1) <= 4 * (1 + 1e-6)).all()


def test_with_much_to_spend_moments_are_those_of_the_features() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    moments = noisy_moments(features, labels, 3, matrix=True, radius=100.0, rho=1e12, noise=Noise(1, ""))
    assert moments.counts.tolist() == np.bincount(labels).tolist()
    for label in range(3):
        assert moments.means[label] == pytest.approx(features[labels == label].mean(0), abs=1e-3)
    around = features - moments.means[labels]
    assert moments.within == pytest.approx(around.T @ around, rel=1e-2, abs=0.5)


def test_the_usual_length_of_features_knows_no_data() -> None:
    backbone = load_backbone("lenet", "random:1", 28, 0)
    assert usual_length(backbone) == usual_length(backbone) > 0


# -- the account -------------------------------------------------------------------------------------------------------


def ledger(folder: Path, run: int = 1, **options: Any) -> Ledger:
    return Ledger(folder, 0, run, **{"allowed": 1.0, "delta": 1e-5} | options)


def never() -> bytes:
    raise AssertionError("answered")


def test_the_same_question_has_the_same_answer_and_costs_once(tmp_path: Path) -> None:
    assert ledger(tmp_path).answer("1", b"a", 0.4, lambda: b"first") == b"first"
    assert ledger(tmp_path).answer("1", b"a", 0.4, never) == b"first"
    assert ledger(tmp_path).epsilon()[0] == pytest.approx(epsilon_of(0.4, 1e-5))
    with pytest.raises(PrivacyError, match="round 1 of this run once already"):
        ledger(tmp_path).answer("1", b"b", 0.1, never)
    ledger(tmp_path).answer("2", b"b", 0.4, lambda: b"second")
    with pytest.raises(PrivacyError, match="once already"):
        ledger(tmp_path).answer("1", b"a", 0.4, never)  # its answer is not kept for ever


def test_nothing_is_answered_beyond_the_budget_of_a_run(tmp_path: Path) -> None:
    ledger(tmp_path).answer("head", b"", 0.7, lambda: b"x")
    with pytest.raises(PrivacyError, match="the privacy budget of this run is spent; round 1 has no answer"):
        ledger(tmp_path).answer("1", b"", 0.31, never)
    ledger(tmp_path, run=2).answer("1", b"", 0.31, lambda: b"y")
    assert ledger(tmp_path).epsilon() == pytest.approx((epsilon_of(0.7, 1e-5), epsilon_of(1.01, 1e-5)))


def test_a_client_has_a_limit_over_all_runs(tmp_path: Path) -> None:
    limit = epsilon_of(1.0, 1e-5)
    ledger(tmp_path, limit=limit).answer("head", b"", 0.7, lambda: b"x")
    with pytest.raises(PrivacyError, match=r"privacy-limit = .* with the head round this client would have shown"):
        ledger(tmp_path, run=2, limit=limit).answer("head", b"", 0.4, never)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"1": 3}', '{"1": {"head": {"rho": "x"}}}', '{"1": {"head": {}}}'])
def test_without_an_account_nothing_is_answered(tmp_path: Path, text: str) -> None:
    (tmp_path / "privacy-client-0.json").write_text(text)
    with pytest.raises(PrivacyError, match=r"client-0\.json: what this client has shown so far cannot be read"):
        ledger(tmp_path).answer("1", b"", 0.1, never)


def test_what_cannot_be_written_down_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PrivacyError):
        ledger(tmp_path / "file").answer("1", b"", 0.1, lambda: b"x")


# -- runs --------------------------------------------------------------------------------------------------------------

CONFIG = PRIVATE | {
    "train-limit": 60,
    "test-limit": 50,
    "masked-blocks": 1,
    "num-server-rounds": 2,
    "head": "mean",
    "min-clients": 2,
    "round-retries": 0,
    "privacy-epsilon": 20.0,
}


def nodes(folder: Path, **options: Any) -> list[dict[str, Any]]:
    each = {"num-partitions": 2, "cache-dir": str(folder)} | options
    return [{"partition-id": number} | each for number in range(2)]


def test_a_run_shows_what_it_may_and_says_nothing_else_of_images(tmp_path: Path) -> None:
    results = run_in_process(tmp_path, CONFIG, nodes(tmp_path / "cache"))
    assert results["status"] == "completed"
    assert [entry["train"] for entry in results["rounds"]] == [{}, {}]
    for entry in results["rounds"]:
        assert entry["uplink"]["bpp"] == pytest.approx(0.05, abs=0.005)
    # Two clients of as many images move an entry up, down, or not at all: 1.5 bits for each position asked for.
    assert results["rounds"][1]["downlink"]["bpp"] == pytest.approx(1.5 * 0.05, rel=0.1)
    for client in range(2):
        account = json.loads((tmp_path / "account" / f"privacy-client-{client}.json").read_text())
        (run,) = account.values()
        assert set(run) == {"head", "1", "2"}
        assert epsilon_of(sum(one["rho"] for one in run.values()), 1e-5) == pytest.approx(20.0)


def test_noise_can_be_repeated_and_is_not_by_itself(tmp_path: Path) -> None:
    def digests(folder: str, **options: Any) -> list[str]:
        results = run_in_process(tmp_path / folder, CONFIG, nodes(tmp_path / folder / "cache", **options))
        return [entry["digest"] for entry in results["rounds"]]

    assert digests("a", **{"noise-seed": 5}) == digests("b", **{"noise-seed": 5})
    assert len({tuple(digests(name)) for name in "cd"}) == 2


def test_a_client_with_a_limit_answers_no_other_method(tmp_path: Path) -> None:
    from common.config.node import parse_node_config
    from deltamask_client.methods import CLIENTS

    node = parse_node_config({"partition-id": 0, "num-partitions": 1, "privacy-limit": 3.0})
    with pytest.raises(ConfigError, match=r"answers runs with method = 'private' only, and the run has .*'deltamask'"):
        CLIENTS["deltamask"](RunConfig(), node, 1)
    CLIENTS["private"](RunConfig(**snake(PRIVATE)), node, 1)


def test_what_would_show_images_is_refused() -> None:
    with pytest.raises(ConfigError) as refusal:
        RunConfig(method="private", head="linear-probe", personal_test=True, augment=1)
    for part in ("validation-fraction = 0", "personal-test = false", "screen-heads = false", "augment = 0", "'mean'"):
        assert part in str(refusal.value)
