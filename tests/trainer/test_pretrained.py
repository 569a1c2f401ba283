"""Pretrained weights from other software: which names fit, and which files are refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from canthus.runtime.errors import ModelError
from canthus.trainer.networks.checkpoint import Checkpoint, save
from canthus.trainer.networks.network import build
from canthus.trainer.networks.pretrained import load_pretrained
from support.training import Harm


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    """The weights of an HRNet for ImageNet: without our head, with a classifier."""
    torch.manual_seed(5)
    backbone = {name: value for name, value in build("hrnet_w18", 98).state_dict().items() if "head" not in name}
    classifier = {"classifier.weight": torch.zeros(10, 4), "incre_modules.0.0.conv1.weight": torch.zeros(2, 2, 1, 1)}
    return {name: value.clone() for name, value in {**backbone, **classifier}.items()}


def assert_loaded(network: nn.Module, imagenet: dict[str, torch.Tensor]) -> None:
    for name, value in network.state_dict().items():
        if "num_batches" not in name and "head" not in name:
            assert torch.equal(value, imagenet[name]), name


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "module.backbone.", "model."])
@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_weights_of_hrnet_load_from_the_layouts_of_common_trainers(tmp_path, imagenet, prefix, nest):
    weights = {prefix + name: value for name, value in imagenet.items()}
    torch.save({nest: weights, "epoch": 3} if nest else weights, tmp_path / "net.pth")
    network = build("hrnet_w18", 98)
    weights = load_pretrained(tmp_path / "net.pth", network)
    assert_loaded(network, imagenet)
    assert {name.split(".")[0] for name in weights.missing} == {"head"}
    assert set(weights.unused) == {"classifier.weight", "incre_modules.0.0.conv1.weight"}
    count = len(weights.loaded)
    assert str(weights).endswith(
        f"loaded {count} of the network's {count + 8} tensors; missing: head (8); "
        "unused: classifier (1), incre_modules (1)"
    )


def test_safetensors_and_checkpoints_for_other_points_load(tmp_path, imagenet):
    save_file(imagenet, tmp_path / "timm.safetensors")
    network = build("hrnet_w18", 98)
    load_pretrained(tmp_path / "timm.safetensors", network)
    assert_loaded(network, imagenet)
    student = build("student", 29).state_dict()
    save(tmp_path / "ours", Checkpoint(student, {}, {}, {}))
    other = build("student", 98)
    weights = load_pretrained(tmp_path / "ours.safetensors", other)
    assert {name.split(".")[0] for name in weights.missing} == {"head"}
    assert torch.equal(next(iter(other.state_dict().values())), next(iter(student.values())))


def test_the_averaged_weights_of_a_checkpoint_load(tmp_path):
    """A checkpoint that can be resumed holds the weights twice, averaged and not."""
    averaged, current = build("student", 98).state_dict(), build("student", 98).state_dict()
    save(tmp_path / "last", Checkpoint(averaged, {}, {}, current))
    network = build("student", 98)
    load_pretrained(tmp_path / "last.safetensors", network)
    name = "stem.0.0.weight"
    assert not torch.equal(averaged[name], current[name])
    assert torch.equal(network.state_dict()[name], averaged[name])


def test_weights_of_another_network_are_refused(tmp_path, imagenet):
    save_file(imagenet, tmp_path / "hrnet.safetensors")
    network = build("student", 98)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError, match=r"only \d+ of the network's \d+ tensors fit"):
        load_pretrained(tmp_path / "hrnet.safetensors", network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_malicious_pickle_runs_nothing_and_is_refused_in_one_line(tmp_path):
    harm = Harm(tmp_path / "harm")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(harm))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "meta": harm}, tmp_path / "new.pth")
    for name in ("old.pth", "new.pth"):
        with pytest.raises(ModelError, match=rf"{name}: not opened: .*could run code") as refused:
            load_pretrained(tmp_path / name, build("student", 98))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, name, content):
    path: Path = tmp_path / name
    if content is None:
        tensors = {"conv1.weight": torch.zeros(2000)}
        save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
        content = path.read_bytes()[:-3000]
    path.write_bytes(content)
    with pytest.raises(ModelError, match=name) as refused:
        load_pretrained(path, build("student", 98))
    assert "\n" not in str(refused.value)
    with pytest.raises(ModelError, match="no such file"):
        load_pretrained(tmp_path / "absent.pth", build("student", 98))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="holds no named tensors"):
        load_pretrained(tmp_path / "list.pth", build("student", 98))
