"""Importing StyleGAN2: every published configuration, what files say and what shapes show, relatives refused."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from stylegan_standin import dumped, generator_settings, snapshot
from torch import Tensor

from mibench.api import MibenchError, MisfitError, TrainedWeights, WeightsContents
from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.importing import import_stylegan2
from mibench.attacks.priors.stylegan2.layers import resampling_filter
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Arguments, StyleGAN2Prior
from mibench.cli import cli
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.weights.cards import find
from mibench.weights.importing.reader import read_weights

DATA = Path(__file__).parent / "data"
SHAPE: dict[str, Any] = {"resolution": 16, "channel_base": 128, "channel_max": 12}

PUBLISHED = [  # resolution, channel_base, mapping layers, parameters, keys (the release's table of sizes)
    (64, 16384, 8, 23_819_544, 106),
    (64, 16384, 2, 22_243_608, 94),
    (64, 32768, 8, 27_032_600, 106),
    (256, 16384, 8, 24_767_458, 144),
    (256, 16384, 2, None, 132),
    (512, 32768, 8, None, 163),
    (1024, 32768, 8, 30_370_060, 182),
    (1024, 32768, 2, None, 170),
]


def on_paper(network: Any, prefix: str = "") -> dict[str, Tensor]:
    """Keys and shapes without memory; the filters are real."""
    taps = resampling_filter()
    return {
        f"{prefix}{key}": taps if key.endswith("resample_filter") else tensor
        for key, tensor in network.state_dict().items()
    }


def contents(tensors: Any, file: str = "network.pkl", **extras: Any) -> WeightsContents:
    return WeightsContents(file=file, sha256="0" * 64, container="test", tensors=tensors, extras=extras)


def taken(tensors: Any, *, file: str = "network.pkl", settings: Any = None, **extras: Any) -> TrainedWeights:
    return import_stylegan2("stylegan2", [contents(tensors, file, **extras)], settings or {})


@pytest.mark.parametrize("clamp", [256, None])
@pytest.mark.parametrize("says", [True, False], ids=["as the file says", "as the shapes show"])
@pytest.mark.parametrize(("resolution", "base", "layers", "parameters", "keys"), PUBLISHED)
def test_every_published_configuration_is_rebuilt(
    resolution: int, base: int, layers: int, parameters: int | None, keys: int, says: bool, clamp: float | None
) -> None:
    with torch.device("meta"):
        generator = Generator(resolution=resolution, channel_base=base, mapping_layers=layers)
        critic = Discriminator(resolution=resolution, channel_base=base)
    assert len(generator.state_dict()) == keys
    assert parameters in (None, sum(parameter.numel() for parameter in generator.parameters()))
    said = generator_settings(generator)
    said["synthesis_kwargs"] |= {"channel_base": base, "channel_max": 512, "conv_clamp": clamp}
    extras = {"generator": said, "discriminator": {"conv_clamp": clamp}} if says else {"generator_conv_clamp": clamp}
    found = taken(on_paper(generator, "G.") | on_paper(critic, "D."), **extras)
    rebuilt = StyleGAN2Arguments(**found.arguments)
    with torch.device("meta"):
        again, again_critic = rebuilt.generator(), rebuilt.discriminator()
    for one, other in ((again, generator), (again_critic, critic)):
        assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    assert (rebuilt.resolution, rebuilt.mapping_layers, rebuilt.conv_clamp) == (resolution, layers, clamp)
    assert rebuilt.channel_base == base or not says
    assert found.image.size == resolution


@pytest.mark.parametrize("name", ["64_cb16384_map8", "1024_cb32768_map8"])
def test_released_key_lists_load(name: str) -> None:
    listed = json.loads((DATA / f"state_dict_StyleGAN2_G_{name}.json").read_text())["keys"]
    tensors = {
        key: resampling_filter() if key.endswith("resample_filter") else torch.empty(shape, device="meta")
        for key, shape in listed.items()
    }
    found = taken(tensors)
    assert list(found.weights) == [f"G.{key}" for key in listed]
    assert found.arguments["resolution"] == int(name.partition("_")[0])
    assert found.arguments["conv_clamp"] == 256
    assert "conv_clamp: 256" in str(found.notes)


@pytest.fixture
def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator(z_dim=8, w_dim=6, mapping_layers=3, conv_clamp=256.0, **SHAPE)
    generator.mapping.w_avg.normal_()
    return generator, Discriminator(conv_clamp=256.0, **SHAPE)


@pytest.fixture
def tensors(networks: Any) -> dict[str, Tensor]:
    return {
        f"{part}.{key}": tensor
        for part, network in zip("GD", networks, strict=True)
        for key, tensor in network.state_dict().items()
    }


def test_a_converted_file_is_the_generator_alone(networks: Any) -> None:
    found = taken(
        networks[0].state_dict(), config={"z_dim": 8, "mapping_layers": 3, "resolution": 16, "conv_clamp": None}
    )
    assert found.arguments["conv_clamp"] is None
    assert "no discriminator" in str(found.notes)
    prior = StyleGAN2Prior.build(found.arguments, found.weights, found.image, name="stylegan2@ffhq")
    z = torch.randn(2, 8)
    networks[0].synthesis.freeze()
    expected = networks[0](z, psi=0.7).mul(0.5).add(0.5).clamp(0, 1)
    torch.testing.assert_close(prior.decode(z), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [{"z_dim": 8, "conv_clamp": None}, None], ids=["with config", "state_dict alone"])
def test_a_converted_file_comes_in_from_the_disk(networks: Any, tmp_path: Path, config: Any) -> None:
    """The container of the files that another suite publishes: ``state_dict``, perhaps ``config``."""
    path = tmp_path / "ffhq.pt"
    torch.save({"state_dict": networks[0].state_dict(), **({"config": config} if config else {})}, path)
    found = import_stylegan2("stylegan2", [read_weights(path)], {})
    assert found.arguments["conv_clamp"] == (None if config else 256)
    assert (found.arguments["mapping_layers"], found.arguments["crop"]) == (3, 12)
    prior = StyleGAN2Prior.build(found.arguments, found.weights, found.image, name="stylegan2@ffhq")
    for key, tensor in networks[0].state_dict().items():
        assert torch.equal(prior.generator.state_dict()[key], tensor), key


def test_the_discriminator_may_differ_or_stay_behind(networks: Any) -> None:
    torch.manual_seed(1)
    other = Discriminator(resolution=16, channel_base=256, channel_max=16, group=8)
    both = on_paper(networks[0], "G.") | on_paper(other, "D.")
    said = {"epilogue_kwargs": {"mbstd_group_size": 8}, "conv_clamp": 256}
    found = taken(both, discriminator=said, generator_conv_clamp=256)
    assert {key: found.arguments[f"discriminator_{key}"] for key in ("base", "max", "group")} == {
        "base": 256,
        "max": 16,
        "group": 8,
    }
    prior = StyleGAN2Prior.build(found.arguments, found.weights, found.image, name="toy")
    assert prior.realism(torch.rand(2, 3, 16, 16)).shape == (2,)
    alone = taken(both, settings={"discriminator": False})
    assert {key[:2] for key in alone.weights} == {"G."}
    for odd in ({"conv_clamp": None}, {"epilogue_kwargs": {"mbstd_group_size": 3}}, {"img_resolution": 32}):
        with pytest.raises(MibenchError, match=r"import\.discriminator=false"):
            taken(both, discriminator={**said, **odd}, generator_conv_clamp=256)


def test_keyword_arguments_beside_one_another(tensors: Any) -> None:
    """The later release gives the synthesis network's arguments to the generator itself."""
    said = {"z_dim": 8, "w_dim": 6, "c_dim": 0, "channel_base": 128, "channel_max": 12, "mapping_kwargs": {}}
    assert taken(tensors, generator=said, generator_conv_clamp=256).arguments["channel_base"] == 128


