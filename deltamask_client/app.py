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
from dataclasses import replace

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from common.config.node import parse_node_config
from common.config.run import parse_run_config
from common.messages import Hello, pack_hello, pack_update, unpack_check, unpack_classes, unpack_round, unpack_run
from common.models.heads import FittedHead
from deltamask_client.answer import Answer
from deltamask_client.images import check_source
from deltamask_client.methods import CLIENTS, ClientMethod
from deltamask_client.site import load_frozen, load_site

__all__ = ["app"]

app = ClientApp()
_log = logging.getLogger("flwr")
_CLIENT_APP_RAISED = 2  # Flower's error code for an exception of a ClientApp


def _reported(
    handler: Callable[[Message, ClientMethod], Message],
) -> Callable[[Message, Context], Message]:
    """Parse the configs, and report an exception to the server by its type alone: messages and tracebacks may name
    paths and data.
    """

    @functools.wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            run, node = parse_run_config(context.run_config), parse_node_config(context.node_config)
            if run.rounds.threads:
                torch.set_num_threads(run.rounds.threads)
            first = unpack_run(message.content)
            run_id = context.run_id if first is None else first
            return handler(message, CLIENTS[run.method.name](run, node, run_id))
        except Exception as error:
            _log.exception("this client cannot answer: %s", error)
            return Message(
                Error(_CLIENT_APP_RAISED, f"{type(error).__name__}; see the log of this SuperNode"), reply_to=message
            )

    return handle


@app.query()
@_reported
def hello(message: Message, client: ClientMethod) -> Message:
    """Say who this client is and which frozen model it has; fail if its images are missing or of other classes."""
    run, node = client.run, client.node
    files = check_source(run, node, unpack_classes(message.content))
    backbone = load_frozen(run, node)
    about = Hello(
        node.partition_id,
        backbone.digest,
        backbone.masks.d,
        client.holds(),
        partitions=None if node.data else node.num_partitions,
        files={} if client.private else files,  # they depend on the images
    )
    return Message(pack_hello(about), reply_to=message)


@app.train("head")
@_reported
def head(message: Message, client: ClientMethod) -> Message:
    """Measure the features of the frozen, unmasked backbone, as the run's kind of head asks."""
    start = time.perf_counter()
    run, kind = client.run, client.run.head_kind
    assert isinstance(kind, FittedHead), f"a head of kind {kind.name} asks nobody"
    site = load_site(run, client.node, unpack_classes(message.content))
    batches = site.activations.batches(run.evaluation.eval_batch_size)
    features = torch.cat([site.backbone.unmasked_features(tokens) for _, tokens in batches])
    return _reply(message, client.measure(kind, site, features), start)


@app.train()
@_reported
def train(message: Message, client: ClientMethod) -> Message:
    """Train from the global model, and send what came of it in the way of the run's method; where it is asked, also how
    good the global model was.
    """
    start = time.perf_counter()
    check = unpack_check(message.content)
    held_out = None if check is None else client.evaluate(message.content, check)
    return _reply(message, replace(client.train(message.content), held_out=held_out), start)


@app.evaluate()
@_reported
def evaluate(message: Message, client: ClientMethod) -> Message:
    """Tell how good the global model is on the images that this client never trains on."""
    start = time.perf_counter()
    server_round, _ = unpack_round(message.content)
    return _reply(message, client.evaluate(message.content, server_round), start)


def _reply(message: Message, answer: Answer, start: float) -> Message:
    metrics = answer.metrics(time.perf_counter() - start)
    return Message(pack_update(answer.parts, metrics, answer.holds), reply_to=message)
