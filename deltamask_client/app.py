"""The ClientApp: answers who it is, measures what the head is made of, trains in every round, and tells how good the
model is on images it has held out.

A client keeps no state that a restart would lose. What is expensive - the frozen prefix's activations - is cached on
disk; models are kept in memory for processes that serve more than one message (the simulation's).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from common.config import NodeConfig, RunConfig, parse_node_config, parse_run_config
from common.messages import Hello, pack_evaluation, pack_hello, pack_update, unpack_classes
from common.models import get_head
from deltamask_client.answer import Answer
from deltamask_client.epochs import Fit
from deltamask_client.images import check_source
from deltamask_client.lottery import evaluate_ticket, train_ticket
from deltamask_client.masks import evaluate_masks, train_from_theta
from deltamask_client.run_file import RunFile
from deltamask_client.signs import evaluate_signs, train_from_signs
from deltamask_client.site import load_frozen, load_site
from deltamask_client.store import ThetaStore
from deltamask_client.ticket_store import TicketStore
from deltamask_client.weights import evaluate_weights, train_from_weights

__all__ = ["app"]

app = ClientApp()
_log = logging.getLogger("flwr")
_CLIENT_APP_RAISED = 2  # Flower's error code for an exception of a ClientApp
_STORES: dict[str, type[RunFile]] = {
    "deltamask": ThetaStore,
    "hidenseek": ThetaStore,
    "fedavg": ThetaStore,
    "lotteryfl": TicketStore,
}
_TRAIN: dict[str, Callable[..., Answer]] = {
    "deltamask": train_from_theta,
    "hidenseek": train_from_signs,
    "fedavg": train_from_weights,
    "lotteryfl": train_ticket,
}
_EVALUATE: dict[str, Callable[..., Answer]] = {
    "deltamask": evaluate_masks,
    "hidenseek": evaluate_signs,
    "fedavg": evaluate_weights,
    "lotteryfl": evaluate_ticket,
}


def _reported(
    handler: Callable[[Message, RunConfig, NodeConfig, RunFile], Message],
) -> Callable[[Message, Context], Message]:
    """Parse the configs, and report an exception to the server by its type alone: messages and tracebacks may name
    paths and data.
    """

    @functools.wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            run, node = parse_run_config(context.run_config), parse_node_config(context.node_config)
            if run.threads:
                torch.set_num_threads(run.threads)
            store = _STORES[run.method](node.cache_path, node.partition_id, context.run_id)
            return handler(message, run, node, store)
        except Exception as error:
            _log.exception("this client cannot answer: %s", error)
            return Message(
                Error(_CLIENT_APP_RAISED, f"{type(error).__name__}; see the log of this SuperNode"), reply_to=message
            )

    return handle


@app.query()
@_reported
def hello(message: Message, run: RunConfig, node: NodeConfig, store: RunFile) -> Message:
    """Say who this client is and which frozen model it has; fail if its images are missing or of other classes."""
    check_source(run, node, unpack_classes(message.content))
    backbone = load_frozen(run, node)
    held = store.digest()
    return Message(pack_hello(Hello(node.partition_id, backbone.digest, backbone.masks.d, held)), reply_to=message)


@app.train("head")
@_reported
def head(message: Message, run: RunConfig, node: NodeConfig, store: RunFile) -> Message:
    """Measure the features of the frozen, unmasked backbone, as the run's kind of head asks."""
    start = time.perf_counter()
    site = load_site(run, node, unpack_classes(message.content))
    features = torch.cat(
        [site.backbone.unmasked_features(tokens) for _, tokens in site.activations.batches(run.eval_batch_size)]
    )
    labels = torch.from_numpy(site.labels).to(features.device)
    kind = get_head(run.head, run.head_epochs, run.head_learning_rate)
    statistics = kind.statistics(features, labels, len(site.classes))
    with torch.no_grad():
        # The metrics are those of the head that this client would have alone.
        logits = kind.combine([(statistics, len(labels))], len(site.classes), features.shape[1])(features)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
    answer = Answer(site, Fit(loss, accuracy), statistics, None)
    return Message(pack_update(answer.payload, answer.metrics(time.perf_counter() - start)), reply_to=message)


@app.train()
@_reported
def train(message: Message, run: RunConfig, node: NodeConfig, store: RunFile) -> Message:
    """Train from the global model, and send what came of it in the way of the run's method."""
    start = time.perf_counter()
    answer = _TRAIN[run.method](message.content, run, node, store)
    metrics = answer.metrics(time.perf_counter() - start)
    return Message(pack_update(answer.payload, metrics, answer.holds, answer.head), reply_to=message)


@app.evaluate()
@_reported
def evaluate(message: Message, run: RunConfig, node: NodeConfig, store: RunFile) -> Message:
    """Tell how good the global model is on the images that this client never trains on."""
    start = time.perf_counter()
    answer = _EVALUATE[run.method](message.content, run, node, store)
    return Message(pack_evaluation(answer.metrics(time.perf_counter() - start), answer.holds), reply_to=message)
