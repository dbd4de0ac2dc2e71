"""What a person reads of a run: one line a round, and a summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.data.inventory import PASSED_OVER
from common.methods import METHODS
from common.models.heads import HEADS

__all__ = [
    "columns",
    "failed_replies",
    "head_name",
    "header",
    "outcome",
    "resume_line",
    "round_cells",
    "round_line",
    "summary",
]


def columns(personal: bool = False) -> tuple[str, ...]:
    """What a round is shown by; with the mean accuracy of the clients' own models in runs that test them."""
    own = ("personal",) if personal else ()
    return ("round", "mean", "sample", "thresh", "balanced", *own, "up bpp", "down bpp", "clients", "loss", "seconds")


def header(personal: bool = False) -> str:
    """Column heads of `round_line`."""
    return _line(columns(personal))


def head_name(results: dict[str, Any]) -> str:
    """What a run's head is called; runs from before there was a choice had a linear probe."""
    kind = str(results["config"].get("head", "linear-probe"))
    return HEADS[kind].title if kind in HEADS else kind


def round_cells(entry: dict[str, Any], personal: bool = False) -> list[str]:
    """One round, a cell for each of `columns`."""
    accuracy, clients = entry["accuracy"] or {}, entry["clients"]
    seconds = sum(value for phase, value in entry["seconds"].items() if phase != "aggregate")  # it lies within "train"
    return [
        str(entry["round"]),
        *(f"{accuracy[form]:.4f}" if form in accuracy else "-" for form in ("mean", "sample", "threshold")),
        f"{entry['classes']['balanced_accuracy']:.4f}" if entry.get("classes") else "-",
        *([f"{entry['personal']['mean']:.4f}" if entry["personal"] else "-"] if personal else []),
        f"{entry['uplink']['bpp']:.4f}",
        f"{entry['downlink']['bpp']:.3f}",
        f"{clients['ok']}/{clients['asked']}",
        f"{entry['train']['loss']:.3f}" if entry["train"] else "-",
        f"{seconds:.1f}",
    ]


def failed_replies(clients: dict[str, Any]) -> str:
    """Dropped and missing replies by reason, empty when there are none."""
    return ", ".join(f"{count} {reason}" for reason, count in clients["failed"].items())


def round_line(entry: dict[str, Any], personal: bool = False) -> str:
    """One round as a line under `header`."""
    line, clients = _line(round_cells(entry, personal)), entry["clients"]
    failed = f"  failed: {failed_replies(clients)}" if clients["failed"] else ""
    limited = [f"client {client} ({one['reason']})" for client, one in clients.get("limited", {}).items()]
    return line + failed + (f"  not in full: {', '.join(limited)}" if limited else "")


def summary(results: dict[str, Any], folder: Path) -> str:
    """Outcome, accuracy before and after, bits both ways, and where the files are."""
    rounds, probe = results["rounds"], results.get("linear_probe")
    evaluated = [entry for entry in rounds if entry["accuracy"]]
    lines = [f"Outcome     {outcome(results)}"]
    if evaluated and probe:
        last, before = _kept_entry(results, evaluated), probe["accuracy"]
        after = last["accuracy"]["mean"]
        fewer = (
            f", {100 * (after - before) / (1 - before):.0f} % fewer errors" if before < 1 and after >= before else ""
        )
        masked = results["model"]["masked_parameters"]
        lines += [
            f"Accuracy    {head_name(results)} {before:.4f} -> {_forms(results, last['accuracy'], fewer)}",
            f"Uplink      {_mean(rounds, 'uplink'):.4f} bits per parameter and client, mean of {len(rounds)} rounds "
            f"({masked:,} masked parameters; float32 is 32)",
            *_kept_lines(results, _mean(rounds, "uplink")),
            f"            {_total(rounds, 'uplink'):,} bytes in all, "
            f"and {sum(probe['uplink']['payload_bytes'].values()):,} for the head",
            f"Downlink    {_mean(rounds, 'downlink'):.3f} bits per parameter and client, "
            f"{_total(rounds, 'downlink') + _head_down(probe):,} bytes in all",
        ]
        lines += _class_lines(results)
        lines += _clients_lines(results)
        failed = sum(sum(entry["clients"]["failed"].values()) for entry in rounds)
        if failed:
            lines.append(
                f"Failed      {failed} replies were missing or dropped; reasons by round and client in results.json"
            )
    line = resume_line(folder)
    if line and results["status"] != "completed":
        lines.append(line)
    files = ("report.html", "results.json", "rounds.jsonl", "payload.bin", "model.safetensors")
    there = [name for name in files if (folder / name).is_file()]
    lines.append(f"Files       {folder}/  ({', '.join(there)})")
    return "\n".join(lines)


def resume_line(folder: Path) -> str:
    """How to go on with a run that ended early; empty if there is no checkpoint."""
    if not any((folder / "checkpoints").glob("round-*")):
        return ""
    return f"Resume      flwr run . CONNECTION --stream --run-config {folder / 'resume.toml'}"


