"""``deltamask doctor``: is this machine ready, and if not, what is to be done."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamask_server.tools.cli.output import fail, make_console

if TYPE_CHECKING:
    from rich.console import Console

    from deltamask_server.tools.doctor import Finding, Setting

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings of an installed service, /etc/deltamask/supernode.env or superlink.env; other options "
            "go before them.",
            show_default=False,
        ),
    ] = None,
    superlink: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The SuperLink's Fleet API.", show_default=False)
    ] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The CA's certificate.", show_default=False)
    ] = None,
    auth_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="This node's private key.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="The SuperLink speaks no TLS.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="This node's images, or another `data` of the node config.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N, as in the node config.", show_default=False)
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the server has written with --write-facts.", show_default=False),
    ] = None,
    free_disk_gb: Annotated[
        float | None,
        typer.Option(min=0, help="How much must be free for caches, and for Flower; default: 1.", show_default=False),
    ] = None,
    write_facts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Check nothing; write this server's versions, time and CA, to be copied to the devices with the CA.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: Python, libraries, device, memory, disk, clock, images, network, TLS, keys, versions.

    Exit status 1 if something failed; warnings are none.
    """
    from common.errors import ConfigError
    from deltamask_server.tools.doctor import Setting, Status, examine
    from deltamask_server.tools.doctor.setting import parse_address, read_settings

    try:
        setting = read_settings(config) if config else Setting()
        if superlink:
            setting.superlink = parse_address(superlink)
    except ConfigError as error:
        fail(str(error), 2)
    setting.insecure = insecure or setting.insecure
    setting.root_certificates = root_certificates or setting.root_certificates
    setting.auth_key = auth_key or setting.auth_key
    setting.facts = facts or setting.facts
    setting.device = device or setting.device
    if free_disk_gb is not None:
        setting.free_disk_gb = free_disk_gb
    if data is not None:
        setting.data = f"folder:{data}" if data.startswith(("/", ".", "~")) or Path(data).is_dir() else data
    if setting.superlink and not setting.insecure and not setting.root_certificates:
        fail("--root-certificates FILE is needed to check TLS (or --insecure, where there is none)", 2)
    now = datetime.now().astimezone()
    if write_facts:
        _write_facts(write_facts, setting, now)
        return
    console = make_console()
    findings = []
    for finding in examine(setting, now):
        findings.append(finding)
        if not as_json:
            _show(console, finding)
    bad = [each for each in findings if each.status == Status.failed]
    if as_json:
        typer.echo(json.dumps({"ok": not bad, "findings": [vars(each) for each in findings]}, indent=1))
    else:
        warnings = sum(each.status == Status.warning for each in findings)
        console.print(f"\n{len(findings)} checks, {len(bad)} failed, {warnings} to think about")
    raise typer.Exit(1 if bad else 0)


def _show(console: Console, finding: Finding) -> None:
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    line.add_column(width=7)
    line.add_column(width=12)
    line.add_column(ratio=1)
    line.add_row(Text(finding.status, _STYLES[finding.status]), finding.check, Text(finding.found))
    if finding.advice:
        line.add_row("", "", Text(f"-> {finding.advice}", "italic"))
    console.print(line)


def _write_facts(path: Path, setting: Setting, now: datetime) -> None:
    from common.errors import DeltaMaskError
    from deltamask_server.tools.doctor.facts import make_facts

    if not setting.root_certificates and not setting.insecure:
        fail("--write-facts: name the CA too (--root-certificates FILE, or --config FILE), or --insecure", 2)
    try:
        facts = make_facts(now, setting.root_certificates)
        path.write_text(json.dumps(facts, indent=1) + "\n")
    except (OSError, ValueError, DeltaMaskError) as error:
        fail(f"--write-facts {path}: {error}", 1)
    typer.echo(f"{path}: deltamask {facts['deltamask']}, flwr {facts['flwr']}, {facts['written']}")
