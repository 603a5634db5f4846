import pytest
import torch

from agegender.model.transforms import augment
from agegender.recipe import Augmentation
from tests.support.drawn import UNVARIED


def only(**changes: float) -> Augmentation:
    return UNVARIED.model_copy(update=changes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (16, 3, 48, 48), dtype=torch.uint8, generator=generator(1))


def test_settings_that_vary_nothing_return_the_input_itself(images):
    assert augment(images, UNVARIED, generator()) is images


def test_the_generator_alone_decides(images):
    before = images.clone()
    one, same, other = (augment(images, Augmentation(), generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(images, before)
    assert one.dtype == torch.float32 and one.shape == images.shape
    assert one.min() >= 0 and one.max() <= 255


def test_memory_order_does_not_matter(images):
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(
        augment(images, Augmentation(), generator()), augment(turned, Augmentation(), generator()), atol=1e-3
    )


def test_switching_one_variation_off_leaves_the_others_as_they_were(images):
    settings = Augmentation(erase_probability=0)
    erased = augment(images, settings.model_copy(update={"erase_probability": 1.0}), generator())
    kept = erased != 127.5
    assert torch.equal(erased[kept], augment(images, settings, generator())[kept])


def test_flip_mirrors_left_and_right(images):
    flipped = augment(images, only(flip_probability=1.0), generator())
    assert torch.allclose(flipped, images.flip(3).float(), atol=0.05)


def test_flip_probability_is_a_share():
    ramp = torch.arange(32, dtype=torch.uint8).expand(2000, 3, 32, 32).clone()
    flipped = augment(ramp, only(flip_probability=0.3), generator())[:, 0, 0, 0] > 16
    assert flipped.float().mean().item() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(("zoom", "grows"), [(1.3, True), (0.7, False)])
def test_zoom_above_one_makes_the_face_grow(zoom, grows):
    square = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    square[:, :, 24:40, 24:40] = 255
    # a degenerate range, past the validator, draws exactly this zoom
    area = augment(square, only(zoom_min=zoom, zoom_max=zoom), generator()).sum() / 255 / 3
    assert (area.item() > 256) == grows
    assert area.item() == pytest.approx(256 * zoom**2, rel=0.06)


def test_shift_stays_within_its_share_of_the_side():
    dot = torch.zeros(400, 3, 64, 64, dtype=torch.uint8)
    dot[:, :, 31:33, 31:33] = 255
    shifted = augment(dot, only(shift_fraction=0.1), generator())[:, 0]
    weights = shifted / shifted.sum(dim=(1, 2), keepdim=True)
    x = (weights.sum(dim=1) * torch.arange(64.0)).sum(dim=1) - 31.5
    assert x.abs().max() <= 6.41 and x.max() > 5 and x.min() < -5


def test_rotation_keeps_the_centre_and_the_size():
    square = torch.zeros(64, 3, 64, 64, dtype=torch.uint8)
    square[:, :, 20:44, 20:44] = 200
    turned = augment(square, only(rotation_degrees=45), generator())
    areas = turned[:, 0].sum(dim=(1, 2)) / 200
    assert torch.allclose(areas, torch.full_like(areas, 576.0), rtol=0.02)
    assert not torch.allclose(turned, square.float(), atol=20)


def test_brightness_scales_and_contrast_spreads_about_the_mean():
    grey = torch.full((200, 3, 32, 32), 100, dtype=torch.uint8)
    light = augment(grey, only(brightness=0.2), generator())[:, 0, 0, 0]
    assert light.min() >= 80 and light.max() <= 120 and light.max() - light.min() > 30
    assert torch.allclose(augment(grey, only(contrast=0.5), generator()), grey.float(), atol=0.01)


def test_erase_greys_one_rectangle_of_the_share_drawn():
    black = torch.zeros(1000, 3, 40, 40, dtype=torch.uint8)
    erased = augment(black, only(erase_probability=0.25), generator())[:, 0] == 127.5
    assert erased.any(dim=2).any(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.05)
    for mask in erased[erased.any(dim=2).any(dim=1)][:20]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert mask.sum() == rows.sum() * columns.sum()


def test_the_middle_is_cut_out_whether_or_not_the_image_moves(images):
    still = augment(images, only(brightness=1e-6), generator(), 32)
    assert torch.allclose(still, images[:, :, 8:40, 8:40].float(), atol=0.01)
    # flip is the one move that meets pixel on pixel
    flipped = augment(images, only(flip_probability=1.0), generator(), 32)
    assert torch.allclose(flipped, images[:, :, 8:40, 8:40].flip(3).float(), atol=0.05)


def test_what_turns_and_shrinks_draws_on_the_margin():
    framed = torch.full((32, 3, 64, 64), 250, dtype=torch.uint8)
    framed[:, :, 8:56, 8:56] = 100
    seen = augment(framed, only(zoom_min=0.7, zoom_max=0.7), generator(), 48)
    assert seen.shape[-1] == 48
    assert seen[:, :, 24, 24].eq(100).all() and seen[:, :, 1, 1].eq(250).all()


def test_darkness_takes_light_from_its_share():
    grey = torch.full((2000, 3, 8, 8), 200, dtype=torch.uint8)
    light = augment(grey, only(darkness_probability=0.3), generator())[:, 0, 0, 0]
    darkened = light < 199.9
    assert darkened.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert 40 <= light.min() < 60 and light[darkened].mean().item() == pytest.approx(120, abs=8)


def test_noise_falls_on_its_share_and_no_two_images_alike():
    grey = torch.full((600, 3, 16, 16), 128, dtype=torch.uint8)
    noisy = augment(grey, only(noise_probability=0.5), generator())
    std = noisy.std(dim=(1, 2, 3))
    assert (std > 0.5).float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert std.max() < 33 and std[std > 0.5].mean().item() == pytest.approx(15, abs=2)
    assert noisy.mean().item() == pytest.approx(128, abs=0.2)


def test_low_resolution_blurs_its_share_and_leaves_the_rest():
    checks = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    checks[:, :, ::2, ::2] = 255
    blurred = augment(checks, only(low_resolution_probability=0.25), generator())
    changed = (blurred != checks).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert blurred[changed].std() < 0.6 * checks.float().std()
    assert torch.equal(blurred[~changed], checks[~changed].float())
