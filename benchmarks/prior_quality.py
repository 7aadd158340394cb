"""How good is the prior: precision, recall, density, coverage and Fréchet distance of samples, and a grid to look at.

    python benchmarks/prior_quality.py --grid docs/figures/prior.png
    python benchmarks/prior_quality.py --prior stylegan2,gmi,kedmi+vgg16,kedmi+ir152,kedmi+facenet64 --truncations 1.0

Samples at several truncations (of priors that have a mapping network) are compared with public images that are as many;
a second half of the public images, compared with the first, is the best that can be had. Features are those of the
judge, which knows private people only and is used here as a measure of faces in general.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from mibench.data.datasets.synthfaces import SynthFaces
from mibench.data.split import to_uint8
from mibench.metrics.frechet import frechet_distance
from mibench.metrics.prdc import prdc
from mibench.rng import stream
from mibench.weights import cards, load


@click.command(help=__doc__)
@click.option("--prior", "priors", default="stylegan2", show_default=True, help="One, or several with commas.")
@click.option("--judge", default="facenet112", show_default=True)
@click.option("--count", default=2000, show_default=True, help="Images of each kind.")
@click.option("--truncations", default="0.5,0.7,1.0", show_default=True)
@click.option("--grid", type=click.Path(path_type=Path), help="Write public images above samples as a PNG.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table as Markdown.")
def main(priors: str, judge: str, count: int, truncations: str, grid: Path | None, out: Path | None) -> None:
    device = torch.device("cpu")
    extractor = load.build_classifier_extractor(cards.find("judge", judge, "synthfaces"), device, None)
    public = SynthFaces().public(64, 2 * count).pixels
    features = extractor(public).features.float()
    real, other = features[:count], features[count:]
    rows = [("public images, other half", *compare(real, other))]
    samples = []
    for name in priors.split(","):
        file = cards.find("prior", name, "synthfaces")
        network: Any = load.build_prior(file, file.card().arguments, device)
        latents = network.sample(count, stream(0, "prior_quality"))
        has_mapping = hasattr(network, "mapping")
        for psi in (float(text) for text in truncations.split(",")) if has_mapping else (None,):
            images = render(network, latents, psi)
            label = f"{name}, truncation {psi:g}" if psi is not None else name
            rows.append((label, *compare(real, extractor(images).features.float())))
        samples.append(render(network, latents[: 72 if "," not in priors else 24], 0.7 if has_mapping else None))
    text = markdown(rows, count)
    click.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if grid is not None:
        write_grid(grid, [public[:24], *samples])


@torch.no_grad()
def render(network: Any, latents: Tensor, psi: float | None) -> Tensor:
    """Samples ``(N, 3, H, W)``, uint8; ``psi`` is None for priors without a mapping network."""
    if psi is None:
        return torch.cat([to_uint8(network.decode(z)) for z in latents.split(128)])
    parts = [to_uint8(network.synthesis(network.truncate(network.mapping(z), psi))) for z in latents.split(128)]
    return torch.cat(parts)


def compare(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    """precision, recall, density, coverage (k = 5) and Fréchet distance."""
    values = prdc(real, fake, k=5)
    return values.precision, values.recall, values.density, values.coverage, frechet_distance(real, fake)


def markdown(rows: list[tuple[Any, ...]], count: int) -> str:
    """The table."""
    lines = [
        "| images | precision | recall | density | coverage | Fréchet distance |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, *values in rows:
        lines.append(f"| {name} | " + " | ".join(f"{value:.3g}" for value in values) + " |")
    lines += ["", f"{count} images of each kind, judge features, k = 5."]
    return "\n".join(lines) + "\n"


def write_grid(path: Path, groups: list[Tensor]) -> None:
    """Rows of twelve images, group below group, each pixel four times as large."""
    from torchvision.io import write_png
    from torchvision.utils import make_grid

    picture = torch.cat([make_grid(part, nrow=12, padding=2, pad_value=255) for part in groups], dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture.repeat_interleave(2, 1).repeat_interleave(2, 2), str(path))


if __name__ == "__main__":
    main()