@pytest.mark.parametrize(
    ("file", "training_set", "settings", "crop"),
    [
        ("ffhq.pkl", "", {}, 12),
        ("metfaces.pt", "", {}, 12),
        ("stylegan2-ffhq-1024x1024.pkl", "", {}, 12),
        ("network-snapshot-025000.pkl", "ffhq-16.zip", {}, 12),
        ("afhqdog.pkl", "", {}, None),
        ("network-snapshot-025000.pkl", "celeba.zip", {}, None),
        ("ffhq.pkl", "", {"crop": None}, None),
        ("afhqdog.pkl", "", {"crop": 10}, 10),
    ],
)
def test_faces_are_cropped_as_in_the_literature(
    file: str, training_set: str, settings: Any, crop: int | None, tensors: Any
) -> None:
    found = taken(tensors, file=file, settings=settings, training_set=training_set)
    assert found.arguments["crop"] == crop
    assert (f"middle {crop} of 16 pixels" if crop else "whole image") in str(found.notes)


def test_a_thousand_pixels_are_cropped_to_800() -> None:
    with torch.device("meta"):
        generator = Generator(resolution=1024, channel_base=32768)
    assert taken(on_paper(generator), file="ffhq.pkl").arguments["crop"] == 800


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"c_dim": 10}, "conditional"),
        ({"img_channels": 1}, "img_channels=1"),
        ({"mapping_kwargs": {"lr_multiplier": 0.1}}, "lr_multiplier=0.1"),
        ({"mapping_kwargs": {"activation": "relu"}}, "activation='relu'"),
        ({"synthesis_kwargs": {"block_kwargs": {"architecture": "resnet"}}}, "architecture='resnet'"),
        ({"synthesis_kwargs": {"resample_filter": [1, 2, 1]}}, "resample_filter"),
        ({"synthesis_kwargs": {"conv_clamp": -1}}, "conv_clamp must be"),
        ({"synthesis_kwargs": {"channel_base": 2**40}}, "channel_base must be"),
        ({"synthesis_kwargs": {"channel_max": "12"}}, "channel_max must be"),
        ({"mapping_kwargs": {"num_layers": 10**9}}, "mapping_layers must be"),
        ({"img_resolution": 2**30}, "resolution must be"),
        ({"img_resolution": 48}, "no power of two"),
        ({"z_dim": True}, "z_dim must be"),
    ],
)
def test_a_file_that_says_what_cannot_be_built_is_refused(extras: Any, message: str, tensors: Any) -> None:
    with pytest.raises(MibenchError, match=message) as refusal:
        taken(tensors, generator=extras)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"mapping_kwargs": {"num_layers": 8}}, "another number of mapping layers"),
        ({"synthesis_kwargs": {"channel_max": 10}}, "other widths"),
        ({"img_resolution": 64}, "lacks a part"),
    ],
)
def test_weights_that_do_not_fit_name_keys_and_the_likely_cause(extras: Any, message: str, networks: Any) -> None:
    with pytest.raises(MisfitError, match=message) as refusal:
        taken(networks[0].state_dict(), generator=extras)
    assert refusal.value.misfit
    assert "\n" not in str(refusal.value)


