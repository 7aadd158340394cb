"""From images to features: the published resize, batching, the cache, Inception's weights file."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mibench.api import ClassifierOutput, ImageSpec, MibenchError
from mibench.metrics.extractors import (
    InceptionExtractor,
    JudgeExtractor,
    RegressorExtractor,
    bilinear,
    content_hash,
    hash_weights,
    inception_asset,
    low2high,
    resize,
)

VECTORS = json.loads((Path(__file__).parent / "data" / "test_vectors.json").read_text())["functions"]


def reference_image() -> torch.Tensor:
    """The input of the low2high vector, by the rule in the file."""
    uniform = np.random.RandomState(zlib.crc32(b"input:img64") & 0xFFFFFFFF).random_sample((1, 3, 64, 64))
    return torch.from_numpy(uniform).float()


def test_low2high_reference():
    expected = VECTORS["low2high(uint8 PIL bilinear 64->112)"]
    found = low2high(reference_image(), 112)[0]
    assert list(found.shape) == expected["shape"]
    assert float(found.mean()) == pytest.approx(expected["mean"], abs=1e-5)
    assert float(found.std()) == pytest.approx(expected["std"], abs=1e-5)
    assert float(found.abs().max()) == pytest.approx(expected["absmax"], abs=1e-6)
    assert found.flatten()[:8].tolist() == pytest.approx(expected["first8"], abs=1e-6)
    assert found.flatten()[-4:].tolist() == pytest.approx(expected["last4"], abs=1e-6)


def test_tensor_bilinear_differs_from_low2high_by_the_reference_amount():
    difference = (bilinear(reference_image(), 112) - low2high(reference_image(), 112)).abs().max()
    assert float(difference) == pytest.approx(VECTORS["low2high_tensor_bilinear_max_abs_diff"], abs=1e-5)


def test_low2high_clamps_and_truncates_floats_and_leaves_bytes_alone():
    odd = torch.tensor([-0.5, 1.5, 0.999, 0.5]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert (low2high(odd, 2) * 255).round()[0, 0].flatten().tolist() == [0, 255, 254, 127]
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal((low2high(every, 16) * 255).round().to(torch.uint8), every)


def test_unknown_resize():
    with pytest.raises(MibenchError, match="low2high, bilinear or antialias"):
        resize(reference_image(), 32, "nearest")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3 * 16, 5)
        nn.init.normal_(self.body.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.body.bias)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        features = self.body(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))
        return ClassifierOutput(features, features * 2)


def some_images(count: int = 7) -> torch.Tensor:
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_judge_normalises_and_batches():
    network = Tiny()
    spec = ImageSpec(16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    whole, parts = (JudgeExtractor(network, spec, name="tiny", batch=batch)(some_images()) for batch in (7, 3))
    torch.testing.assert_close(whole, parts)
    floats = low2high(some_images(), 16)
    by_hand = network((floats - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1))
    torch.testing.assert_close(whole.logits, by_hand.logits.detach())
    assert not whole.features.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(MibenchError, match="no image"):
        JudgeExtractor(network, spec, name="tiny")(some_images(0))


def test_a_regressor_gives_vectors():
    spec = ImageSpec(8)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert RegressorExtractor(plain, spec, name="plain")(some_images()).shape == (7, 4)
    pair = RegressorExtractor(Tiny(), ImageSpec(16), name="pair")(some_images())
    torch.testing.assert_close(pair, JudgeExtractor(Tiny(), ImageSpec(16), name="pair")(some_images()).logits)


def test_the_cache_is_keyed_by_content(tmp_path, caplog):
    network = Tiny()
    extractor = JudgeExtractor(network, ImageSpec(16), name="tiny", cache=tmp_path)
    first = extractor.cached(some_images())
    calls = network.calls
    again = JudgeExtractor(network, ImageSpec(16), name="tiny", cache=tmp_path).cached(some_images())
    assert network.calls == calls
    assert torch.equal(first.features, again.features)
    extractor.cached(some_images(6))
    JudgeExtractor(network, ImageSpec(16), name="tiny", resize="bilinear", cache=tmp_path).cached(some_images())
    other = Tiny()
    nn.init.zeros_(other.body.weight)
    JudgeExtractor(other, ImageSpec(16), name="tiny", cache=tmp_path).cached(some_images())
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    assert all(file.suffix == ".safetensors" for file in files)  # no temporary file is left
    for file in files:
        file.write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        repaired = extractor.cached(some_images())
    assert torch.equal(first.logits, repaired.logits)
    assert "computing them again" in caplog.text


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    found = JudgeExtractor(Tiny(), ImageSpec(16), name="tiny", cache=blocked / "sub").cached(some_images())
    assert found.features.shape == (7, 5)
    assert "not cached" in caplog.text


def test_hashes():
    images = some_images()
    assert content_hash(images) == content_hash(images.clone())
    assert content_hash(images) != content_hash(images.flip(0))
    assert content_hash(images) != content_hash(images.view(7, 3, 4, 16))


def test_a_hash_is_of_all_bytes_however_many_are_looked_at_at_once():
    stored = torch.randint(256, (150, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    images = stored.permute(0, 3, 1, 2)  # as a mapped file is handed over
    head = f"a|{tuple(images.shape)}|torch.uint8|".encode()
    assert content_hash(images, "a") == hashlib.sha256(head + images.contiguous().numpy().tobytes()).hexdigest()
    changed = Tiny()
    changed.body.bias.data += 1e-3
    assert hash_weights(Tiny().body) != hash_weights(changed.body)


def test_inception_says_what_is_wrong_with_its_weights(tmp_path, monkeypatch):
    monkeypatch.delenv("MIBENCH_INCEPTION", raising=False)
    with pytest.raises(MibenchError, match="MIBENCH_INCEPTION") as unset:
        InceptionExtractor()
    assert "\n" not in str(unset.value)
    monkeypatch.setenv("MIBENCH_INCEPTION", str(tmp_path / "absent.pth"))
    with pytest.raises(MibenchError, match=r"none at .*absent.pth; `mibench fetch inception`"):
        InceptionExtractor()
    wrong = tmp_path / inception_asset().file
    wrong.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(MibenchError, match="is not pt_inception"):
        InceptionExtractor(wrong)


@pytest.mark.slow
def test_inception_features_equal_those_of_pytorch_fid(tmp_path, monkeypatch):
    """With random weights of the right shape: our path from bytes to features is pytorch-fid's."""
    import torchvision
    from pytorch_fid import inception

    from mibench.metrics.extractors import file_sha256

    class Stop(Exception):
        pass

    made = {}

    def keep(self, state, *arguments, **options):
        made.update(self.state_dict())
        raise Stop

    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(torchvision.models.Inception3, "load_state_dict", keep)
        with pytest.raises(Stop):
            inception.fid_inception_v3()
    file = tmp_path / "random.pth"
    torch.save(made, file)
    extractor = InceptionExtractor(file, sha256=file_sha256(file), batch=2)
    images = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    found = extractor(images)
    assert found.shape == (3, 2048)
    with torch.no_grad():
        expected = extractor._network(images.float() / 255)[0].flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(extractor(images, "ppa-legacy"), found)
    with pytest.raises(MibenchError, match="8-bit"):
        extractor(images.float())
