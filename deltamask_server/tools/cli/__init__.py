"""The command ``deltamask``: one file a command.

Files of commands import typer and the standard library only, and the rest when they run: `--help` must not wait for
Numba or torch.
"""

from __future__ import annotations

import typer

from deltamask_server.tools.cli import codec, doctor, export, inspect, model, predict, report, status, watch

__all__ = ["app", "main"]

app = typer.Typer(
    help="Tools around DeltaMask: federated fine-tuning with probabilistic masks. Runs are started by `flwr run`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(codec.app, name="codec")
app.command("inspect")(inspect.inspect)
app.command("model")(model.model)
app.command("watch")(watch.watch)
app.command("status")(status.status)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("export")(export.export)
app.command("predict")(predict.predict)


def main() -> None:
    """Run the command line. Exit status: 0, 1 if a file is not what it should be, 2 if the command makes no sense."""
    app(prog_name="deltamask")
