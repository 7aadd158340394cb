"""How good is the prior: precision, recall, density, coverage and Fréchet distance of samples, and a grid to look at.

    python benchmarks/prior_quality.py --grid docs/figures/prior.png

Samples at several truncations are compared with public images that are as many; a second half of the public images,
compared with the first, is the best that can be had. Features are those of the judge, which knows private people only
and is used here as a measure of faces in general.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from mibench import assets, cards
from mibench.data.split import to_uint8
from mibench.data.synthfaces import SynthFaces
from mibench.metrics.frechet import frechet_distance
from mibench.metrics.prdc import prdc
from mibench.rng import stream


@click.command(help=__doc__)
@click.option("--prior", default="stylegan2", show_default=True)
@click.option("--judge", default="facenet112", show_default=True)
@click.option("--count", default=2000, show_default=True, help="Images of each kind.")
@click.option("--truncations", default="0.5,0.7,1.0", show_default=True)
@click.option("--grid", type=click.Path(path_type=Path), help="Write public images above samples as a PNG.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table as Markdown.")
def main(prior: str, judge: str, count: int, truncations: str, grid: Path | None, out: Path | None) -> None:
    device = torch.device("cpu")
    file = cards.find("prior", prior, "synthfaces")
    network: Any = assets.build_prior(file, file.card().arguments, device)
    extractor = assets.build_judge(cards.find("judge", judge, "synthfaces"), device, None)
    public = SynthFaces().public(network.image.size, 2 * count).pixels
    features = extractor(public).features.float()
    real, other = features[:count], features[count:]
    rows = [("public images, other half", *compare(real, other))]
    latents = network.sample(count, stream(0, "prior_quality"))
    for psi in (float(text) for text in truncations.split(",")):
        images = render(network, latents, psi)
        rows.append((f"samples, truncation {psi:g}", *compare(real, extractor(images).features.float())))
    text = markdown(rows, count)
    click.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if grid is not None:
        write_grid(grid, public[:24], render(network, latents[:72], 0.7))


def render(network: Any, latents: Tensor, psi: float) -> Tensor:
    """Samples ``(N, 3, H, W)``, uint8."""
    with torch.no_grad():
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


def write_grid(path: Path, public: Tensor, samples: Tensor) -> None:
    """Two rows of public images above six rows of samples, each pixel four times as large."""
    from torchvision.io import write_png
    from torchvision.utils import make_grid

    picture = torch.cat([make_grid(part, nrow=12, padding=2, pad_value=255) for part in (public, samples)], dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture.repeat_interleave(2, 1).repeat_interleave(2, 2), str(path))


if __name__ == "__main__":
    main()