def test_every_missing_key_is_known(networks: Any) -> None:
    left = {k: v for k, v in networks[0].state_dict().items() if not k.endswith(("noise_const", "noise_strength"))}
    with pytest.raises(MisfitError, match="a generator without noise") as refusal:
        taken(left)
    assert len(refusal.value.misfit.missing) == 10  # five convolutions


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["synthesis.input.weight", "synthesis.L0_36_512.weight", "mapping.fc0.weight"], "StyleGAN3"),
        (["style.1.weight", "convs.0.conv.weight"], "another code base"),
        (["mapping.embed.weight", "mapping.fc0.weight", "synthesis.b4.const"], "conditional"),
        (["l1.0.weight"], "no generator of StyleGAN2"),
        (["D.b4.fc.weight"], "no generator of StyleGAN2"),
        ([], "no generator of StyleGAN2"),
    ],
)
def test_relatives_are_refused_by_name(keys: list[str], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        taken({key: torch.zeros(2, 2) for key in keys})


def test_another_filter_is_refused(networks: Any) -> None:
    weights = networks[0].state_dict()
    weights["synthesis.b8.conv0.resample_filter"] = torch.rand(4, 4)
    with pytest.raises(MibenchError, match=r"b8\.conv0\.resample_filter is not the filter"):
        taken(weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corp": 5}, r"unknown setting 'import\.corp'"),
        ({"crop": 17}, "crop must be"),
        ({"crop": "half"}, "crop must be"),
        ({"conv_clamp": "x"}, "conv_clamp must be"),
        ({"discriminator": 1}, "true or false"),
    ],
)
def test_settings_are_checked(settings: Any, message: str, tensors: Any) -> None:
    with pytest.raises(MibenchError, match=message):
        taken(tensors, settings=settings)


