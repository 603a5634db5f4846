"""Draw a synthetic face from its traits, part by part from back to front; ``synthetic`` chooses the traits.

Face coordinates: x to the right and y down from the centre of the head; the chin is at y = 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]] | npt.NDArray[np.float64]

WHITE: Colour = (250, 250, 248)
BLACK: Colour = (24, 20, 22)

_TURN = np.linspace(0, 2 * math.pi, 33)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)


@dataclass(frozen=True, slots=True)
class Traits:
    """The appearance of one face. Shares go from 0 (not at all) to 1; lengths are in units of the distance from centre to chin."""

    skin: Colour
    hair: Colour
    brows: Colour
    iris: Colour
    lips: Colour
    clothes: Colour
    half_width: float
    jaw: float
    """0 pointed to 1 square."""
    eye_y: float
    eye_size: float
    lid: float
    """Share of the eye that the upper lid covers."""
    brow_width: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_height: float
    smile: float
    shoulders: float
    hair_style: str
    """bald, tuft, crown, cap, fringe, parted or curls."""
    hair_length: float
    """How far down the hair falls beside the head; 0: not at all."""
    hairline_y: float
    beard: str
    """none, stubble, moustache or full."""
    lashes: bool
    blush: float
    forehead_lines: int
    crows_feet: int
    folds: float
    bags: float
    spots: int
    freckles: int
    extras: frozenset[str]
    """Of glasses, hat, bow, earrings, pacifier, pigtails, bun."""
    turn: float
    """Horizontal shift of the features as the head turns."""


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws in coordinates of the face on a canvas in pixels."""

    canvas: ImageDraw.ImageDraw
    centre_px: tuple[float, float]
    unit_px: float
    tilt_radians: float

    def moved(self, x: float, y: float = 0.0) -> "Pen":
        """The same pen with its origin elsewhere."""
        (moved_x, moved_y), *_ = self._on_canvas([(x, y)])
        return Pen(self.canvas, (moved_x, moved_y), self.unit_px, self.tilt_radians)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, colour: Colour) -> None:
        """Fill an ellipse around (x, y)."""
        self.polygon(np.add(_CIRCLE * (half_width, half_height), (x, y)), colour)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill the area within the points."""
        self.canvas.polygon(self._on_canvas(points), fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Join the points by a line of a width."""
        width_px = max(1, round(width * self.unit_px))
        self.canvas.line(self._on_canvas(points), fill=colour, width=width_px, joint="curve")

    def bow(self, x: float, y: float, half_width: float, sag: float, colour: Colour, width: float) -> None:
        """A line from side to side around (x, y) that sags in the middle, or rises where ``sag`` is negative."""
        self.line(bow_points(x, y, half_width, sag), colour, width)

    def _on_canvas(self, points: Points) -> list[tuple[float, float]]:
        cos, sin = math.cos(self.tilt_radians) * self.unit_px, math.sin(self.tilt_radians) * self.unit_px
        x_px, y_px = self.centre_px
        array = np.asarray(points, dtype=np.float64)
        x, y = array[:, 0], array[:, 1]
        return list(zip((x_px + x * cos - y * sin).tolist(), (y_px + x * sin + y * cos).tolist(), strict=True))


