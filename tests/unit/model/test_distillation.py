"""Teachers see what the student sees. They are real networks whose backbone is a plain function of the pixels."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agegender.artifact import NetworkConfig
from agegender.model.batches import Batch, Samples, augmented, load_batch
from agegender.model.distillation import Teachers
from agegender.model.network import FaceNetwork, build_network
from agegender.model.transforms import resized
from agegender.recipe import Augmentation, Recipe
from tests.support.drawn import UNVARIED

CPU = torch.device("cpu")
PLACE = (3, 5, 0)
STUDENT = NetworkConfig(backbone="compact", age_head="distribution", image_size_px=48, crop_fraction=0.875)  # 42 px
SEES_ITS_PIXELS_ALONE = Augmentation(contrast=0, noise_probability=0, low_resolution_probability=0, erase_probability=0)
"""What does not depend on how much of the image is cut out."""


class Quarters(nn.Module):
    """The mean of each quarter of the image; keeps what it saw, in 0-255."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels)
        return nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)


def teacher(seed: int, side_px: int, crop_fraction: float, views: Literal[1, 2] = 2) -> FaceNetwork:
    torch.manual_seed(seed)
    config = NetworkConfig(
        backbone="quarters",
        age_head="distribution",
        image_size_px=side_px,
        crop_fraction=crop_fraction,
        views=views,
    )
    network = FaceNetwork(config, Quarters(), 12)
    nn.init.normal_(network.age_head.weight, std=2.0)
    nn.init.normal_(network.gender_head.weight, std=2.0)
    return network  # in training mode, as built: Teachers has to see to it


def seen_by(network: FaceNetwork) -> Tensor:
    assert isinstance(network.backbone, Quarters)
    (pixels,) = network.backbone.seen
    network.backbone.seen.clear()
    return pixels * network.rgb_std + network.rgb_mean


def said_by(network: FaceNetwork, images: Tensor) -> Tensor:
    """Written out from the definition: means of the quarters, two linear layers, softmax and sigmoid."""
    pixels = (images - network.rgb_mean) / network.rgb_std
    quarters = [half.mean(dim=(2, 3)) for rows in pixels.chunk(2, dim=2) for half in rows.chunk(2, dim=3)]
    features = torch.stack(quarters, dim=2).flatten(1)
    ages = (features @ network.age_head.weight.T + network.age_head.bias).softmax(dim=1)
    female = (features @ network.gender_head.weight.T + network.gender_head.bias).sigmoid()
    return torch.cat([ages, female], dim=1).detach()


def middle(images: Tensor, px: int) -> Tensor:
    start = (images.shape[-1] - px) // 2
    return images[:, :, start : start + px, start : start + px]


@pytest.fixture
def batch() -> Batch:
    """Smooth images, which lose little when they are resized."""
    coarse = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    smooth = nn.functional.interpolate(coarse, 48, mode="bicubic").clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
    samples = Samples(smooth.numpy(), np.arange(5), np.full(5, 30, np.float32), np.zeros(5, np.int64))
    return load_batch(samples, np.arange(5), 0, 1, CPU)


def taught(batch: Batch, teachers: Teachers, recipe: Recipe) -> Batch:
    return teachers.teach(augmented(batch, recipe, PLACE, teachers.crop_px, teachers.side_px))


def test_a_teacher_is_asked_about_the_varied_image_that_the_student_sees(batch: Batch) -> None:
    network = teacher(0, 48, 0.875)
    teachers = Teachers([network], STUDENT, "float32")
    asked = taught(batch, teachers, Recipe())
    varied = augmented(batch, Recipe(), PLACE, STUDENT.crop_size_px).images
    assert torch.equal(asked.images, varied), "the student sees what it sees without a teacher"
    assert torch.allclose(seen_by(network), varied, atol=0.01)
    assert asked.soft_targets_BX is not None
    torch.testing.assert_close(asked.soft_targets_BX, said_by(network, varied), rtol=1e-3, atol=1e-5)
    unvaried = said_by(network, middle(batch.images, 42))
    assert (asked.soft_targets_BX - unvaried).abs().max() > 0.05
    other = teachers.teach(augmented(batch, Recipe(), (3, 6, 0), teachers.crop_px, teachers.side_px))
    assert other.soft_targets_BX is not None
    assert (asked.soft_targets_BX - other.soft_targets_BX).abs().max() > 0.05, "asked again in each step"
    assert not asked.soft_targets_BX.requires_grad


