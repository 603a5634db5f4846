import math
import pickle

import pytest
import torch
from safetensors.torch import save_file

from agegender.artifact import NetworkConfig
from agegender.errors import ConfigError, InputError
from agegender.model.network import FaceNetwork, build_network


def config(backbone="compact", age_head="distribution", image_size_px=64) -> NetworkConfig:
    return NetworkConfig(backbone=backbone, age_head=age_head, image_size_px=image_size_px)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["compact", "large", "notebook", "mobilenet_v1"])
@pytest.mark.parametrize("age_head", ["distribution", "scalar"])
def test_shapes_and_a_sane_start(backbone, age_head, images):
    outputs = build_network(config(backbone, age_head))(images)
    assert outputs.age_years_B.shape == outputs.gender_logit_B.shape == (3,)
    assert all(20 < age < 50 for age in outputs.age_years_B.tolist())
    assert outputs.gender_logit_B.abs().max() < 1
    if age_head == "distribution":
        assert outputs.age_logits_BA.shape == (3, 121)
    else:
        assert outputs.age_logits_BA is None


def test_the_estimate_is_the_median_once_trained_and_the_expectation_while_training(images):
    network = build_network(config())
    with torch.no_grad():
        # two peaks: 60 % near 20 years, 40 % near 80
        network.age_head.weight.zero_()
        network.age_head.bias.fill_(-50.0)
        network.age_head.bias[20], network.age_head.bias[80] = math.log(0.6), math.log(0.4)
    assert network.train()(images).age_years_B.tolist() == pytest.approx([44.0] * 3, abs=1e-3)
    estimated = network.eval()(images)
    assert estimated.age_years_B.tolist() == pytest.approx([19.5 + 0.5 / 0.6] * 3, abs=1e-3)
    assert estimated.age_spread_years().tolist() == pytest.approx([60 * math.sqrt(0.24)] * 3, abs=1e-2)
    plain = FaceNetwork(config().model_copy(update={"age_readout": "expectation"}), network.backbone, 256).eval()
    plain.load_state_dict(network.state_dict())
    assert plain(images).age_years_B.tolist() == pytest.approx([44.0] * 3, abs=1e-3)


def test_two_views_say_the_same_of_an_image_and_its_mirror_image(images):
    network = build_network(config().model_copy(update={"views": 2})).eval()
    one, mirrored = network(images), network(images.flip(3))
    assert torch.allclose(one.age_logits_BA, mirrored.age_logits_BA, atol=1e-5)
    assert torch.allclose(one.gender_logit_B, mirrored.gender_logit_B, atol=1e-5)
    single = FaceNetwork(config(), network.backbone, 256).eval()
    single.load_state_dict(network.state_dict())
    logits = (single(images).age_logits_BA + single(images.flip(3)).age_logits_BA) / 2
    assert torch.allclose(one.age_logits_BA, logits, atol=1e-5)


def test_what_augmentation_cut_out_is_not_cut_again():
    cropped = config().model_copy(update={"crop_fraction": 0.75})
    network = build_network(cropped).eval()
    whole = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(network(whole).age_years_B, network(whole[:, :, 8:56, 8:56]).age_years_B)


def test_compact_is_small():
    parameters = sum(parameter.numel() for parameter in build_network(config()).parameters())
    assert parameters == 2_058_666


def test_float_images_of_the_same_range_give_the_same(images):
    network = build_network(config()).eval()
    assert torch.equal(network(images).age_years_B, network(images.float()).age_years_B)


