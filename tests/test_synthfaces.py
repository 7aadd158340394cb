"""The synthetic world: images are pure functions of their keys, people are apart, settings are hashed and checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mibench.api import MibenchError
from mibench.data.datasets.synthfaces import SynthFaces, hashed_uniforms
from mibench.data.datasets.synthfaces_render import IDENTITY, NUISANCE, render

WORLD = SynthFaces(identities=6, train_images=3, test_images=2, public_identities=7, public_images=20)


def test_images_do_not_depend_on_what_is_asked_for_with_them() -> None:
    whole = WORLD.private("train", 32)
    part = WORLD.private("train", 32, [4, 1])
    assert whole.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    assert part.labels.tolist() == [4, 4, 4, 1, 1, 1]
    assert torch.equal(part.pixels, torch.cat([whole.pixels[12:15], whole.pixels[3:6]]))
    assert torch.equal(WORLD.public(32, 5).pixels, WORLD.public(32).pixels[:5])
    # a longer training set begins with the shorter one: the test images follow in the person's own sequence
    longer = replace(WORLD, train_images=5).private("train", 32, [2])
    assert torch.equal(longer.pixels[3:], WORLD.private("test", 32, [2]).pixels)


def test_the_world_is_the_same_every_time_and_another_for_another_seed() -> None:
    again = SynthFaces(identities=6, train_images=3, test_images=2, public_identities=7, public_images=20)
    assert torch.equal(again.private("test", 32).pixels, WORLD.private("test", 32).pixels)
    assert again.digest == WORLD.digest
    other = replace(WORLD, seed=1)
    assert other.digest != WORLD.digest
    assert not torch.equal(other.private("test", 32).pixels, WORLD.private("test", 32).pixels)


@pytest.mark.parametrize(
    "change",
    [{"spread": 0.5}, {"nuisance": 0.5}, {"shift": 0.1}, {"identities": 7}, {"train_images": 4}, {"public_images": 21}],
)
def test_every_setting_is_part_of_the_digest(change: dict[str, float]) -> None:
    assert replace(WORLD, **change).digest != WORLD.digest  # type: ignore[arg-type]


def test_all_sizes_show_the_same_scene() -> None:
    small, large = WORLD.private("train", 64).floats(), WORLD.private("train", 128).floats()
    halved = nn.functional.avg_pool2d(large, 2)
    # sensor noise differs between sizes; the scene does not
    soft = nn.functional.avg_pool2d
    assert float((soft(halved, 4) - soft(small, 4)).abs().mean()) < 0.02


def test_private_public_and_foreign_people_are_different_people() -> None:
    WORLD.check_disjoint()
    private = WORLD.private("train", 16)
    assert frozenset(private.identities) | frozenset(WORLD.private("test", 16).identities) == WORLD.people("private")
    assert frozenset(WORLD.public(16).identities) == WORLD.people("public")
    assert len(WORLD.people("private")) == 6
    assert len(WORLD.people("public")) == 7
    vectors = torch.cat([WORLD.identity_vectors(), WORLD.public_identity_vectors(7), WORLD.foreign_identity_vectors(9)])
    distances = torch.cdist(vectors, vectors) + 9 * torch.eye(len(vectors))
    assert float(distances.min()) > 0.5


def test_the_truth_belongs_to_its_images() -> None:
    vectors = WORLD.public_identity_vectors(20)
    assert vectors.shape == (20, WORLD.identity_dim)
    assert torch.equal(vectors[0], vectors[7])  # the same person again
    labels = [3, 0]
    assert torch.equal(WORLD.identity_vectors(labels), WORLD.identity_vectors()[labels])
    # a face is redrawn from its vector: without nuisances, two takes of one person are one picture
    still = torch.full((2, len(NUISANCE)), 0.5)
    faces = render(vectors[[0, 7]], still, 32, spread=1.0, strength=1.0, shift=0.0)
    assert torch.equal(faces[0], faces[1])


def test_images_of_one_person_are_nearer_than_images_of_two() -> None:
    calm = replace(WORLD, nuisance=0.0, spread=1.0, identities=12, train_images=4)
    images = calm.private("train", 32).floats().flatten(1)
    # backgrounds and clothes stay free at nuisance 0: look at the middle of the face only
    centre = images.view(-1, 3, 32, 32)[:, :, 10:22, 10:22].flatten(1)
    distances = torch.cdist(centre, centre)
    same = torch.arange(48)[:, None] // 4 == torch.arange(48)[None] // 4
    assert float(distances[same].mean()) < 0.3 * float(distances[~same].mean())


@pytest.mark.parametrize("column", [IDENTITY.index(name) for name in IDENTITY], ids=lambda k: IDENTITY[k])
def test_every_identity_coordinate_is_visible(column: int) -> None:
    still = torch.full((1, len(NUISANCE)), 0.5)
    low, high = torch.full((1, len(IDENTITY)), 0.5), torch.full((1, len(IDENTITY)), 0.5)
    low[0, column], high[0, column] = 0.02, 0.98
    if IDENTITY[column] in ("glasses_shape",):  # only on those who wear them
        low[0, IDENTITY.index("glasses")] = high[0, IDENTITY.index("glasses")] = 0.9
    a, b = (render(v, still, 64, spread=1.0, strength=1.0, shift=0.0) for v in (low, high))
    assert float((a - b).abs().amax()) > 0.05


def test_every_nuisance_is_visible() -> None:
    generator = torch.Generator().manual_seed(0)
    identity = torch.rand(1, len(IDENTITY), generator=generator)
    invisible = []
    for column, name in enumerate(NUISANCE):
        low, high = torch.full((1, len(NUISANCE)), 0.5), torch.full((1, len(NUISANCE)), 0.5)
        low[0, column], high[0, column] = 0.1, 0.9
        if name.startswith("occluder_"):
            low[0, NUISANCE.index("occluder")] = high[0, NUISANCE.index("occluder")] = 0.95
        if name == "occluder":
            high[0, column] = 0.95
        if name in ("background_angle", "background_wave", "background_phase"):
            low[0, NUISANCE.index("background_step")] = high[0, NUISANCE.index("background_step")] = 0.95
        if name.startswith("shoulder_"):  # shoulders come into the picture when the face is far away and high up
            for other in ("scale", "shift_y"):
                low[0, NUISANCE.index(other)] = high[0, NUISANCE.index(other)] = 0.0
        a, b = (render(identity, v, 64, spread=1.0, strength=1.0, shift=0.0) for v in (low, high))
        if float((a - b).abs().amax()) < 0.01:
            invisible.append(name)
    assert not invisible


def test_the_public_camera_differs_and_stays_within_range() -> None:
    generator = torch.Generator().manual_seed(0)
    identity = torch.rand(64, len(IDENTITY), generator=generator)
    nuisance = torch.rand(64, len(NUISANCE), generator=generator)
    home, away = (render(identity, nuisance, 32, spread=1.0, strength=1.0, shift=s) for s in (0.0, 1.0))
    assert float(home.min()) >= 0
    assert float(away.max()) <= 1
    assert float(away.mean()) > float(home.mean()) + 0.01


def test_hashed_uniforms_are_uniform_and_independent() -> None:
    values = hashed_uniforms([0, 1, np.arange(4000)], 6).double()
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert float((values.mean(0) - 0.5).abs().max()) < 0.02
    assert float((values.var(0) - 1 / 12).abs().max()) < 0.005
    correlation = torch.corrcoef(torch.cat([values.T, hashed_uniforms([0, 2, np.arange(4000)], 6).double().T]))
    assert float((correlation - torch.eye(12)).abs().max()) < 0.06
    lag = torch.corrcoef(torch.stack([values[:-1, 0], values[1:, 0]]))[0, 1]
    assert abs(float(lag)) < 0.06


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"identities": 1}, "identities"),
        ({"train_images": 0}, "train_images"),
        ({"spread": 1.5}, "spread"),
        ({"nuisance": -0.1}, "nuisance"),
        ({"shift": 2.0}, "shift"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(WORLD, **change)  # type: ignore[arg-type]


def test_classes_and_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(MibenchError, match="classes 0 to 5"):
        WORLD.private("train", 32, [6])
    with pytest.raises(MibenchError, match="20 public images"):
        WORLD.public(32, 21)
    with pytest.raises(MibenchError, match="16 to 256"):
        WORLD.public(8)
