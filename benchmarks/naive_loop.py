"""What an attack's loop costs here against the same loop written naively, as a ratio of seconds.

    python benchmarks/naive_loop.py
    python benchmarks/naive_loop.py --attacks ppa,dmmia --target ir152 --device cuda --identities 50
    python benchmarks/naive_loop.py --frozen      # naive in its loop only

Naive: one identity after another in a Python loop, and networks whose weights still require gradients, so that each
backward pass computes theirs as well. Both are whole attacks (optimise, render, rank) from the same candidates and
streams. They take turns in one process, and their losses and latents are compared first: a ratio of different loops
would mean nothing. On a CPU the seconds are those of the processor, which other work on the machine disturbs least.

KEDMI's discriminator compares the images of a batch, so its naive loop takes the identities together and differs in the
networks alone. A prior without a shipped card is built with random weights: they take as long.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, ImageSpec, MibenchError, Prior, State
from mibench.attacks.augment import apply_crops, draw_crops
from mibench.attacks.dmmia import DMMIA
from mibench.attacks.dmmia.memory import MemoryBank
from mibench.attacks.dmmia.prototypes import draw_prototypes, imr_loss, representation
from mibench.attacks.final_ranking import robust_confidence
from mibench.attacks.gmi import GMI, momentum_step
from mibench.attacks.kedmi import KEDMI
from mibench.attacks.losses import cross_entropy, negative_log_realness, poincare
from mibench.attacks.ppa import PPA
from mibench.attacks.priors.dcgan import networks
from mibench.attacks.priors.dcgan import prior as dcgan
from mibench.attacks.rendering import render_images
from mibench.rng import Streams
from mibench.system.malloc import keep_freed_memory
from mibench.weights import cards, load

NOISE_BLOCK = 64  # steps whose noise KEDMI draws at once
Outcome = tuple[Tensor, Tensor]  # latents (N, ...) and the identity loss (U, steps)


def naive_ppa(attack: PPA, context: Context, state: State, labels: Tensor, streams: Streams) -> Outcome:
    prior: Any = context.prior
    latents, curves = [], []
    for label in labels.tolist():
        best = state["confidence"][:, label].topk(attack.candidates).indices
        w = prior.mapping(state["latents"][best].to(context.device)).detach().requires_grad_()
        wanted = torch.full((attack.candidates,), label, device=context.device)
        adam = torch.optim.Adam([w], lr=attack.learning_rate / attack.truncation, betas=attack.betas)
        curve = []
        for epoch in range(attack.epochs):
            crops = candidate_crops(attack, label, epoch, streams).to(context.device)
            images = apply_crops(context.fit(prior.synthesis(prior.truncate(w, attack.truncation))), crops)
            loss = poincare(context.victim.logits(images), wanted).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            curve.append(loss.item())
        styles = prior.truncate(w.detach(), attack.truncation)
        rank(context, render_images(context, styles, prior.synthesis), label, streams, attack.selection_transforms)
        latents.append(w.detach())
        curves.append(torch.tensor(curve))
    return torch.cat(latents), torch.stack(curves)


def naive_dmmia(attack: DMMIA, context: Context, state: State, labels: Tensor, streams: Streams) -> Outcome:
    prior: Any = context.prior
    latents, curves = [], []
    for label in labels.tolist():
        best = state["confidence"][:, label].topk(attack.candidates).indices
        z = state["latents"][best].to(context.device)
        wanted = torch.full((attack.candidates,), label, device=context.device)
        mapping = copy.deepcopy(prior.generator.mapping).requires_grad_(True)
        adam = torch.optim.Adam(mapping.parameters(), lr=attack.learning_rate, betas=attack.betas)
        with torch.no_grad():
            dim = context.victim.features_and_logits(context.fit(prior.synthesis(mapping(z[:1])))).features.shape[1]
        prototypes = draw_prototypes(attack.prototypes, dim, attack.prototype_std, [label], streams)
        prototypes = prototypes.to(context.device).requires_grad_()
        sgd = torch.optim.SGD(
            [prototypes],
            lr=attack.prototype_rate,
            momentum=attack.prototype_momentum,
            weight_decay=attack.prototype_decay,
        )
        memory = MemoryBank(context.victim.num_classes, dim, momentum=attack.momentum, device=context.device)
        curve = []
        for epoch in range(attack.epochs):
            crops = candidate_crops(attack, label, epoch, streams).to(context.device)
            images = context.fit(prior.synthesis(prior.truncate(mapping(z), attack.truncation)))
            features, logits = context.victim.features_and_logits(apply_crops(images, crops))
            features = representation(features, logits, attack.features)
            identity = cross_entropy(logits, wanted).mean()
            imr = imr_loss(features[None], prototypes, attack.positives, attack.temperature).mean()
            idr = memory.loss(features, wanted, attack.temperature).mean()
            adam.zero_grad()
            sgd.zero_grad()
            (identity + imr + idr).backward()
            adam.step()
            sgd.step()
            memory.update(features.detach(), logits.argmax(dim=1))
            curve.append(identity.item())
        w = mapping(z).detach()
        styles = prior.truncate(w, attack.truncation)
        rank(context, render_images(context, styles, prior.synthesis), label, streams, attack.selection_transforms)
        latents.append(w)
        curves.append(torch.tensor(curve))
    return torch.cat(latents), torch.stack(curves)


def naive_gmi(attack: GMI, context: Context, state: State, labels: Tensor, streams: Streams) -> Outcome:
    prior: Any = context.prior
    latents, curves = [], []
    for label in labels.tolist():
        starts = [
            prior.sample(1, streams.generator("identity", label, "restart", restart))
            for restart in range(attack.restarts)
        ]
        z = torch.cat(starts).to(context.device)
        velocity = torch.zeros_like(z)
        wanted = torch.full((attack.restarts,), label, device=context.device)
        curve = []
        for _ in range(attack.iterations):
            z = z.detach().requires_grad_()
            images = prior.decode(z)
            identity = cross_entropy(context.victim.logits(context.fit(images)), wanted)
            (attack.identity_weight * identity - attack.realism_weight * prior.realism(images)).sum().backward()
            assert z.grad is not None
            z, velocity = momentum_step(
                z.detach(),
                velocity,
                z.grad / attack.batch_scale,
                rate=attack.learning_rate,
                momentum=attack.momentum,
                clip=attack.clip,
            )
            curve.append(identity.mean().item())
        rank(context, render_images(context, z, prior.decode), label, streams, attack.selection_transforms)
        latents.append(z)
        curves.append(torch.tensor(curve))
    return torch.cat(latents), torch.stack(curves)


def naive_kedmi(attack: KEDMI, context: Context, state: State, labels: Tensor, streams: Streams) -> Outcome:
    prior: Any = context.prior
    wanted = labels.to(context.device)
    mu = torch.zeros(len(labels), prior.latent_dim, device=context.device, requires_grad=True)
    logvar = torch.full_like(mu, attack.logvar_start, requires_grad=True)
    adam = torch.optim.Adam([mu, logvar], lr=attack.learning_rate, betas=attack.betas)
    curve = []
    for step in range(attack.iterations):
        if step % NOISE_BLOCK == 0:
            drawn = [
                torch.randn(
                    NOISE_BLOCK, prior.latent_dim, generator=streams.generator("identity", label, "noise", step)
                )
                for label in labels.tolist()
            ]
            noise = torch.stack(drawn, dim=1).to(context.device)
        images = prior.decode(mu + (0.5 * logvar).exp() * noise[step % NOISE_BLOCK])
        identity = cross_entropy(context.victim.logits(context.fit(images)), wanted)
        realness = negative_log_realness(prior.realism(images))
        adam.zero_grad()
        (attack.identity_weight * identity + attack.realism_weight * realness).sum().backward()
        adam.step()
        curve.append(torch.tensor(identity.tolist()))
    latents = []
    for row, label in enumerate(labels.tolist()):
        draws = [
            torch.randn(prior.latent_dim, generator=streams.generator("identity", label, "draw", draw))
            for draw in range(attack.draws)
        ]
        z = mu[row].detach() + (0.5 * logvar[row]).exp().detach() * torch.stack(draws).to(context.device)
        rank(context, render_images(context, z, prior.decode), label, streams, attack.selection_transforms)
        latents.append(z)
    return torch.cat(latents), torch.stack(curve, dim=1)


def candidate_crops(attack: PPA | DMMIA, label: int, epoch: int, streams: Streams) -> Tensor:
    generator = streams.generator("identity", label, "crops", epoch)
    return draw_crops(attack.candidates, generator, scale=attack.crop_scale)


def rank(context: Context, images: Tensor, label: int, streams: Streams, transforms: int) -> None:
    robust_confidence(context, images[None], torch.tensor([label]), streams, transforms=transforms)


def configurations(steps: int, batch: int) -> dict[str, tuple[Any, str, Callable[..., Outcome]]]:
    """Name -> settings, the curve of the identity loss, the naive loop. A step of each shows ``batch`` images of each
    identity (KEDMI: one), so that all candidates are one batch and their order is nothing to compare."""
    search: dict[str, Any] = {"pool_size": 4 * batch, "candidates": batch, "batch_size": batch, "truncation": 1.0}
    common: dict[str, Any] = {"epochs": steps, "selection_transforms": 1}
    dmmia: dict[str, Any] = {"temperature": 0.1, "learning_rate": 0.04, "memory_scope": "identity"}
    return {
        "ppa": (PPA(learning_rate=0.02, **search, **common), "loss", naive_ppa),
        "dmmia": (DMMIA(**dmmia, **search, **common), "L_ce", naive_dmmia),
        "gmi": (GMI(iterations=steps, restarts=batch), "L_id", naive_gmi),
        "kedmi": (KEDMI(iterations=steps * batch, draws=batch), "L_id", naive_kedmi),
    }


@click.command(help=__doc__)
@click.option("--attacks", default="ppa,dmmia,gmi,kedmi", show_default=True)
@click.option("--target", default="vgg16", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--identities", default=4, show_default=True, help="Identities of the unit.")
@click.option("--batch-size", default=8, show_default=True, help="Images of each identity in a step.")
@click.option("--steps", default=3, show_default=True, help="Steps of each image.")
@click.option("--repetitions", default=3, show_default=True)
@click.option("--frozen", is_flag=True, help="Freeze the naive loop's networks: what remains is one by one.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    attacks: str,
    target: str,
    device: str,
    identities: int,
    batch_size: int,
    steps: int,
    repetitions: int,
    frozen: bool,
    out: Path | None,
) -> None:
    keep_freed_memory()  # as runs do
    known = configurations(steps, batch_size)
    rows = []
    for name in attacks.split(","):
        if name not in known:
            raise click.BadParameter(f"no naive loop of {name!r}; there are {', '.join(known)}")
        context, origin = build_context(known[name][0], target, torch.device(device), identities * batch_size)
        figures = measure(*known[name], context, torch.arange(identities), repetitions, frozen=frozen)
        rows.append({"attack": name, "prior": origin, "target": target} | figures)
        click.echo(json.dumps(rows[-1], indent=2))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def build_context(attack: Attack, target: str, device: torch.device, micro_batch: int) -> tuple[Context, str]:
    """Victim and prior, and where the prior's weights come from."""
    victim = load.build_victim(cards.find("target", target, "synthfaces"), Access.GRADIENTS, device)
    prior, origin = build_prior(attack.prior or "stylegan2", target, victim.num_classes, device)
    return Context(victim=victim, prior=prior, device=device, micro_batch=micro_batch), origin


