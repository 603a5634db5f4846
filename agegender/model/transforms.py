"""Augmentation of whole batches on tensors. Shapes: B images, S side in pixels, C side of the central crop.

All random draws come from the given generator, so that a batch is reproducible.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from agegender.recipe import Augmentation

ERASE_SIDE_MIN, ERASE_SIDE_MAX = 0.1, 0.35
"""Sides of an erased rectangle, as shares of the image's side."""

MIN_DARKNESS_FACTOR = 0.2
MAX_NOISE_STD = 30.0  # of 255
MIN_SCALE = 0.35
"""Smallest side of a downscaled image, as a share of the original."""

_DRAWS_PER_IMAGE = 18


def augment(
    images: Tensor,
    settings: Augmentation,
    generator: torch.Generator,
    crop_px: int | None = None,
    side_px: int | None = None,
) -> Tensor:
    """Augment a batch of training images and crop its centre; returns the input itself if the settings change nothing.

    Args:
        images: uint8[B, 3, S, S] RGB.
        settings: ranges, drawn per image.
        generator: on the CPU, source of all draws; only pixel noise is drawn on the images' device and so differs between
            kinds of device.
        crop_px: C; ``side_px`` - C is even. The margin around it fills in where an image is rotated, shrunk or shifted. None: all.
        side_px: side of the whole image in the pixels of the result; None: S.

    Returns:
        float32[B, 3, C, C] in 0-255, or ``images`` unchanged.
    """
    batch, _, _, side = images.shape
    side_px = side_px or side
    changes = any(settings.model_dump(exclude={"zoom_min", "zoom_max"}).values()) or _changes_geometry(settings)
    if not changes and side_px == side:
        return images
    # one draw of fixed size, so that disabling one transform does not change the others
    draws_cpu = torch.rand(_DRAWS_PER_IMAGE, batch, generator=generator)
    draws = draws_cpu.to(images.device)
    crop_px = crop_px or side_px
    if _changes_geometry(settings):
        varied = _warp(images.to(torch.float32), settings, draws, crop_px, crop_px / side_px)
    else:
        start = (side_px - crop_px) // 2
        end = start + crop_px
        varied = resized(images, side_px)[:, :, start:end, start:end].to(torch.float32, copy=True)
    if settings.low_resolution_probability:
        varied = _downscale(varied, settings.low_resolution_probability, draws_cpu)
    if settings.brightness or settings.contrast or settings.darkness_probability:
        varied = _adjust_lighting(varied, settings, draws)
    if settings.noise_probability:
        varied = _noise(varied, settings.noise_probability, draws_cpu, generator)
    if settings.erase_probability:
        varied = _erase(varied, settings.erase_probability, draws)
    return varied


def resized(images: Tensor, side_px: int) -> Tensor:
    """Resize images with antialiasing, as a decoder would; the input itself if the size matches.

    Args:
        images: uint8 or float[B, 3, S, S].
        side_px: side of the result.
    """
    if images.shape[-1] == side_px:
        return images
    return functional.interpolate(images.float(), side_px, mode="bilinear", antialias=True)


def _changes_geometry(settings: Augmentation) -> bool:
    return bool(
        settings.flip_probability
        or settings.rotation_degrees
        or settings.zoom_min != 1
        or settings.zoom_max != 1
        or settings.shift_fraction
    )


def _symmetric(draw_B: Tensor, limit: float) -> Tensor:
    """Map uniform 0 to 1 to uniform -limit to limit."""
    return (2 * draw_B - 1) * limit


def _warp(images: Tensor, settings: Augmentation, draws: Tensor, crop_px: int, crop_fraction: float) -> Tensor:
    """Flip, rotate, zoom, shift and crop in one resampling; beyond the edge the image is mirrored."""
    angle_B = _symmetric(draws[0], math.radians(settings.rotation_degrees))
    zoom_B = settings.zoom_min + draws[1] * (settings.zoom_max - settings.zoom_min)
    flip_B = 1 - 2 * (draws[2] < settings.flip_probability).to(torch.float32)
    shift_x_B, shift_y_B = (
        _symmetric(draw, 2 * settings.shift_fraction) for draw in draws[3:5]
    )  # in grid units the side is 2
    cos_B, sin_B = angle_B.cos() * crop_fraction / zoom_B, angle_B.sin() * crop_fraction / zoom_B
    # maps output coordinates to input coordinates
    rows = [cos_B * flip_B, -sin_B * flip_B, shift_x_B, sin_B, cos_B, shift_y_B]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(theta, [len(images), 3, crop_px, crop_px], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _downscale(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Downscale and upscale some images, by one factor per batch; the draws are on the CPU to avoid a GPU sync."""
    selected = (draws[12] < probability).nonzero()[:, 0].to(images.device)
    if not len(selected):
        return images
    side = images.shape[-1]
    fraction = MIN_SCALE + float(draws[13, 0]) * (1 - MIN_SCALE)
    small = functional.interpolate(images[selected], max(1, round(side * fraction)), mode="bilinear", antialias=True)
    images[selected] = functional.interpolate(small, side, mode="bilinear")
    return images


def _adjust_lighting(images: Tensor, settings: Augmentation, draws: Tensor) -> Tensor:
    """Scale contrast around the image's mean, then brightness; make some images much darker."""
    contrast_B111 = (1 + _symmetric(draws[5], settings.contrast)).view(-1, 1, 1, 1)
    darkness_B = torch.where(draws[14] < settings.darkness_probability, 1 - draws[15] * (1 - MIN_DARKNESS_FACTOR), 1.0)
    brightness_B111 = ((1 + _symmetric(draws[6], settings.brightness)) * darkness_B).view(-1, 1, 1, 1)
    mean_B111 = images.mean(dim=(1, 2, 3), keepdim=True)
    factor_B111 = contrast_B111 * brightness_B111
    offset_B111 = mean_B111 * brightness_B111 - mean_B111 * factor_B111
    return images.mul_(factor_B111).add_(offset_B111).clamp_(0, 255)


def _noise(images: Tensor, probability: float, draws: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to some images, of random strength per image; the draws are on the CPU to avoid a GPU sync."""
    selected = (draws[16] < probability).nonzero()[:, 0]
    if not len(selected):
        return images
    std_B111 = (MAX_NOISE_STD * draws[17, selected]).view(-1, 1, 1, 1).to(images.device)
    selected = selected.to(images.device)
    noise = torch.randn(
        (len(selected), *images.shape[1:]), generator=_on(images.device, generator), device=images.device
    )
    images[selected] = (images[selected] + noise * std_B111).clamp(0, 255)
    return images


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator, or one on the device seeded from it: drawing pixel noise on the CPU takes longer than a GPU step."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def _erase(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Fill one random rectangle of some images with grey (random erasing, Zhong et al., 2020)."""
    side = images.shape[-1]
    selected_B = draws[7] < probability
    size_2B = ERASE_SIDE_MIN + draws[8:10] * (ERASE_SIDE_MAX - ERASE_SIDE_MIN)
    start_2B = draws[10:12] * (1 - size_2B)
    place_S = (torch.arange(side, device=images.device) + 0.5) / side
    inside_2BS = (place_S >= start_2B.unsqueeze(2)) & (place_S < (start_2B + size_2B).unsqueeze(2))
    mask_BSS = inside_2BS[0].unsqueeze(2) & inside_2BS[1].unsqueeze(1) & selected_B.view(-1, 1, 1)
    return images.masked_fill_(mask_BSS.unsqueeze(1), 127.5)
