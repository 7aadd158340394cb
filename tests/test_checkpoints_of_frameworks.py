"""Checkpoints as training frameworks wrap them: understood, or named with a choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import gan, save, state
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from mibench.api import WeightsContents
from mibench.errors import MibenchError
from mibench.targets.custom.loading import check_numbers, fill
from mibench.weights import cards
from mibench.weights.importing.checkpoint_card import Import
from mibench.weights.importing.importer import Imported, import_weights
from mibench.weights.importing.reader import read_weights
from mibench.weights.load import load_weights

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "head.bias": torch.ones(2)}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 3))


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


# Where the weights are


@pytest.mark.parametrize(
    ("content", "container", "others"),
    [
        ({"net": WEIGHTS, "acc": 93.1, "epoch": 7}, "net", ()),
        ({"net": WEIGHTS, "acc": torch.tensor(93.1)}, "net", ()),
        ({"my_network": WEIGHTS, "epoch": 7, "rng": torch.zeros(9, dtype=torch.uint8)}, "my_network", ()),
        ({"models": {"student": WEIGHTS}, "epoch": 1}, "models.student", ()),
        ({"models": [WEIGHTS]}, "models.0", ()),
        ({"state_dict": {"net": WEIGHTS}}, "state_dict.net", ()),
        ({"model": WEIGHTS, "model_ema": WEIGHTS, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, "model",
         ("model_ema",)),
        ({"net": WEIGHTS, "ema": WEIGHTS}, "net", ("ema",)),
        ({**WEIGHTS, "statistics": {"mean": torch.zeros(3)}}, "bare", ("statistics",)),
        ({"hyper_parameters": {"lr": 1}, "state_dict": WEIGHTS, "lr_schedulers": [], "optimizer_states": [
            {"state": {0: {"exp_avg": torch.ones(3)}}}]}, "state_dict", ()),
    ],
    ids=["net", "number", "any name", "deeper", "list", "twice", "average", "net and average", "bare", "lightning"],
)  # fmt: skip
def test_the_container_of_the_weights_is_recognised(
    tmp_path: Path, content: Any, container: str, others: tuple[str, ...]
) -> None:
    found = read_weights(saved(tmp_path / "a.pth", content))
    assert (found.container, found.others) == (container, others)
    assert found.tensors.keys() == WEIGHTS.keys()


def test_several_sets_are_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    other = {key: value + 1 for key, value in WEIGHTS.items()}
    path = saved(tmp_path / "both.pth", {"generator": WEIGHTS, "parts": {"critic": prefixed("module.", other)}})
    with pytest.raises(MibenchError, match=r"several sets of weights \(generator, parts.critic\).*both.pth::generator"):
        read_weights(path)
    chosen = read_weights(Path(f"{path}::parts.critic"))
    assert (chosen.file, chosen.container, chosen.stripped) == ("both.pth", "parts.critic", ("module.",))
    assert torch.equal(chosen.tensors["head.bias"], other["head.bias"])
    with pytest.raises(MibenchError, match=r"holds no weights named nothing \(it has: generator, parts.critic\)"):
        read_weights(Path(f"{path}::nothing"))
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    with pytest.raises(MibenchError, match="one set of weights; leave out ::x"):
        read_weights(tmp_path / "a.safetensors::x")


def test_a_file_whose_name_has_two_colons_is_itself(tmp_path: Path) -> None:
    assert read_weights(saved(tmp_path / "a::b", WEIGHTS)).file == "a::b"


def test_the_counter_of_an_average_is_no_weight(tmp_path: Path) -> None:
    average = AveragedModel(net())
    found = read_weights(saved(tmp_path / "a.pth", average.state_dict()))
    assert found.stripped == ("module.",)
    assert found.extras == {"n_averaged": 0}
    assert found.tensors.keys() == net().state_dict().keys()
    assert fill(AveragedModel(net()), found) == []


# mibench import


def bring(wanted: str, path: Path) -> Imported:
    return import_weights(Import(files=[path], wanted=wanted), device="cpu")


@pytest.mark.parametrize("prefix", ["net.", "_module.", "module.backbone.net.", "_forward_module.module."])
@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_any_wrapper_is_taken_off_for_an_import(home: Path, tmp_path: Path, prefix: str, name: str) -> None:
    from mibench import registry

    torch.manual_seed(0)
    width = {"width": 0.0625}
    weights = state("vgg16") if name == "vgg16" else registry.load("target", name)(4, **width).state_dict()
    done = bring(f"target:{name}@celeba", saved(tmp_path / "a.pth", {"state_dict": prefixed(prefix, weights)}))
    assert done.card.recipe["stripped"] == prefix
    found = load_weights(cards.all_cards()[done.card.name])
    assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_other_weights_in_the_file_are_listed(home: Path, tmp_path: Path) -> None:
    weights = state("vgg16")
    done = bring("target:vgg16@celeba", saved(tmp_path / "a.pth", {"state_dict": weights, "state_dict_ema": weights}))
    assert any("a.pth::state_dict_ema names another" in text for text in done.remarks)


def test_a_wrapper_around_another_network_changes_no_message(home: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"odd.one.w": torch.zeros(2), "odd.one.v": torch.zeros(2)})
    with pytest.raises(MibenchError, match=r"unexpected \(odd.one.v, odd.one.w\)"):
        bring("target:vgg16@celeba", path)


def test_a_known_network_with_weight_norm_is_named(home: Path, tmp_path: Path) -> None:
    weights = state("vgg16")
    whole = weights.pop("feature.40.weight")
    weights |= {"feature.40.weight_g": whole, "feature.40.weight_v": whole}
    with pytest.raises(MibenchError, match="weight_norm on; take it off"):
        bring("target:vgg16@celeba", save(tmp_path / "a.tar", weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.double() * 1e300, r"holds .*e\+299|holds .*e\+300|holds .*e\+298, and float32"),
        (lambda t: t.double() * float("inf"), "is not finite"),
        (lambda t: (t * 100).to(torch.int8), "holds int8 where the network has real numbers"),
        (lambda t: t.bool(), "holds bool where the network has real numbers"),
    ],
    ids=["beyond float32", "infinite", "quantised", "bool"],
)
def test_numbers_are_looked_at_as_they_are_used(home: Path, tmp_path: Path, change: Any, message: str) -> None:
    weights = {**state("vgg16")}
    weights["fc_layer.weight"] = change(weights["fc_layer.weight"].sign() + 0.5)
    with pytest.raises(MibenchError, match=message):
        bring("target:vgg16@celeba", save(tmp_path / "a.tar", weights))
    assert not home.exists()


def test_counters_saved_as_real_numbers_are_counters(home: Path, tmp_path: Path) -> None:
    weights = {key: value.float() for key, value in state("vgg16").items()}
    bring("target:vgg16@celeba", save(tmp_path / "a.tar", weights))
    weights["bn.num_batches_tracked"] += 0.5
    with pytest.raises(MibenchError, match=r"bn.num_batches_tracked is a count and holds fractions"):
        bring("target:vgg16@celeba+b", save(tmp_path / "b.tar", weights))


def test_the_prior_has_real_numbers_too(home: Path, tmp_path: Path) -> None:
    generator, critic = (dict(part) for part in gan("gmi"))
    critic["ls.0.weight"] = critic["ls.0.weight"].to(torch.int8)
    paths = [save(tmp_path / f"{n}.tar", part) for n, part in enumerate((generator, critic))]
    with pytest.raises(MibenchError, match=r"D.ls.0.weight holds int8: quantised weights"):
        import_weights(Import(files=paths, wanted="prior:gmi@celeba"), device="cpu")


# An own model


def contents(tensors: dict[str, Tensor], **more: Any) -> WeightsContents:
    return WeightsContents(file="w.pth", sha256="0" * 64, container="bare", tensors=tensors, **more)


def differs(network: nn.Module, weights: dict[str, Tensor]) -> float:
    return max(float((network.state_dict()[key] - value).abs().max()) for key, value in weights.items())


def other() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 3))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()


def test_wrappers_on_either_side_are_matched() -> None:
    weights = other().state_dict()
    for prefix in ("net.", "_module.", "a.b.c."):
        plain = net()
        assert "its names begin otherwise" in fill(plain, contents(prefixed(prefix, weights)))[0]
        assert differs(plain, weights) == 0
    wrapped = Wrapped()
    fill(wrapped, contents(weights))
    assert differs(wrapped.net, weights) == 0
    fill(wrapped, contents(prefixed("backbone.", weights)))
    assert fill(wrapped, contents(prefixed("net.", weights))) == []


def test_data_parallel_from_a_factory_is_the_network_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workplace import enter

    from mibench.targets.custom.factory import build

    code = "from torch import nn\ndef build(): return nn.DataParallel(nn.Linear(2, 3))\n"
    (tmp_path / "parallel_net.py").write_text(code)
    enter(tmp_path, monkeypatch)
    assert type(build("parallel_net:build", {})) is nn.Linear


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm")
@pytest.mark.parametrize("new", [False, True], ids=["old", "new"])
@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_is_joined(new: bool, dim: int) -> None:
    trained = other()
    for layer in (trained[0], trained[2]):
        (parametrizations.weight_norm if new else weight_norm)(layer, dim=dim)
        with torch.no_grad():
            lengths = layer.parametrizations.weight.original0 if new else layer.weight_g
            lengths.mul_(1.7)
    split = {key: value.clone() for key, value in trained.state_dict().items()}
    plain = net()
    assert "weight_norm" in fill(plain, contents(split))[0]
    for layer in (trained[0], trained[2]):
        if new:
            parametrize.remove_parametrizations(layer, "weight")
        else:
            remove_weight_norm(layer)
    assert differs(plain, trained.state_dict()) < 1e-6


def generator() -> nn.Sequential:
    """Also a layer whose norm is taken over its second axis, square, so that either axis fits."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.ConvTranspose2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(50, 3)
    )


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.spectral_norm")
@pytest.mark.parametrize("new", [False, True], ids=["old", "new"])
@pytest.mark.parametrize("prefix", ["", "module.net."])
def test_spectral_norm_is_divided_out_as_torch_does(new: bool, prefix: str) -> None:
    trained = generator()
    for layer in (trained[0], trained[1], trained[4]):
        (parametrizations.spectral_norm if new else spectral_norm)(layer)
    images = torch.randn(6, 4, 5, 5)
    for _ in range(20):  # the estimate of the norm is that of training, not the exact one
        trained(images)
    trained.eval()
    plain = nn.Sequential(*generator().eval())
    assert "spectral_norm" in fill(plain, contents(prefixed(prefix, trained.state_dict())))[0]
    for layer, other in zip(trained, plain, strict=True):
        if hasattr(layer, "weight"):
            layer(torch.zeros(1, 50) if isinstance(layer, nn.Linear) else torch.zeros(1, 4, 5, 5))  # old: sets weight
            torch.testing.assert_close(layer.weight, other.weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(trained(images), plain(images), rtol=1e-4, atol=1e-5)


def test_pruning_is_multiplied_in_bit_for_bit() -> None:
    trained = generator()
    prune.l1_unstructured(trained[1], "weight", amount=0.4)
    prune.random_structured(trained[4], "weight", amount=1, dim=0)
    prune.l1_unstructured(trained[4], "bias", amount=1)
    plain = generator()
    assert "pruning" in fill(plain, contents(trained.state_dict()))[0]
    images = torch.randn(6, 4, 5, 5)
    assert torch.equal(trained(images), plain(images))
    assert int((plain[1].weight == 0).sum()) == 6


def test_incomplete_norms_and_masks_are_not_applied() -> None:
    weights = net().state_dict()
    whole = weights.pop("2.weight")
    for more in (
        {"2.weight_orig": whole, "2.weight_u": torch.ones(3)},  # of torch 0.4, which kept one vector
        {"2.weight_orig": whole, "2.weight_u": torch.ones(5), "2.weight_v": torch.ones(7)},
        {"2.weight_orig": whole, "2.weight_mask": torch.ones(3)},
    ):
        with pytest.raises(MibenchError, match="spectral_norm or pruning on"):
            fill(net(), contents({**weights, **more}))


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm")
def test_a_factory_that_puts_weight_norm_on_takes_it_as_it_is() -> None:
    trained, fresh = other(), net()
    weight_norm(trained[2])
    weight_norm(fresh[2])
    assert fill(fresh, contents(trained.state_dict())) == []
    assert differs(fresh, trained.state_dict()) == 0


def test_misfits_are_told_by_evidence() -> None:
    weights = net().state_dict()
    for given, message in (
        ({"x": torch.zeros(1), "y": torch.zeros(1)}, "no name agrees: is it the network"),
        ({**weights, "2.weight": torch.zeros(4, 4)}, r"1 of another shape \(2.weight.*trained with other arguments"),
        ({**weights, "3.bias": torch.zeros(4)}, "another version of the network"),
        ({**{k: v for k, v in weights.items() if k != "2.weight"}, "2.weight_orig": weights["2.weight"]},
         "spectral_norm or pruning"),
        ({**weights, "2.weight": weights["2.weight"].to(torch.int8)}, "2.weight holds int8"),
    ):  # fmt: skip
        with pytest.raises(MibenchError, match=message):
            fill(net(), contents(given))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_an_own_model_is_finite_as_it_runs(value: float) -> None:
    network = net().double()
    weights = {**network.state_dict(), "2.bias": torch.full((3,), value, dtype=torch.float64)}
    fill(network, contents(weights))
    with pytest.raises(MibenchError, match=r"w.pth: 2.bias is not finite in float32"):
        check_numbers(network, "w.pth")