def outcome(results: dict[str, Any]) -> str:
    """How the run ended, and which model it has kept: never a worse one than it began with, where that was checked."""
    if "reason" in results:
        return f"{results['status']}: {results['reason']}"
    kept = results.get("kept")
    if kept is None:
        return str(results["status"])
    if kept["held_out_accuracy"] is None:
        return (
            f"{results['status']}, model of the last round kept; whether it is better than the head was not checked, "
            "since no client holds out images (validation-fraction)"
        )
    best, head, last = (kept[name] for name in ("held_out_accuracy", "held_out_head", "held_out_last"))
    if head is None:
        return f"{results['status']}, model of round {kept['round']} kept: {_percent(best)} on images held out"
    if kept["round"] == 0:
        return (
            f"{results['status']}, but training did not improve on the head ({_percent(head)} -> {_percent(last)} on "
            "images held out): kept the head; see docs/how-to/read-the-results.md"
        )
    return (
        f"{results['status']}, model of round {kept['round']} kept: {_percent(head)} -> {_percent(best)} on images "
        "held out"
    )


def _kept_entry(results: dict[str, Any], evaluated: list[dict[str, Any]]) -> dict[str, Any]:
    """The round whose model is kept; the last one that was evaluated, where that is not known."""
    kept = (results.get("kept") or {}).get("round")
    if kept == 0:
        accuracy = results["linear_probe"]["accuracy"]
        return {"accuracy": dict.fromkeys(evaluated[-1]["accuracy"], accuracy)}
    return next((entry for entry in evaluated if entry["round"] == kept), evaluated[-1])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _class_lines(results: dict[str, Any]) -> list[str]:
    """How well classes are told apart by the model that is kept."""
    figures = (results.get("kept") or {}).get("classes")
    if not figures:
        return []
    names = results["data"]["classes"]
    recall = [(value, str(name)) for value, name in zip(figures["recall"], names, strict=False) if value is not None]
    worst = ", ".join(f"{name} {value:.2f}" for value, name in sorted(recall)[:3])
    return [
        f"Classes     balanced accuracy {figures['balanced_accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}; "
        f"lowest recall: {worst}"
    ]


def _kept_lines(results: dict[str, Any], bpp: float) -> list[str]:
    """Under HideNseek, the same bits by the weights that pruning has kept."""
    kept, masked = results["model"].get("kept_parameters"), results["model"]["masked_parameters"]
    return [] if kept is None else [f"            {bpp * masked / kept:.4f} bits for each of {kept:,} weights kept"]


def _forms(results: dict[str, Any], accuracy: dict[str, float], fewer: str) -> str:
    """The form of the model to use, what that gains, and the others."""
    first, *others = METHODS[results["config"]["method"]].forms.items()
    text = f"{first[1]} {accuracy[first[0]]:.4f}{fewer}"
    named = [f"{_short(name)} {accuracy[form]:.4f}" for form, name in others if form in accuracy]
    return f"{text} ({', '.join(named)})" if named else text


def _short(name: str) -> str:
    return name.partition(" ")[0]


def _clients_lines(results: dict[str, Any]) -> list[str]:
    """What there is to say of the clients' own images."""
    lines = []
    validated = [entry["validation"] for entry in results["rounds"] if (entry.get("validation") or {}).get("clients")]
    if validated and validated[-1]["mean"] is not None:
        lines.append(_figures("Clients     accuracy on their held-out images", validated[-1]))
    tested = [entry["personal"] for entry in results["rounds"] if entry.get("personal")]
    if tested:
        lines.append(_figures("Personal    accuracy of their own models on test images", tested[-1]))
    broken: dict[str, int] = {}
    for entry in (results.get("linear_probe", {}), *results["rounds"]):
        broken |= entry.get("broken_images", {})
    if broken:
        lines.append(
            f"Data        {sum(broken.values()):,} images of {len(broken)} clients could not be read and were left "
            "out; their logs name them"
        )
    return lines + _files_lines(results.get("sites", {}))


def _files_lines(sites: dict[str, dict[str, int]]) -> list[str]:
    """What became of the files of clients with folders of their own, if some are not used or used twice."""
    total: Counter[str] = Counter()
    for files in sites.values():
        total.update(files)
    left = [f"{total[reason]:,} {reason}" for reason in PASSED_OVER if total[reason]]
    twice = [f"{total[name]:,} {name}" for name in ("used twice", "used in two classes") if total[name]]
    if not left and not twice:
        return []
    said = f"{total['used']:,} files of {len(sites)} clients are images; passed over: {', '.join(left) or 'nothing'}"
    return [f"Data        {'; '.join([said, *twice])}; their logs have examples"]


def _figures(what: str, entry: dict[str, Any]) -> str:
    count = sum(client["examples"] > 0 for client in entry["clients"].values())
    return (
        f"{what}: mean {entry['mean']:.4f}, worst decile {entry['worst_decile']:.4f}, "
        f"standard deviation {entry['std']:.4f} ({count} clients)"
    )


def _line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>8}" for cell in cells)


def _mean(rounds: list[dict[str, Any]], direction: str) -> float:
    return float(sum(entry[direction]["bpp"] for entry in rounds) / len(rounds))


def _head_down(probe: dict[str, Any]) -> int:
    """Bytes of the first model, where clients were asked about the head alone."""
    return sum((probe.get("downlink") or {"payload_bytes": {}})["payload_bytes"].values())


def _total(rounds: list[dict[str, Any]], direction: str) -> int:
    return sum(sum(entry[direction]["payload_bytes"].values()) for entry in rounds)
