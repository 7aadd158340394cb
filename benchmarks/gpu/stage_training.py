"""Stage f: targets at published width and a longer prior, trained on ``synthfaces``, measured, brought back.

Each training is begun whole. Where its own progress says that it cannot end in time, it is begun again with as many
epochs or images as fit, and the row says so. Weights come back where there is room; cards always do.
"""

from __future__ import annotations

import sys
import time
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from figures import draw_training
from stage import BREAKDOWNS, Stage, one_line
from torch import Tensor

from mibench.system.paths import home
from mibench.system.progress import Reporter
from mibench.weights import cards, load
from mibench.weights.training import Training, train

ROOM = 15 * 2**20  # bytes of weights.zip
TAG = "full"
SGD = {
    "schedule": "cosine",
    "learning_rate": 0.03,
    "weight_decay": 5e-4,
    "augment": "light",
    "storage": "float16",
    "epochs": 10,
}
PRIOR = {"images": 600_000, "batch_size": 64, "shards": 1, "r1_batch": 32, "r1_gamma": 0.0125}
SHOWN = 16  # faces of the picture


@dataclass(frozen=True)
class Job:
    """A training; ``length`` is the setting that may be cut, down to ``least``."""

    training: Training
    length: str
    least: int
    settings: dict[str, Any]
    dataset: dict[str, Any] = field(default_factory=dict)

    def cut(self, value: int) -> Job:
        """The same training, shorter."""
        return replace(self, settings={**self.settings, self.length: value})

    @property
    def request(self) -> Training:
        """What the referee is asked for."""
        return replace(self.training, settings={"train": self.settings, "dataset": self.dataset})


class TooLongError(Exception):
    """A training that will not end in time."""

    def __init__(self, share: float) -> None:
        super().__init__(f"only {share:.0%} of it fits")
        self.share = share


class Patience(Reporter):
    """Stops a training when its progress says that it cannot end in time."""

    def __init__(self, seconds: float) -> None:
        self._started, self._seconds = time.monotonic(), seconds
        self._first: tuple[float, float] | None = None

    def update(self, done: float, total: float, text: str = "") -> None:
        """Extrapolate from the progress between two looks, once it is long enough to mean something."""
        now = time.monotonic() - self._started
        if self._first is None:
            self._first = (now, done)
            return
        since, made = now - self._first[0], done - self._first[1]
        if made > 0 and since > min(5.0, 0.1 * self._seconds) and now + (total - done) * since / made > self._seconds:
            raise TooLongError((self._seconds - now) * made / since / total)


def jobs(*, tiny: bool) -> list[Job]:
    """The trainings, in the order of their value."""
    world: dict[str, Any] = {}
    if tiny:
        world = {"identities": 10, "train_images": 8, "public_identities": 40, "public_images": 128}
        target = {**SGD, "epochs": 1, "width": 0.125, "batch_size": 64}
        prior = {"images": 64, "batch_size": 16, "shards": 1, "r1_batch": 8, "channel_base": 512, "channel_max": 16}
    else:
        target, prior = {**SGD, "width": 1.0, "batch_size": 64}, dict(PRIOR)
    made = [
        Job(Training(kind="target", architecture=name, tag=TAG, precision="bfloat16"), "epochs", 1, target, world)
        for name in (("vgg16",) if tiny else ("vgg16", "facenet64", "ir152"))
    ]
    longer = Training(kind="prior", architecture="stylegan2", tag="longer", precision="bfloat16")
    return [*made, Job(longer, "images", 64 if tiny else 20_000, prior, world)]


def main() -> None:
    """Train one after another."""
    stage = Stage(__doc__)
    failures = 0
    for job in jobs(tiny=stage.tiny):
        if stage.left() < 5:
            stage.add("trainings", {"name": job.request.name, "reason": "no time was left for it"})
            continue
        try:
            row = trained(stage, job)
        except BREAKDOWNS as error:
            failures += 1
            row = {"name": job.request.name, "reason": one_line(error)}
        stage.add("trainings", row)
        stage.say(f"{row['name']}: {row.get('reason') or row['measured']}")
        draw_training(stage.found["trainings"], faces(stage), stage.picture("training"))
        pack_weights(stage)
    if failures:
        raise SystemExit(f"{failures} trainings failed")


def trained(stage: Stage, job: Job) -> dict[str, Any]:
    """One training that fits the time: whole, or cut once to what fits."""
    started = time.monotonic()
    try:
        path, card = train(job.request, device=str(stage.device), reporter=Patience(stage.left() - 4))
    except TooLongError as error:
        share = error.share * 0.8 * max(stage.left() - 4, 0) / max(stage.left() - 4 + time.monotonic() - started, 1e-9)
        length = int(share * job.settings[job.length])
        length -= length % 64 if job.length == "images" else 0
        if length < job.least:
            return {"name": job.request.name, "reason": f"{job.length} would have to be {length}, too few"}
        stage.say(f"{job.request.name}: {job.length} cut to {length}")
        job = job.cut(length)
        path, card = train(job.request, device=str(stage.device), reporter=Patience(4 * stage.left()))
    measured = {name: value for name, value in (card.measured or {}).items() if isinstance(value, int | float | str)}
    return {
        "name": card.name,
        "command": job.request.command,
        "seconds": round(time.monotonic() - started, 1),
        job.length: job.settings[job.length],
        "weights_bytes": card.weights.bytes,
        "measured": measured,
        "shipped": shipped(job.training),
        "card": path.read_text(encoding="utf-8"),
    }


def shipped(training: Training) -> dict[str, Any]:
    """What was measured of the shipped network of the same kind."""
    card = cards.find(training.kind, training.architecture, training.dataset).card()
    return {name: value for name, value in (card.measured or {}).items() if isinstance(value, int | float | str)}


@torch.no_grad()
def faces(stage: Stage) -> dict[str, Tensor]:
    """The same latents through the shipped prior and the longer one, uint8 ``(N, 3, 64, 64)``."""
    made = {}
    for title, name in (("shipped prior", "stylegan2"), ("longer prior", "stylegan2@synthfaces+longer")):
        try:
            file = cards.find("prior", name, "synthfaces")
        except BREAKDOWNS:
            continue  # not trained yet
        prior: Any = load.build_prior(file, file.card().arguments, stage.device)
        latents = prior.sample(SHOWN, torch.Generator().manual_seed(0)).to(stage.device)
        made[title] = prior.decode(latents).mul(255).round().to(torch.uint8).cpu()
    return made


def pack_weights(stage: Stage) -> None:
    """``weights.zip``: cards, and the weights of those trainings that there is room for, the smallest first."""
    folder = home()
    files = sorted(folder.glob("weights/*.safetensors"), key=lambda path: path.stat().st_size)
    with zipfile.ZipFile(stage.out / "weights.zip", "w") as archive:
        for card in sorted(folder.glob("cards/*.yaml")):
            archive.write(card, f"cards/{card.name}")
        room = ROOM
        for weights in files:
            if (size := weights.stat().st_size) <= room:
                archive.write(weights, f"weights/{weights.name}")
                room -= size


if __name__ == "__main__":
    main()
