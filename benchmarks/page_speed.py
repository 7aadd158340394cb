"""How fast a page of many runs is: built by ``mibench report``, then loaded, sorted, filtered and scrolled in Chromium.

The runs are synthetic: random images of 64 x 64 pixels, which do not compress, and random verdicts.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # the makers of runs, and the driver of Chromium

from browser import Browser, Tab
from comparable_runs import make

ATTACKS = ("ppa", "dmmia", "gmi", "kedmi")
FRAME = "const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"

SORT = """
  const buttons = document.querySelectorAll("#people-table thead button");
  window.next = (window.next ?? 0) + 1;
  buttons[window.next % buttons.length].click();
"""
FILTER = """
  const field = document.querySelector("#people .filters input");
  field.value = field.value ? "" : "7";
  field.dispatchEvent(new Event("input"));
"""
SCROLL = "scrollBy({ top: innerHeight, behavior: 'instant' });"


def write_runs(folder: Path, runs: int, people: int) -> None:
    """That many runs of four attacks on as many targets as it takes."""
    for number, (target, attack) in enumerate(itertools.product(range(-(-runs // len(ATTACKS))), ATTACKS)):
        if number < runs:
            make(folder / f"run-{number}", attack, 0.2 * (number % 5), target=f"net{target}", people=people, side=64)


def used(tab: Tab, action: str, repetitions: int) -> str:
    """Time from an action to the frame after it, several times: on the clock, and of the page's own thread."""
    clock, thread = [], []
    for _ in range(repetitions):
        before = busy(tab)
        clock.append(
            float(
                tab.run(
                    f"{FRAME} const start = performance.now(); {action} await frame(); "
                    "return performance.now() - start;"
                )
            )
        )
        thread.append(1000 * (busy(tab) - before))
    return f"{shown(clock)}; of its thread {shown(thread)}"


def busy(tab: Tab) -> float:
    """Seconds of a processor that the thread of the page has had."""
    return next(
        each["value"] for each in tab.call("Performance.getMetrics")["metrics"] if each["name"] == "TaskDuration"
    )


def shown(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms"


@click.command()
@click.option("--runs", default=20, show_default=True)
@click.option("--people", default=50, show_default=True)
@click.option("--repetitions", default=10, show_default=True)
def main(runs: int, people: int, repetitions: int) -> None:
    """Make runs, build their page and use it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder / "runs", runs, people)
        page = folder / "page.html"
        started, before = time.perf_counter(), sum(time_of_children())
        subprocess.run(["mibench", "report", str(folder / "runs"), "--output", str(page)], check=True)
        click.echo(f"built in {time.perf_counter() - started:.1f} s, {sum(time_of_children()) - before:.1f} s of a CPU")
        click.echo(f"{page.stat().st_size / 1e6:.1f} MB")
        with Browser(folder / "profile") as browser, browser.page(page) as tab:
            rows = tab.run("return document.querySelectorAll('tbody tr').length;")
            loaded = tab.run("return performance.getEntriesByType('navigation')[0].loadEventEnd;")
            click.echo(f"loaded in {loaded:.0f} ms: {rows} rows of tables")
            tab.call("Performance.enable", timeDomain="threadTicks")
            click.echo(f"sorted: {used(tab, SORT, 2 * repetitions)}")
            click.echo(f"filtered: {used(tab, FILTER, repetitions)}")
            click.echo(f"scrolled by a window: {used(tab, SCROLL, 3 * repetitions)}")


def time_of_children() -> tuple[float, float]:
    """Seconds of CPU of processes that have ended: user, system."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime, usage.ru_stime


if __name__ == "__main__":
    main()
