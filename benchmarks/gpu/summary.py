"""``summary.md``: what a person should read first, made from ``results.json`` alone. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_summary(out: Path) -> None:
    """Make ``summary.md`` beside ``results.json``; nothing where there are no results."""
    try:
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    (out / "summary.md").write_text("\n".join(lines_of(results)) + "\n", encoding="utf-8")


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """The whole page."""
    found = {row["name"]: row.get("found") or {} for row in results["stages"]}
    environment = found.get("environment", {})
    gpu = environment.get("gpu", {}).get("name") or environment.get("machine", {}).get("cpu") or results["device"]
    lines = [f"# {gpu}, {results['started'][:10]}", ""]
    if results["tiny"]:
        lines += ["**A rehearsal in the smallest sizes: these numbers mean nothing.**", ""]
    versions = environment.get("versions", {})
    lines += [
        f"Commit {results['commit'] or 'unknown'} (sources {results['sources']}), Python {results['python']}, torch "
        f"{versions.get('torch', '?')}, CUDA {versions.get('cuda') or 'none'}. `{' '.join(results['command'])}`",
        "",
    ]
    lines += table(
        ("stage", "status", "seconds", "of", ""),
        (
            (row["name"], row["status"], row.get("seconds"), row.get("allotted_seconds"), row.get("reason", ""))
            for row in results["stages"]
        ),
    )
    for name, section in SECTIONS.items():
        if found.get(name):
            lines += ["", *section(found[name])]
    return lines


def environment_section(found: Mapping[str, Any]) -> list[str]:
    """Rates of the machine."""
    rows = [(row["precision"], row.get("tflops"), row.get("reason", "")) for row in found.get("matmul", [])]
    lines = ["## The machine", "", *table(("matrix product", "TFLOP/s", ""), rows), ""]
    if "bandwidth" in found:
        lines.append(f"Memory: {found['bandwidth']['device_gb_per_second']:.0f} GB/s (read plus written).")
    if "seconds_per_small_operation" in found:
        lines.append(f"A small operation: {1e6 * found['seconds_per_small_operation']:.1f} µs.")
    return lines


def tests_section(found: Mapping[str, Any]) -> list[str]:
    """Counts and failures."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in found.get("counts", {}).items()) or "none ended"
    lines = ["## Tests marked gpu", "", counts + "."]
    for row in found.get("tests", []):
        if row["outcome"] == "failed":
            last = row.get("reason", "").strip().splitlines()[-1:] or [""]
            lines.append(f"- **{row['test']}**: {last[0]}")
    return lines


def main_job_section(found: Mapping[str, Any]) -> list[str]:
    """Runs."""
    rows = [
        (
            row["target"],
            row["protocol"],
            row.get("seconds"),
            row.get("attack_seconds"),
            gigabytes(row.get("peak_memory_bytes")),
            percent(row.get("acc1")),
            percent(row.get("floor_acc1")),
            row.get("reason", ""),
        )
        for row in found.get("runs", [])
    ]
    return ["## mibench run", "", *table(("target", "protocol", "s", "attack s", "GB", "acc@1 %", "floor %", ""), rows)]


def speed_section(found: Mapping[str, Any]) -> list[str]:
    """Cells and naive loops."""
    rows = [
        (
            row["attack"],
            row["target"],
            row["width"],
            row["precision"],
            row["mode"],
            row["batch"],
            row.get("image_steps_per_second"),
            None if "reason" in row else 100 * row["share_of_matmul_rate"],
            gigabytes(row.get("peak_memory_bytes")),
            row.get("reason", "") if "apart_from_eager" not in row else f"apart {row['apart_from_eager']:.1g}",
        )
        for row in found.get("cells", [])
    ]
    heads = ("attack", "target", "width", "precision", "mode", "batch", "image-steps/s", "% of matmul", "GB", "")
    lines = ["## Speed", "", *table(heads, rows), ""]
    naive = [
        (row["attack"], "frozen" if row["frozen"] else "as written", row.get("naive_over_here"), row.get("reason", ""))
        for row in found.get("naive", [])
    ]
    lines += table(("naive loop of", "networks", "naive ÷ here", ""), naive)
    if found.get("not_reached"):
        lines += ["", f"{len(found['not_reached'])} cells were not reached; results.json names them."]
    return lines


def published_section(found: Mapping[str, Any]) -> list[str]:
    """Rows of the published budget."""
    rows = [
        (
            row["name"],
            row["seed"],
            row["identities"],
            percent(row.get("acc1")),
            percent(row.get("floor_acc1")),
            row["drift"][-1] if row.get("drift") else None,
            row.get("seconds"),
            row.get("reason", ""),
        )
        for row in found.get("runs", [])
    ]
    heads = ("attack", "seed", "people", "acc@1 %", "floor %", "drift", "s", "")
    return ["## The published budget", "", *table(heads, rows)]


def training_section(found: Mapping[str, Any]) -> list[str]:
    """Trainings."""
    rows = []
    for row in found.get("trainings", []):
        measured, before = row.get("measured", {}), row.get("shipped", {})
        keys = [key for key in ("test_accuracy", "recall", "precision", "images") if key in measured]
        text = ", ".join(f"{key} {number(measured[key])} (shipped {number(before.get(key))})" for key in keys)
        rows.append((row["name"], row.get("seconds"), row.get("reason") or text))
    return ["## Trainings", "", *table(("network", "s", "measured"), rows)]


SECTIONS = {
    "environment": environment_section,
    "tests": tests_section,
    "main_job": main_job_section,
    "speed": speed_section,
    "published_budget": published_section,
    "training": training_section,
}


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(number(value).replace("|", "\\|") for value in row) + " |" for row in rows]
    return lines


def number(value: Any) -> str:
    """A cell: three or four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def percent(metric: Mapping[str, Any] | None) -> str:
    """``76.1 [66.7, 84.9]``."""
    if not metric or metric.get("value") is None:
        return ""
    text = f"{100 * metric['value']:.1f}"
    if metric.get("low") is not None:
        text += f" [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"
    return text


def gigabytes(count: int | None) -> str:
    """Bytes as GB."""
    return "" if not count else f"{count / 1e9:.2f}"