def test_one_file_at_a_time(tensors: Any) -> None:
    file = contents(tensors)
    with pytest.raises(MibenchError, match="one file, got 2"):
        import_stylegan2("stylegan2", [file, replace(file, file="other.pkl")], {})


# -- from the command line -------------------------------------------------------------------------------------------


def test_a_pickle_becomes_a_prior_that_a_run_takes(networks: Any, home: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(dumped(snapshot(*networks, marker=str(marker))))
    shown = CliRunner().invoke(cli, ["import", str(path), "--as", "prior:stylegan2@ffhq", "--licence", "see publisher"])
    assert shown.exit_code == 0, shown.output
    card = find("prior", "stylegan2@ffhq", "synthfaces").card()
    assert (card.arguments["crop"], card.arguments["conv_clamp"], card.image.size) == (12, 256.0, 16)
    assert card.licence == "see publisher"
    assert card.recipe["container"] == "stylegan2-ada"
    plan = make_plan(RunRequest(attack="floor", prior="stylegan2@ffhq"))
    assert plan.spec.prior is not None
    assert plan.spec.prior.arguments["crop"] == 12
    assert not marker.exists()


@pytest.mark.slow
def test_an_imported_prior_of_another_size_attacks_celeba(home: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"resolution": 128, "channel_base": 512, "channel_max": 8}
    generator = Generator(z_dim=8, w_dim=8, mapping_layers=2, conv_clamp=256.0, **shape)
    path, tree = tmp_path / "ffhq.pkl", tmp_path / "celeba"
    path.write_bytes(dumped(snapshot(generator, old=True)))

    def call(*words: object) -> str:
        done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    call("data", "fixture", "celeba", "--output", tree, "--people", 5, "--images", 10)
    celeba = ["--dataset", "celeba", "--set", f"dataset.root={tree}", "--set", "dataset.lists=given", "--device", "cpu"]
    for network in (("target", "ir152"), ("judge", "facenet112")):
        call("train", *network, *celeba, "--set", "train.width=0.0625", "--set", "train.epochs=1")
    call("import", path, "--as", "prior:stylegan2@ffhq")
    run = ["run", "--attack", "ppa", "--target", "ir152", "--prior", "stylegan2@ffhq", "--protocol", "celeba-smoke"]
    run += ["--min-accuracy", 0]  # one epoch of a narrow network may end anywhere
    found = json.loads(call(*run, *celeba, "--output", tmp_path / "runs", "--json"))
    record = json.loads((Path(found["path"]) / "run.json").read_text())
    assert record["spec"]["prior"]["arguments"]["crop"] == 100
    assert found["metrics"]["acc1"]["value"] is not None


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_an_evil_pickle_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    path, marker = tmp_path / "ffhq.pkl", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"torch_utils.persistence": Evil(marker)}))
    shown = CliRunner().invoke(cli, ["import", str(path), "--as", "prior:stylegan2@ffhq"])
    assert shown.exit_code == 2
    assert "posix.system" in shown.output
    assert not marker.exists()
    assert not home.exists() or not [file for file in home.rglob("*") if file.is_file()]