def bow_points(x: float, y: float, half_width: float, sag: float) -> npt.NDArray[np.float64]:
    """float[9, 2]: a parabola through (x - half_width, y), (x, y + sag) and (x + half_width, y)."""
    along = np.linspace(-1, 1, 9)
    return np.stack([x + half_width * along, y + sag * (1 - along**2)], axis=-1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour that lies a share of the way from one to the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def draw(pen: Pen, traits: Traits, rng: np.random.Generator) -> None:
    """Draw the whole face, from back to front."""
    shade = mix(traits.skin, (90, 30, 20), 0.22)
    _draw_body(pen, traits, shade)
    _draw_ears(pen, traits, shade)
    pen.polygon(head_outline(traits), traits.skin)
    features = pen.moved(traits.turn)
    _draw_skin_marks(features, traits, rng)
    _draw_beard(pen, features, traits)
    _draw_age_lines(features, traits, shade)
    _draw_nose(features, traits, shade)
    _draw_mouth(features, traits)
    _draw_eyes(features, traits, shade)
    _draw_hair(pen, traits, rng)
    _draw_extras(pen, features, traits)


def head_outline(traits: Traits) -> npt.NDArray[np.float64]:
    """float[33, 2]: round above, towards the chin as square or pointed as the jaw."""
    cos, sin = _CIRCLE[:, 0], _CIRCLE[:, 1]
    below = np.clip(sin, 0, 1)
    square = np.sign(cos) * np.abs(cos) ** (1.0 - 0.35 * traits.jaw * below)
    x = traits.half_width * square * (1 - (0.24 - 0.2 * traits.jaw) * below**2)
    return np.stack([x, sin], axis=-1)


def _draw_body(pen: Pen, traits: Traits, shade: Colour) -> None:
    """Shoulders, hair behind the head, neck."""
    wide, collar_y = traits.shoulders, 1.22
    slope = [(-wide, 2.6), (-wide, 1.62), (-0.34, collar_y), (0.34, collar_y), (wide, 1.62), (wide, 2.6)]
    pen.polygon(slope, traits.clothes)
    if traits.hair_length > 0:
        wide, low = traits.half_width + 0.2, traits.hair_length
        dark = mix(traits.hair, BLACK, 0.25)
        pen.ellipse(0, -0.15, wide, 1.0, dark)
        pen.polygon([(-wide, -0.15), (wide, -0.15), (wide + 0.06, low), (wide - 0.3, low + 0.1), (0, low - 0.2),
                     (0.3 - wide, low + 0.1), (-wide - 0.06, low)], dark)  # fmt: skip
    neck = 0.2 + 0.1 * traits.jaw + 0.06 * traits.shoulders
    pen.polygon([(-neck, 0.6), (neck, 0.6), (neck + 0.04, 1.3), (0, 1.46), (-neck - 0.04, 1.3)], shade)


def _draw_ears(pen: Pen, traits: Traits, shade: Colour) -> None:
    for side in (-1, 1):
        x = side * (traits.half_width + 0.02)
        pen.ellipse(x, traits.eye_y + 0.12, 0.12, 0.2, traits.skin)
        pen.ellipse(x + side * 0.02, traits.eye_y + 0.12, 0.06, 0.11, shade)
        if "earrings" in traits.extras:
            pen.ellipse(x + side * 0.03, traits.eye_y + 0.38, 0.05, 0.06, (236, 200, 90))


def _draw_skin_marks(pen: Pen, traits: Traits, rng: np.random.Generator) -> None:
    """Rosy cheeks, freckles and the spots of age."""
    if traits.blush > 0:
        rosy = mix(traits.skin, (232, 90, 90), 0.45 * traits.blush)
        for side in (-1, 1):
            pen.ellipse(side * 0.48, traits.eye_y + 0.38, 0.17, 0.13, rosy)
    brown = mix(traits.skin, (110, 60, 30), 0.4)
    for x, y in rng.uniform((-0.5, 0.2), (0.5, 0.45), (traits.freckles, 2)):
        pen.ellipse(x, y, 0.022, 0.022, brown)
    for x, y, size in rng.uniform((-0.6, -0.6, 0.02), (0.6, 0.5, 0.05), (traits.spots, 3)):
        pen.ellipse(x, y, size, size * 0.8, brown)


def _draw_age_lines(pen: Pen, traits: Traits, shade: Colour) -> None:
    """Lines of the forehead, crow's feet, bags below the eyes and folds beside the mouth."""
    for line in range(traits.forehead_lines):
        pen.bow(0, traits.eye_y - 0.36 - 0.1 * line, 0.36 - 0.04 * line, -0.03, shade, 0.028)
    corner_x = 0.33 + traits.eye_size + 0.03
    for side in (-1, 1):
        for foot in range(traits.crows_feet):
            rise = 0.09 * (foot - (traits.crows_feet - 1) / 2)
            y = traits.eye_y + 0.02
            pen.line([(side * corner_x, y + rise * 0.5), (side * (corner_x + 0.15), y + rise * 1.9)], shade, 0.024)
        if traits.bags > 0:
            pen.bow(side * 0.33, traits.eye_y + 0.13, 0.13, 0.07 * traits.bags + 0.02, shade, 0.028)
        if traits.folds > 0:
            end = (side * (traits.mouth_width + 0.1), 0.4 + 0.24 * traits.folds)
            pen.line([(side * 0.16, 0.3), (side * (traits.mouth_width + 0.06), 0.42), end], shade, 0.03)


def _draw_nose(pen: Pen, traits: Traits, shade: Colour) -> None:
    tip_y, wide = 0.36, traits.nose_width
    pen.line([(0.02, tip_y - traits.nose_length), (wide * 0.8, tip_y - 0.02)], shade, 0.03)
    pen.bow(0, tip_y - 0.01, wide, 0.07, shade, 0.035)


def _draw_mouth(pen: Pen, traits: Traits) -> None:
    """Lips, around teeth where the smile is wide."""
    y, wide, sag = 0.62 - 0.3 * max(traits.smile, 0) * traits.mouth_width, traits.mouth_width, traits.smile * 0.2
    lower = bow_points(0, y, wide, sag + traits.lip_height)
    upper = bow_points(0, y, wide, sag - traits.lip_height * 0.8)
    pen.polygon(np.concatenate([lower, upper[::-1]]), traits.lips)
    if traits.smile > 0.75:
        teeth = bow_points(0, y + 0.01, wide * 0.8, sag + traits.lip_height * 0.3)
        pen.polygon(np.concatenate([teeth, bow_points(0, y + 0.01, wide * 0.8, 0.01)[::-1]]), WHITE)
    pen.bow(0, y, wide, sag, mix(traits.lips, BLACK, 0.45), 0.03)


def _draw_eyes(pen: Pen, traits: Traits, shade: Colour) -> None:
    size, y = traits.eye_size, traits.eye_y
    high = size * 0.72
    for side in (-1, 1):
        x = side * 0.33
        pen.ellipse(x, y, size, high, WHITE)
        pen.ellipse(x, y, high * 0.78, high * 0.78, traits.iris)
        pen.ellipse(x, y, high * 0.42, high * 0.42, BLACK)
        pen.ellipse(x + high * 0.25, y - high * 0.3, high * 0.2, high * 0.2, WHITE)
        lid_y = -high * (1.04 - 2 * traits.lid)
        edge = bow_points(x, y, size * 1.08, lid_y)
        if traits.lid > 0:
            above = bow_points(x, y, size * 1.08, -2.2 * high)
            pen.polygon(np.concatenate([above, edge[::-1]]), mix(traits.skin, shade, 0.35))
        pen.line(edge, BLACK, 0.05 if traits.lashes else 0.03)
        if traits.lashes:
            for share, out in ((0.55, 0.04), (0.85, 0.07)):
                root = (x + side * size * share, y + lid_y * (1 - share**2))
                pen.line([root, (root[0] + side * out, root[1] - 0.08)], BLACK, 0.03)
        brow_y = y - high - 0.1
        brow = [(x - side * 0.15, brow_y + 0.02), (x + side * 0.03, brow_y - 0.05), (x + side * 0.19, brow_y + 0.03)]
        pen.line(brow, traits.brows, traits.brow_width)


def _draw_beard(pen: Pen, features: Pen, traits: Traits) -> None:
    if traits.beard in ("stubble", "full"):
        colour = mix(traits.skin, traits.hair, 0.28) if traits.beard == "stubble" else traits.hair
        outline = head_outline(traits)
        lower = outline[outline[:, 1] > 0.12] * (1.02, 1.06 if traits.beard == "full" else 1.0)
        edge = bow_points(0, 0.2, traits.half_width * 0.8, 0.34)[::-1]
        pen.polygon(np.concatenate([lower, edge[::-1]]), colour)
    if traits.beard in ("moustache", "full"):
        for side in (-1, 1):
            wing = [(0, 0.43), (side * 0.14, 0.44), (side * (traits.mouth_width + 0.06), 0.6), (0, 0.53)]
            features.polygon(wing, traits.hair)


def _draw_hair(pen: Pen, traits: Traits, rng: np.random.Generator) -> None:
    if traits.hair_style == "tuft":
        for end in (-0.14, 0.0, 0.13):
            pen.line([(0, -0.97), (end * 0.6, -1.06), (end, -1.13)], traits.hair, 0.05)
        return
    if traits.hair_style in ("crown", "curls", "cap", "fringe", "parted"):
        _draw_crown(pen, traits)
    if traits.hair_style in ("cap", "fringe", "parted", "curls"):
        pen.polygon(np.concatenate([_scalp(traits), _hairline(traits)]), traits.hair)
    if traits.hair_style == "curls":
        for angle in np.linspace(math.pi * 0.98, math.pi * 2.02, 11):
            x, y = (traits.half_width + 0.03) * math.cos(angle), 1.0 * math.sin(angle)
            tone = mix(traits.hair, BLACK, float(rng.uniform(0, 0.12)))
            pen.ellipse(x, y, 0.19, 0.19, tone)


def _draw_crown(pen: Pen, traits: Traits) -> None:
    """The hair above the ears, all that bald heads have."""
    for side in (-1, 1):
        pen.ellipse(side * (traits.half_width + 0.0), traits.eye_y - 0.18, 0.1, 0.26, traits.hair)


def _scalp(traits: Traits) -> npt.NDArray[np.float64]:
    """The outer edge of the hair, from the left temple over the top to the right one."""
    angle = np.linspace(math.pi, 2 * math.pi, 17)
    return np.stack([(traits.half_width + 0.08) * np.cos(angle), -0.1 + 1.03 * np.sin(angle)], axis=-1)


def _hairline(traits: Traits) -> list[tuple[float, float]]:
    """The inner edge of the hair, from the right temple to the left one."""
    wide, top = traits.half_width, traits.hairline_y
    if traits.hair_style == "fringe":
        xs = np.linspace(wide * 0.8, -wide * 0.8, 9)
        zigzag = [(float(x), top + 0.2 + (0.08 if tooth % 2 else 0.0)) for tooth, x in enumerate(xs)]
        return [(wide * 0.97, -0.15), *zigzag, (-wide * 0.97, -0.15)]
    part = 0.4 * wide if traits.hair_style == "parted" else 0.0
    low = (wide * 0.95, -0.12), (-wide * 0.95, -0.12)
    curve = [(wide * 0.84, top * 0.62), (wide * 0.45 + part, top * 0.94), (part, top), (part - wide * 0.45, top * 0.88)]
    return [low[0], *curve, (-wide * 0.84, top * 0.55), low[1]]


def _draw_extras(pen: Pen, features: Pen, traits: Traits) -> None:
    for name, draw_extra in _EXTRAS.items():
        if name in traits.extras:
            draw_extra(features if name in ("glasses", "pacifier") else pen, traits)


def _draw_glasses(pen: Pen, traits: Traits) -> None:
    frame = _CIRCLE * (0.23, 0.19)
    for side in (-1, 1):
        pen.line(np.add(frame, (side * 0.33, traits.eye_y + 0.02)), (50, 44, 48), 0.035)
        pen.line([(side * 0.56, traits.eye_y), (side * traits.half_width, traits.eye_y - 0.05)], (50, 44, 48), 0.035)
    pen.bow(0, traits.eye_y, 0.1, -0.04, (50, 44, 48), 0.035)


def _draw_hat(pen: Pen, traits: Traits) -> None:
    wide = traits.half_width + 0.14
    dome = bow_points(0, -0.55, wide, -0.8)
    pen.polygon(dome, mix(traits.clothes, BLACK, 0.15))
    pen.polygon([(-wide, -0.62), (wide, -0.62), (wide, -0.44), (-wide, -0.44)], mix(traits.clothes, WHITE, 0.2))


def _draw_bow(pen: Pen, traits: Traits) -> None:
    x, y = 0.42 * traits.half_width, -0.92
    for side in (-1, 1):
        pen.polygon([(x, y), (x + side * 0.22, y - 0.14), (x + side * 0.22, y + 0.14)], (226, 84, 120))
    pen.ellipse(x, y, 0.06, 0.06, (190, 50, 90))


def _draw_pacifier(pen: Pen, traits: Traits) -> None:
    pen.ellipse(0, 0.62, 0.2, 0.13, traits.clothes)
    pen.ellipse(0, 0.63, 0.08, 0.08, WHITE)


def _draw_pigtails(pen: Pen, traits: Traits) -> None:
    for side in (-1, 1):
        x = side * (traits.half_width + 0.22)
        pen.ellipse(x, 0.1, 0.16, 0.34, traits.hair)
        pen.ellipse(side * (traits.half_width + 0.1), -0.22, 0.07, 0.07, (226, 84, 120))


def _draw_bun(pen: Pen, traits: Traits) -> None:
    pen.ellipse(0, -1.2, 0.26, 0.2, mix(traits.hair, BLACK, 0.1))


_EXTRAS = {
    "pigtails": _draw_pigtails,
    "bun": _draw_bun,
    "bow": _draw_bow,
    "hat": _draw_hat,
    "glasses": _draw_glasses,
    "pacifier": _draw_pacifier,
}
