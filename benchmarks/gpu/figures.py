"""The pictures of the stages: small, one each, drawn again after each finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mibench.reports.figures.style import GREY, INK, NORMAL, PALE, SMALL, colours, figure, heading, say, tidy

DOTS_PER_INCH = 110
PRECISIONS = ("float32", "tf32", "bfloat16")
NAMES = {
    "vgg16": "VGG16",
    "ir152": "IR152",
    "facenet64": "FaceNet64",
    "dmmia": "DMMIA",
    "ppa": "PPA",
    "gmi": "GMI",
    "kedmi": "KEDMI",
}


def write(made: Any, path: Path) -> None:
    """Replace the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(made)
    made.savefig(path, dpi=DOTS_PER_INCH)


def draw_main_job(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds of each run, the attack's share of them, and its accuracy with the floor's."""
    rows = [row for row in rows if "reason" not in row]
    made = figure(8.5, 1.5 + 0.42 * max(len(rows), 1))
    seconds, accuracy = made.subplots(1, 2, sharey=True)
    heading(made, "mibench run", "DMMIA with its floor, from the command to the last figure; intervals over people")
    names = [f"{NAMES.get(row['target'], row['target'])}, {row['protocol']}" for row in rows]
    for place, row in enumerate(rows):
        seconds.barh(place, row["seconds"], color=PALE)
        seconds.barh(place, row["attack_seconds"], color=colours(1)[0][0])
        memory = f"{row['seconds']:.1f} s, {row['peak_memory_bytes'] / 1e9:.2f} GB"
        seconds.text(row["seconds"], place, f" {memory}", va="center", fontsize=SMALL, color=INK)
        for (colour, marker), key, above in zip(colours(2), ("acc1", "floor_acc1"), (-0.12, 0.12), strict=True):
            if (metric := row.get(key)) and metric["value"] is not None:
                _interval(accuracy, metric, place + above, colour, marker)
    seconds.set_yticks(range(len(rows)), names, fontsize=SMALL)
    seconds.invert_yaxis()
    seconds.set_xlim(0, 1.6 * max((row["seconds"] for row in rows), default=1))
    seconds.set_xlabel("seconds (dark: the attack itself); peak memory", fontsize=SMALL)
    accuracy.set_xlim(0, 100)
    accuracy.set_xlabel("acc@1, % (circle: DMMIA, square: floor)", fontsize=SMALL)
    for axes in (seconds, accuracy):
        tidy(axes)
    write(made, path)


def _interval(axes: Any, metric: Mapping[str, Any], place: float, colour: str, marker: str) -> None:
    value = 100 * metric["value"]
    if metric.get("low") is not None:
        axes.plot([100 * metric["low"], 100 * metric["high"]], [place, place], color=colour, linewidth=1.5)
    axes.plot([value], [place], marker=marker, color=colour, markersize=5, linestyle="")


def draw_speed(found: Mapping[str, Any], path: Path) -> None:
    """Image-steps per second by batch, and what each way of computing gains."""
    rows = [row for row in found.get("cells", []) if "reason" not in row]
    made = figure(10, 7)
    panels = made.subplots(2, 3)
    heading(
        made,
        "Image-steps per second",
        "One image forwards and backwards through prior and victim, inside the attack's own loop. Above: float32, "
        "eager, shipped width. Below: at the batch with most variants, relative to float32 eager of the same cell",
    )
    for axes, target in zip(panels[0], ("vgg16", "ir152", "facenet64"), strict=True):
        _by_batch(axes, [row for row in rows if row["target"] == target], NAMES[target])
    _relative(panels[1][0], rows, "precision", PRECISIONS[1:], "precision, shipped width", width="shipped")
    _relative(panels[1][1], rows, "precision", PRECISIONS[1:], "precision, published width", width="full")
    _relative(panels[1][2], rows, "mode", ("varying", "graphs", "compiled"), "other ways to run", width="shipped")
    write(made, path)


def _by_batch(axes: Any, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = [r for r in rows if (r["precision"], r["mode"], r["width"]) == ("float32", "eager", "shipped")]
    attacks = ("dmmia", "ppa", "gmi", "kedmi")
    for (colour, marker), attack in zip(colours(4), attacks, strict=True):
        points = sorted((row["images"], row["image_steps_per_second"]) for row in plain if row["attack"] == attack)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=NAMES[attack])
    axes.set_title(title, fontsize=NORMAL, color=INK)
    if not plain:
        axes.set_axis_off()
        say(axes, "not measured")
        return
    tidy(axes)
    axes.set_xlabel("images in a step", fontsize=SMALL)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=SMALL, frameon=False)


def _relative(
    axes: Any, rows: Sequence[Mapping[str, Any]], key: str, variants: Sequence[str], title: str, *, width: str
) -> None:
    """Median over attacks and targets of the rate relative to the plain one of the same cell, with every cell a dot."""
    plain = {_cell(row): row["image_steps_per_second"] for row in rows if _plain(row)}
    drawn = False
    for place, variant in enumerate(variants):
        other = "mode" if key == "precision" else "precision"
        usual = "eager" if other == "mode" else "float32"
        ratios = [
            row["image_steps_per_second"] / plain[_cell(row)]
            for row in rows
            if row[key] == variant and row[other] == usual and row["width"] == width and _cell(row) in plain
        ]
        if ratios:
            drawn = True
            middle = sorted(ratios)[len(ratios) // 2]
            axes.bar(place, middle, color=PALE, width=0.6)
            axes.plot([place] * len(ratios), ratios, "o", color=colours(1)[0][0], markersize=4)
            axes.text(place, middle, f"{middle:.2f}×", ha="center", va="bottom", fontsize=SMALL, color=INK)
    axes.set_title(title, fontsize=NORMAL, color=INK)
    if not drawn:
        axes.set_axis_off()
        say(axes, "not measured")
        return
    tidy(axes)
    axes.set_xticks(range(len(variants)), variants, fontsize=SMALL)
    axes.set_xlim(-0.6, len(variants) - 0.4)
    axes.margins(y=0.12)
    axes.set_ylabel("rate ÷ float32 eager", fontsize=SMALL)
    axes.axhline(1, color=GREY, linewidth=0.8)


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["attack"], row["target"], row["width"], row["batch"])


def _plain(row: Mapping[str, Any]) -> bool:
    return bool(row["precision"] == "float32" and row["mode"] == "eager")


def draw_published_budget(found: Mapping[str, Any], path: Path) -> None:
    """Accuracy of each row by seed, with the floor, and how far the candidates moved."""
    rows = [row for row in found.get("runs", []) if "reason" not in row]
    made = figure(9, 3.6)
    accuracy, drift = made.subplots(1, 2)
    people = found.get("identities", "?")
    heading(
        made,
        "The published budget: 200 candidates, 70 epochs",
        f"VGG16, {people} people, preset paper; 95 % intervals over people; grey: the prior alone",
    )
    names = list(dict.fromkeys(row["name"] for row in rows))
    for place, (name, (colour, marker)) in enumerate(zip(names, colours(len(names)), strict=True)):
        own = [row for row in rows if row["name"] == name]
        for number, row in enumerate(own):
            height = place + 0.22 * (number - (len(own) - 1) / 2)
            if row.get("floor_acc1"):
                _interval(accuracy, row["floor_acc1"], height + 0.1, GREY, "s")
            _interval(accuracy, row["acc1"], height, colour, marker)
            steps = [100 * k / max(len(row["drift"]) - 1, 1) for k in range(len(row["drift"]))]
            drift.plot(steps, row["drift"], color=colour, linewidth=1.2, label=name if number == 0 else None)
    accuracy.set_yticks(range(len(names)), names, fontsize=SMALL)
    accuracy.invert_yaxis()
    accuracy.set_xlim(0, 100)
    accuracy.set_xlabel("acc@1, %", fontsize=SMALL)
    drift.set_xlabel("% of the steps", fontsize=SMALL)
    drift.set_ylabel("drift, std of w", fontsize=SMALL)
    for axes in (accuracy, drift):
        tidy(axes)
        if not rows:
            say(axes, "no run ended")
    if rows:
        drift.legend(fontsize=SMALL, frameon=False)
    write(made, path)


def draw_training(rows: Sequence[Mapping[str, Any]], faces: Mapping[str, Tensor], path: Path) -> None:
    """Test accuracy at published width beside the shipped network's, and the same latents through both priors."""
    targets = [row for row in rows if "test_accuracy" in row.get("measured", {})]
    made = figure(9, 3.6)
    axes, *grids = made.subplots(1, 3, width_ratios=(1.2, 1, 1))
    heading(made, "Trained here", "Left: test accuracy on synthfaces. Right: the same latents through both priors")
    for place, row in enumerate(targets):
        for (colour, marker), key in zip(colours(2), ("measured", "shipped"), strict=True):
            axes.plot([100 * row[key]["test_accuracy"]], [place], marker=marker, color=colour, linestyle="")
    axes.set_yticks(range(len(targets)), [row["name"].partition("@")[0] for row in targets], fontsize=SMALL)
    axes.set_ylim(len(targets) - 0.5, -0.5)
    axes.set_xlabel("test accuracy, % (circle: trained here, square: shipped)", fontsize=SMALL)
    tidy(axes)
    if not targets:
        say(axes, "no target was trained")
    for grid, title in zip(grids, ("shipped prior", "longer prior"), strict=True):
        grid.set_axis_off()
        grid.set_title(title, fontsize=NORMAL, color=INK)
        if title in faces:
            grid.imshow(tiled(faces[title]))
        else:
            say(grid, "not trained")
    write(made, path)


def tiled(images: Tensor, columns: int = 4) -> Any:
    """uint8 ``(N, 3, H, W)`` as one picture ``(rows H, columns W, 3)``."""
    count, _, height, width = images.shape
    rows = count // columns
    grid = images[: rows * columns].view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, 3).numpy()