def build_prior(kind: str, target: str, classes: int, device: torch.device) -> tuple[Prior, str]:
    try:
        file = cards.find("prior", f"kedmi@synthfaces+{target}" if kind == "kedmi" else kind, "synthfaces")
    except MibenchError:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            generator = networks.Generator(width=0.5)
            critic: Any = networks.Critic(width=0.5)
            if kind == "kedmi":
                critic = networks.MinibatchDiscriminator(num_classes=classes, width=0.5)
        shape: dict[str, Any] = {"z_dim": 100, "image": ImageSpec(64), "name": f"{kind}, random weights"}
        maker: Any = dcgan.KEDMIPrior if kind == "kedmi" else dcgan.GMIPrior
        made: Prior = maker(generator, critic, **shape).to(device)
        return made, "random weights"
    return load.build_prior(file, file.card().arguments, device), file.card().name


def unfrozen(context: Context, frozen: bool) -> Context:
    """Copies of the networks whose weights require gradients."""
    victim, prior = copy.deepcopy(context.victim), copy.deepcopy(context.prior)
    source: Any = prior
    for network in (victim._network, source.generator, source.discriminator):
        if network is not None:
            network.requires_grad_(not frozen)
    return replace(context, victim=victim, prior=prior)


def measure(
    attack: Attack,
    curve: str,
    naive: Callable[..., Outcome],
    context: Context,
    labels: Tensor,
    repetitions: int,
    *,
    frozen: bool,
) -> dict[str, Any]:
    """Seconds of both loops and their ratio; the two take turns, and so does who goes first."""
    streams = Streams(0, ("benchmark",))
    state = attack.prepare(context, streams)
    copied = unfrozen(context, frozen)
    outcomes: dict[str, Outcome] = {}
    seconds: dict[str, list[float]] = {"here": [], "naive": []}

    def here() -> Outcome:
        result = attack.reconstruct(context, state, labels, streams)
        return result.latents, result.curves[curve]

    loops = {"here": here, "naive": lambda: naive(attack, copied, state, labels, streams)}
    for repetition in range(repetitions):
        for name in list(loops) if repetition % 2 else list(reversed(loops)):
            started = now(context.device)
            outcomes[name] = loops[name]()
            seconds[name].append(now(context.device) - started)
    ratios = [slow / fast for slow, fast in zip(seconds["naive"], seconds["here"], strict=True)]
    return {
        "device": torch.cuda.get_device_name(context.device) if context.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "naive_networks": "frozen" if frozen else "unfrozen",
        "images_backwards": planned.backward if (planned := attack.planned_queries(len(labels))) else None,
        "seconds_here": round(statistics.median(seconds["here"]), 3),
        "seconds_naive": round(statistics.median(seconds["naive"]), 3),
        "naive_over_here": round(statistics.median(ratios), 2),
        "lowest_and_highest_ratio": [round(min(ratios), 2), round(max(ratios), 2)],
        **agreement(outcomes["here"], outcomes["naive"]),
    }


def agreement(here: Outcome, naive: Outcome, tolerance: float = 0.02) -> dict[str, float]:
    """How far the two loops are apart: rounding, which optimisers without a scale amplify, and no more.

    Raises:
        MibenchError: they are not the same loop.
    """
    (latents, curve), (other_latents, other_curve) = (
        tuple(t.detach().float().cpu() for t in pair) for pair in (here, naive)
    )
    latent_gap = float((latents - other_latents).abs().mean() / latents.std())
    loss_gap = float(((curve - other_curve).abs() / curve.abs().clamp(min=1e-3)).max())
    if not max(latent_gap, loss_gap) < tolerance:
        raise MibenchError(
            f"the loops differ: latents by {latent_gap:.2g} std, losses by {loss_gap:.2g}; mend the naive one"
        )
    return {"latent_gap_in_std": latent_gap, "relative_loss_gap": loss_gap}


def now(device: torch.device) -> float:
    """Seconds: of the processor (CPU), or of the wall once the device has finished (CUDA)."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