def test_a_teacher_with_a_larger_input_sees_the_same_face_in_its_own_pixels(batch: Batch) -> None:
    recipe = Recipe(augment=SEES_ITS_PIXELS_ALONE)
    network = teacher(0, 96, 0.9375)  # 90 px
    teachers = Teachers([network], STUDENT, "float32")
    assert (teachers.side_px, teachers.crop_px) == (96, 90)
    asked = taught(batch, teachers, recipe)
    shown = seen_by(network)
    assert shown.shape == (5, 3, 90, 90)
    assert asked.images.shape == (5, 3, 42, 42)
    assert torch.allclose(resized(middle(shown, 84), 42), asked.images, atol=0.01), "0.875 of 96, at half the size"
    alone = augmented(batch, recipe, PLACE, 42).images
    # the same crop, rotation, light; but for what resampling changes, most where the border is mirrored
    assert (asked.images - alone).abs().mean() < 2
    moved = augmented(batch, recipe, (3, 6, 0), 42).images
    assert (moved - alone).abs().mean() > 20


def test_a_teacher_sees_at_least_what_the_student_sees_and_else_what_it_was_made_for(batch: Batch) -> None:
    narrow, wide = teacher(0, 32, 0.75), teacher(1, 48, 1.0)
    teachers = Teachers([narrow, wide], STUDENT, "float32")
    assert (teachers.side_px, teachers.crop_px) == (48, 48)
    asked = taught(batch, teachers, Recipe(augment=SEES_ITS_PIXELS_ALONE))
    assert torch.allclose(seen_by(narrow), resized(asked.images, 24), atol=0.01)
    assert torch.allclose(middle(seen_by(wide), 42), asked.images, atol=0.01)


# as stored, and another size, 36 px of which are seen: 0.9
@pytest.mark.parametrize(("student_px", "seen_px"), [(48, 42), (40, 44)])
def test_without_augmentation_all_see_the_middle(student_px: int, seen_px: int, batch: Batch) -> None:
    network = teacher(0, 48, 0.9375)  # 46 px: an even margin
    student = STUDENT.model_copy(update={"image_size_px": student_px})
    teachers = Teachers([network], student, "float32")
    asked = taught(batch, teachers, Recipe(augment=UNVARIED))
    assert torch.allclose(seen_by(network), middle(batch.images, network.config.crop_size_px).float(), atol=0.01)
    assert torch.allclose(
        asked.images.float(), resized(middle(batch.images, seen_px), student.crop_size_px).float(), atol=0.01
    )


def test_two_teachers_are_asked_for_their_mean(batch: Batch) -> None:
    networks = [teacher(0, 48, 0.875), teacher(1, 48, 0.875)]
    alone = [taught(batch, Teachers([each], STUDENT, "float32"), Recipe()).soft_targets_BX for each in networks]
    both = taught(batch, Teachers(networks, STUDENT, "float32"), Recipe()).soft_targets_BX
    assert alone[0] is not None and alone[1] is not None and both is not None
    assert (alone[0] - alone[1]).abs().max() > 0.1
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert torch.allclose(both[:, :-1].sum(dim=1), torch.ones(5))


def test_mixed_images_are_shown_mixed(batch: Batch) -> None:
    network = teacher(0, 48, 0.875)
    asked = taught(batch, Teachers([network], STUDENT, "float32"), Recipe(mixup_alpha=1.0))
    plain = augmented(batch, Recipe(), PLACE, 42).images
    assert asked.mixed_with_B is not None and asked.own_share < 0.99
    mixed = asked.own_share * plain + (1 - asked.own_share) * plain[asked.mixed_with_B]
    assert torch.allclose(seen_by(network), mixed, atol=0.01)
    assert asked.soft_targets_BX is not None
    assert torch.allclose(asked.soft_targets_BX, said_by(network, mixed), atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_teachers_compute_in_the_precision_of_the_training(
    precision: Literal["float32", "bfloat16"], batch: Batch
) -> None:
    network = build_network(STUDENT)
    dtypes: list[torch.dtype] = []
    assert isinstance(network.backbone.stem, nn.Sequential)
    network.backbone.stem[0].register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    asked = taught(batch, Teachers([network], STUDENT, precision), Recipe())
    assert dtypes == [getattr(torch, precision)]
    assert asked.soft_targets_BX is not None and asked.soft_targets_BX.dtype == torch.float32
    assert not network.training
