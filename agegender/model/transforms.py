"""Augmentation of whole batches on tensors. Shapes: B images, S side in pixels, C side of the middle that is kept.

Every draw comes from the generator that is handed over, so that a batch is the same wherever and whenever it is made.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from agegender.recipe import Augmentation

ERASE_SIDE_MIN, ERASE_SIDE_MAX = 0.1, 0.35
"""Sides of an erased rectangle, as shares of the image's."""


DARKEST_FACTOR = 0.2
NOISIEST_STD = 30.0  # of 255
FEWEST_PIXELS_FRACTION = 0.35
"""Of the side."""

_DRAWS_PER_IMAGE = 18


def augment(images: Tensor, settings: Augmentation, generator: torch.Generator, crop_px: int | None = None) -> Tensor:
    """Vary a batch of training images and cut out their middle; the settings that vary nothing return the input itself.

    Args:
        images: uint8[B, 3, S, S] RGB.
        settings: ranges; each is drawn per image.
        generator: source of all draws, on the CPU whatever the images' device; the noise of pixels alone is drawn on that,
            and differs between kinds of device.
        crop_px: C, S less an even number; what is around it is only drawn on where an image turns, shrinks or shifts.
            None: S.

    Returns:
        float32[B, 3, C, C] in 0-255, or ``images`` where nothing varies.
    """
    if not any(settings.model_dump(exclude={"zoom_min", "zoom_max"}).values()) and not _moves(settings):
        return images
    batch, _, _, side = images.shape
    # one draw of fixed length, so that switching one variation off leaves the others as they were
    drawn = torch.rand(_DRAWS_PER_IMAGE, batch, generator=generator)
    draws = drawn.to(images.device)
    crop_px = crop_px or side
    if _moves(settings):
        varied = _move(images.to(torch.float32), settings, draws, crop_px)
    else:
        start = (side - crop_px) // 2
        end = start + crop_px
        varied = images[:, :, start:end, start:end].to(torch.float32, copy=True)
    if settings.low_resolution_probability:
        varied = _lose_pixels(varied, settings.low_resolution_probability, drawn)
    if settings.brightness or settings.contrast or settings.darkness_probability:
        varied = _light(varied, settings, draws)
    if settings.noise_probability:
        varied = _noise(varied, settings.noise_probability, drawn, generator)
    if settings.erase_probability:
        varied = _erase(varied, settings.erase_probability, draws)
    return varied


def _moves(settings: Augmentation) -> bool:
    return bool(
        settings.flip_probability
        or settings.rotation_degrees
        or settings.zoom_min != 1
        or settings.zoom_max != 1
        or settings.shift_fraction
    )


def _spread(draw_B: Tensor, reach: float) -> Tensor:
    """Uniform 0-1 to uniform -reach..reach."""
    return (2 * draw_B - 1) * reach


def _move(images: Tensor, settings: Augmentation, draws: Tensor, crop_px: int) -> Tensor:
    """Flip, rotate, zoom, shift and cut out the middle in one resampling; beyond the edge the image is mirrored."""
    angle_B = _spread(draws[0], math.radians(settings.rotation_degrees))
    zoom_B = settings.zoom_min + draws[1] * (settings.zoom_max - settings.zoom_min)
    flip_B = 1 - 2 * (draws[2] < settings.flip_probability).to(torch.float32)
    shift_x_B, shift_y_B = (_spread(draw, 2 * settings.shift_fraction) for draw in draws[3:5])  # the side is 2 long
    kept = crop_px / images.shape[-1]
    cos_B, sin_B = angle_B.cos() * kept / zoom_B, angle_B.sin() * kept / zoom_B
    # from a place in the result to the place in the image that it shows
    rows = [cos_B * flip_B, -sin_B * flip_B, shift_x_B, sin_B, cos_B, shift_y_B]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(theta, [len(images), 3, crop_px, crop_px], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _lose_pixels(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Shrink some images and enlarge them again, all of a batch by the same factor; draws on the CPU, so that no GPU is waited for."""
    chosen = (draws[12] < probability).nonzero()[:, 0].to(images.device)
    if not len(chosen):
        return images
    side = images.shape[-1]
    fraction = FEWEST_PIXELS_FRACTION + float(draws[13, 0]) * (1 - FEWEST_PIXELS_FRACTION)
    small = functional.interpolate(images[chosen], max(1, round(side * fraction)), mode="bilinear", antialias=True)
    images[chosen] = functional.interpolate(small, side, mode="bilinear")
    return images


def _light(images: Tensor, settings: Augmentation, draws: Tensor) -> Tensor:
    """Contrast about the image's own mean, then brightness as a factor; some images much darker."""
    contrast_B111 = (1 + _spread(draws[5], settings.contrast)).view(-1, 1, 1, 1)
    darkness_B = torch.where(draws[14] < settings.darkness_probability, 1 - draws[15] * (1 - DARKEST_FACTOR), 1.0)
    brightness_B111 = ((1 + _spread(draws[6], settings.brightness)) * darkness_B).view(-1, 1, 1, 1)
    mean_B111 = images.mean(dim=(1, 2, 3), keepdim=True)
    factor_B111 = contrast_B111 * brightness_B111
    offset_B111 = mean_B111 * brightness_B111 - mean_B111 * factor_B111
    return images.mul_(factor_B111).add_(offset_B111).clamp_(0, 255)


def _noise(images: Tensor, probability: float, draws: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise, of another strength for each image, to some images; draws on the CPU, so that no GPU is waited for."""
    chosen = (draws[16] < probability).nonzero()[:, 0]
    if not len(chosen):
        return images
    std_B111 = (NOISIEST_STD * draws[17, chosen]).view(-1, 1, 1, 1).to(images.device)
    chosen = chosen.to(images.device)
    noise = torch.randn((len(chosen), *images.shape[1:]), generator=_on(images.device, generator), device=images.device)
    images[chosen] = (images[chosen] + noise * std_B111).clamp(0, 255)
    return images


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator, or one on the device that follows from it: to draw each pixel's noise on the CPU takes longer than a GPU's step."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def _erase(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Grey out one random rectangle (Zhong et al., 2020) of the images drawn."""
    side = images.shape[-1]
    chosen_B = draws[7] < probability
    size_2B = ERASE_SIDE_MIN + draws[8:10] * (ERASE_SIDE_MAX - ERASE_SIDE_MIN)
    start_2B = draws[10:12] * (1 - size_2B)
    place_S = (torch.arange(side, device=images.device) + 0.5) / side
    inside_2BS = (place_S >= start_2B.unsqueeze(2)) & (place_S < (start_2B + size_2B).unsqueeze(2))
    mask_BSS = inside_2BS[0].unsqueeze(2) & inside_2BS[1].unsqueeze(1) & chosen_B.view(-1, 1, 1)
    return images.masked_fill_(mask_BSS.unsqueeze(1), 127.5)