def test_every_parameter_learns(images):
    network = build_network(config())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    outputs = network(images)
    (outputs.age_years_B.sum() + outputs.gender_logit_B.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_heads_stay_in_float32_under_autocast(images):
    network = build_network(config()).eval()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(images)
    assert {outputs.age_years_B.dtype, outputs.age_logits_BA.dtype, outputs.gender_logit_B.dtype} == {torch.float32}
    assert torch.allclose(outputs.age_years_B, network(images).age_years_B, atol=0.5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("whole", [True, False])
def test_backbone_weights_from_a_file(tmp_path, suffix, whole):
    source = build_network(config("notebook"))
    state = (source if whole else source.backbone).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    network = build_network(config("notebook", "scalar"), str(path))
    assert all(
        torch.equal(a, b) for a, b in zip(network.backbone.parameters(), source.backbone.parameters(), strict=True)
    )


def test_weights_of_another_backbone_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_network(config("notebook")).state_dict(), path)
    with pytest.raises(InputError, match=r"not the weights of backbone 'compact'.*missing"):
        build_network(config("compact"), str(path))
    with pytest.raises(InputError, match="another shape"):
        build_network(config("notebook", image_size_px=96), str(path))


class _Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_weights_file_cannot_run_code(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(_Code(), protocol=2))
    with pytest.raises(InputError, match=r"weights\.pth"):
        build_network(config(), str(path))
    torch.save({"a": _Code()}, path)
    with pytest.raises(InputError, match=r"weights\.pth"):
        build_network(config(), str(path))
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_bad_weights_files_are_input_errors(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match="no such weights file"):
        build_network(config(), str(path))
    for content in (b"", b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            build_network(config(), str(path))


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save([1, 2, 3], path)
    with pytest.raises(InputError, match="state_dict"):
        build_network(config(), str(path))


def test_own_backbones_have_no_weights_by_name():
    with pytest.raises(ConfigError, match=r"'DEFAULT'.*compact"):
        build_network(config(), "DEFAULT")


def test_torchvision_backbones_by_name(images, tmp_path):
    import torchvision.models as zoo

    path = tmp_path / "resnet18.pth"
    published = zoo.resnet18(weights=None)
    torch.save(published.state_dict(), path)  # with the classifier that our heads replace
    network = build_network(config("resnet18"), str(path))
    assert network.age_head.in_features == 512
    assert torch.equal(network.state_dict()["backbone.conv1.weight"], published.state_dict()["conv1.weight"])
    assert network(images).age_logits_BA.shape == (3, 121)
    assert build_network(config("mobilenet_v3_small"))(images).age_years_B.shape == (3,)
    with pytest.raises(ConfigError, match="resnet512"):
        build_network(config("resnet512"))
    with pytest.raises(ConfigError, match=r"IMAGENET9.*DEFAULT"):
        build_network(config("resnet18"), "IMAGENET9")
    with pytest.raises(ConfigError, match="64 px"):
        build_network(config("vit_b_16"))
    with pytest.raises(ConfigError, match="no last linear layer"):
        build_network(config("squeezenet1_0"))


@pytest.mark.parametrize(
    ("side", "crop_fraction", "zoom_min", "expected_side"),
    [
        (128, 0.875, 0.8, 120),
        (128, 0.875, 0.95, 122),
        (128, 0.875, 1.0, 128),
        (128, 0.75, 0.9, 116),
        (64, 1.0, 0.8, 64),
    ],
)
def test_a_trained_network_is_shown_half_of_the_margin_and_no_smaller_faces_than_in_training(
    side, crop_fraction, zoom_min, expected_side
):
    trained = NetworkConfig(
        backbone="compact", age_head="distribution", image_size_px=side, crop_fraction=crop_fraction, views=2
    )
    scored = trained.for_scoring(zoom_min)
    assert (scored.image_size_px, scored.crop_size_px) == (expected_side, trained.crop_size_px)
    assert scored.views == 2


def test_the_backbone_sees_the_middle_alone():
    cropped = NetworkConfig(backbone="compact", age_head="distribution", image_size_px=112, crop_fraction=0.86)
    assert cropped.crop_size_px == 96
    network = build_network(cropped).eval()
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    other_margin = torch.zeros_like(images)
    other_margin[:, :, 8:104, 8:104] = images[:, :, 8:104, 8:104]
    torch.testing.assert_close(network(images), network(other_margin), rtol=0, atol=0)
    other_margin[:, :, 8] = 255 - other_margin[:, :, 8]
    assert not torch.equal(network(images).gender_logit_B, network(other_margin).gender_logit_B)
