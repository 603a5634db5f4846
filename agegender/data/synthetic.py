"""Synthetic drawings of faces with known age and gender: a labelled set for the demo and the tests, without a download.

Age and gender show as in cartoons: a child's head is round with large, low eyes; wrinkles, grey and lost hair, bags and
drooping lids increase with age; hair length, lips, lashes, brows, jaw and beard depend on gender, hardly at all in small
children. Each sign varies between faces, may be missing, and may be hidden by hats, glasses and light, so that the task is
learnable but not trivial. The drawings say nothing about real faces.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from agegender.data.drawing import BLACK, Colour, Pen, Traits, draw, mix
from agegender.data.images import encode_jpeg
from agegender.schema import RACES

Pixels = npt.NDArray[np.uint8]

_OVERSAMPLING = 2
"""Factor of supersampling, which smooths the edges."""

_FIRST_STAMP = datetime(2001, 1, 1)
_STAMPS_PER_SEED = 10**8
_SEEDS_WITH_OWN_STAMPS = 2**20

_SKIN: tuple[Colour, ...] = ((245, 214, 189), (122, 80, 56), (240, 203, 163), (176, 121, 82), (208, 160, 120))
"""By race code."""
_LIGHT_HAIR_RACES = (0, 4)

_HAIR: tuple[Colour, ...] = ((38, 28, 24), (62, 40, 28), (116, 74, 42), (176, 128, 66), (212, 176, 110), (150, 68, 34))
_DARK_HAIRS = 2
_GREY: Colour = (216, 216, 220)
_IRIS: tuple[Colour, ...] = ((70, 46, 32), (96, 70, 40), (70, 110, 150), (80, 120, 86))
_LIPSTICK: tuple[Colour, ...] = ((200, 40, 60), (214, 84, 110), (160, 40, 70))
_FABRICS: tuple[Colour, ...] = (
    *((66, 98, 150), (168, 62, 70), (84, 136, 96), (212, 178, 76), (120, 90, 150), (70, 74, 84), (226, 222, 214)),
)

_AGES = np.arange(1, 101)
_AGE_WEIGHTS = 0.4 / 100 + 0.45 * np.exp(-0.5 * ((_AGES - 30) / 11) ** 2) / 27.6 + 0.15 * (_AGES <= 12) / 12
"""Young adults are most frequent, then children; every age to 100 occurs."""


def sample_name(index: int, seed: int) -> str:
    """The file name of one drawing, in UTKFace's format: ``AGE_GENDER_RACE_STAMP.jpg``.

    Args:
        index: number of the drawing in its sample, below 10**8.
        seed: of the sample. Stamps are unique for seeds from 0 to 2**20 - 1.
    """
    age_years, gender, race, _ = _subject(index, seed)
    time = _FIRST_STAMP + timedelta(milliseconds=seed % _SEEDS_WITH_OWN_STAMPS * _STAMPS_PER_SEED + index)
    return f"{age_years}_{gender}_{race}_{time:%Y%m%d%H%M%S}{time.microsecond // 1000:03d}.jpg"


def draw_sample(index: int, seed: int, size_px: int) -> tuple[str, bytes]:
    """One labelled drawing of a sample; depends only on the arguments.

    Args:
        index: number of the drawing in its sample, below 10**8.
        seed: names the sample.
        size_px: S, its side in pixels.

    Returns:
        ``sample_name`` and the JPEG file.
    """
    age_years, gender, race, face_seed = _subject(index, seed)
    return sample_name(index, seed), encode_jpeg(draw_face(age_years, gender, face_seed, size_px, race))


def draw_face(age_years: float, gender: int, seed: int, size_px: int, race: int | None = None) -> Pixels:
    """Draw one face.

    Args:
        age_years: 0-120.
        gender: index into ``schema.GENDERS``.
        seed: everything that age and gender leave open.
        size_px: S, its side in pixels.
        race: index into ``schema.RACES``, sets the skin tone; None: random by seed.

    Returns:
        uint8[S, S, 3].
    """
    rng = np.random.default_rng(seed % 2**64)
    race = int(rng.integers(len(RACES))) if race is None else race
    traits = _choose_traits(_Person.of(age_years, gender, rng), race, rng)
    side_px = size_px * _OVERSAMPLING
    image = _background(side_px, rng)
    centre_px = tuple(side_px * (0.5 + rng.normal(0, 0.035, 2) + (0.0, -0.02)))
    unit_px = side_px * 0.36 * float(rng.normal(1, 0.07))
    tilt_radians = math.radians(float(np.clip(rng.normal(0, 6), -18, 18)))
    draw(Pen(ImageDraw.Draw(image), (centre_px[0], centre_px[1]), unit_px, tilt_radians), traits, rng)
    return _add_light(np.asarray(image.reduce(_OVERSAMPLING)), rng)


@dataclass(frozen=True, slots=True)
class _Person:
    """Apparent age and gender of a face, which differ from the labels."""

    apparent_years: float
    female: bool
    childhood: float
    """1 at birth, 0 from 18."""
    ageing: float
    """0 to 35, 1 from 85."""
    gender_strength: float
    """How strongly gender shows: little in small children."""

    @classmethod
    def of(cls, age_years: float, gender: int, rng: np.random.Generator) -> "_Person":
        apparent_years = max(0.0, age_years * math.exp(rng.normal(0, 0.07)) + rng.normal(0, 0.6))
        childhood = float(np.clip(1 - apparent_years / 18, 0, 1))
        ageing = float(np.clip((apparent_years - 35) / 50, 0, 1.1))
        gender_strength = float(np.clip(apparent_years / 14, 0.3, 1)) * (0.35 if rng.random() < 0.06 else 1.0)
        return cls(apparent_years, bool(gender), childhood, ageing, gender_strength)

    def draw_bool(self, rng: np.random.Generator, female: float, male: float) -> bool:
        """A random draw with the gender's probability, moved towards the mean of both if gender shows little."""
        mean, half = (female + male) / 2, (female - male) / 2
        return bool(rng.random() < mean + (half if self.female else -half) * self.gender_strength)

    def typical(self, female: float, male: float) -> float:
        """The gender's typical value, moved towards the mean in the same way."""
        mean, half = (female + male) / 2, (female - male) / 2
        return mean + (half if self.female else -half) * self.gender_strength


def _subject(index: int, seed: int) -> tuple[int, int, int, int]:
    """Age, gender, race and the seed of the face."""
    rng = np.random.default_rng([seed % 2**64, index])
    age_years = int(rng.choice(_AGES, p=_AGE_WEIGHTS / _AGE_WEIGHTS.sum()))
    return age_years, int(rng.integers(2)), int(rng.integers(len(RACES))), int(rng.integers(2**63))


def _choose_traits(person: _Person, race: int, rng: np.random.Generator) -> Traits:
    child, ageing, adult = person.childhood, person.ageing, person.apparent_years >= 16
    skin = mix(_SKIN[race], BLACK if rng.random() < 0.5 else (255, 240, 225), float(rng.uniform(0, 0.16)))
    hair, brows = _choose_hair_colours(person, race, rng)
    style, hairline_y = _choose_hair_style(person, rng)
    painted = adult and person.draw_bool(rng, 0.8, 0.02)
    lips = _pick(_LIPSTICK, rng) if painted else mix(skin, (176, 60, 60), float(rng.uniform(0.3, 0.5)))
    return Traits(
        skin=skin,
        hair=hair,
        brows=brows,
        iris=_pick(_IRIS if race in _LIGHT_HAIR_RACES else _IRIS[:2], rng),
        lips=lips,
        clothes=_pick(_FABRICS, rng),
        half_width=person.typical(0.77, 0.82) + 0.17 * child + rng.normal(0, 0.03),
        jaw=float(np.clip(person.typical(0.25, 0.65) + 0.25 * ageing - 0.1 * child + rng.normal(0, 0.12), 0, 1)),
        eye_y=-0.1 + 0.24 * child + rng.normal(0, 0.02),
        eye_size=person.typical(0.155, 0.14) + 0.09 * child - 0.035 * ageing + rng.normal(0, 0.008),
        lid=float(np.clip(0.12 - 0.15 * child + 0.25 * ageing + rng.normal(0, 0.04), 0, 0.45)),
        brow_width=max(0.03, person.typical(0.045, 0.085) * (1 - 0.4 * child) + rng.normal(0, 0.012)),
        nose_length=max(0.06, 0.36 * (1 - 0.8 * child) + 0.06 * ageing + rng.normal(0, 0.03)),
        nose_width=person.typical(0.1, 0.125) * (1 - 0.25 * child) + 0.03 * ageing + rng.normal(0, 0.01),
        mouth_width=0.27 - 0.11 * child + rng.normal(0, 0.02),
        lip_height=max(0.012, person.typical(0.06, 0.035) * (1 - 0.55 * ageing) + rng.normal(0, 0.008)),
        smile=float(rng.uniform(-0.15, 1.0)),
        shoulders=person.typical(1.3, 1.6) - 0.5 * child + rng.normal(0, 0.06),
        hair_style=style,
        hair_length=_choose_hair_length(person, style, rng),
        hairline_y=hairline_y,
        beard=_choose_beard(person, rng),
        lashes=person.apparent_years > 3 and person.draw_bool(rng, 0.8, 0.08),
        blush=float(rng.uniform(0.3, 1)) if rng.random() < 0.15 + 0.6 * child else 0.0,
        forehead_lines=min(4, int(rng.poisson(3.2 * ageing))),
        crows_feet=min(4, int(rng.poisson(3.0 * ageing))),
        folds=float(np.clip(1.1 * ageing + rng.normal(0, 0.12), 0, 1)) if person.apparent_years > 30 else 0.0,
        bags=float(np.clip(1.2 * ageing + rng.normal(0, 0.2), 0, 1)) if person.apparent_years > 30 else 0.0,
        spots=int(rng.poisson(7 * max(0.0, ageing - 0.6))),
        freckles=int(rng.integers(5, 12)) if race == 0 and rng.random() < 0.05 + 0.2 * child else 0,
        extras=_choose_extras(person, style, rng),
        turn=float(rng.normal(0, 0.06)),
    )


def _choose_hair_colours(person: _Person, race: int, rng: np.random.Generator) -> tuple[Colour, Colour]:
    natural = _pick(_HAIR if race in _LIGHT_HAIR_RACES else _HAIR[:_DARK_HAIRS], rng)
    grey = float(np.clip((person.apparent_years - 38 + rng.normal(0, 8)) / 32, 0, 1))
    dyed = person.apparent_years > 30 and person.draw_bool(rng, 0.25, 0.06)
    return mix(natural, _GREY, 0.0 if dyed else grey), mix(natural, _GREY, 0.7 * grey)


def _choose_hair_style(person: _Person, rng: np.random.Generator) -> tuple[str, float]:
    """The style and how high the hair begins."""
    years = person.apparent_years
    if years < 2.5 and rng.random() < 0.75 - 0.2 * years:
        return ("tuft" if rng.random() < 0.7 else "bald"), -0.9
    loss = float(np.clip((years - 25) / 60 + rng.normal(0, 0.3), 0, 1)) * person.typical(0.15, 1.0)
    if loss > 0.55:
        return ("bald" if rng.random() < 0.25 else "crown"), -1.0
    hairline_y = -0.6 - 0.42 * loss + float(rng.normal(0, 0.03))
    shares = (
        person.typical(0.15, 0.5),
        0.2 + 0.2 * person.childhood,
        0.25,
        person.typical(0.25, 0.1) + 0.15 * person.ageing,
    )
    style = rng.choice(("cap", "fringe", "parted", "curls"), p=np.array(shares) / sum(shares))
    return str(style), hairline_y


def _choose_hair_length(person: _Person, style: str, rng: np.random.Generator) -> float:
    if style in ("tuft", "bald", "crown") or person.apparent_years < 1.5:
        return 0.0
    long = person.draw_bool(rng, 0.9 - 0.3 * person.ageing, 0.05)
    return float(rng.uniform(0.45, 1.7)) if long else 0.0


def _choose_beard(person: _Person, rng: np.random.Generator) -> str:
    if person.female or person.apparent_years < 17 or rng.random() < 0.3:
        return "none"
    return str(rng.choice(("stubble", "moustache", "full"), p=(0.3, 0.25, 0.45)))


def _choose_extras(person: _Person, style: str, rng: np.random.Generator) -> frozenset[str]:
    years = person.apparent_years
    haired = style not in ("tuft", "bald", "crown")
    chances = {
        "glasses": 0.05 + 0.4 * person.ageing if years > 5 else 0.0,
        "hat": 0.07,
        "bow": person.typical(0.3, 0.0) if years < 9 else 0.0,
        "pigtails": person.typical(0.4, 0.0) if haired and 3 < years < 12 else 0.0,
        "earrings": person.typical(0.4, 0.03) if years > 10 else 0.0,
        "bun": person.typical(0.08 + 0.2 * person.ageing, 0.01) if haired and years > 12 else 0.0,
        "pacifier": 0.25 if years < 2.5 else 0.0,
    }
    extras = frozenset(name for name, chance in chances.items() if rng.random() < chance)
    return extras - {"bow", "bun"} if "hat" in extras else extras


def _pick(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _background(side_px: int, rng: np.random.Generator) -> Image.Image:
    """A wall with large patches of other tones."""
    base = rng.uniform(60, 235) + rng.normal(0, 18, 3)
    image = Image.new("RGB", (side_px, side_px), tuple(base.clip(0, 255).astype(int).tolist()))
    canvas = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        red, green, blue = np.clip(base + rng.normal(0, 30) + rng.normal(0, 26, 3), 0, 255).astype(int).tolist()
        x, y = rng.uniform(-0.2, 1.2, 2) * side_px
        wide, high = rng.uniform(0.1, 0.6, 2) * side_px
        canvas.ellipse((x - wide, y - high, x + wide, y + high), fill=(red, green, blue))
    return image


def _add_light(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Add directional light, brightness and sensor noise."""
    side = pixels.shape[0]
    along = np.linspace(-1, 1, side, dtype=np.float32)
    from_side, from_above = rng.normal(0, 0.17, 2).astype(np.float32)
    light = np.float32(rng.normal(1.0, 0.1)) * (1 + from_side * along[None, :] + from_above * along[:, None])
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 7))
    lit: Pixels = np.clip(pixels * light[..., None] + noise, 0, 255).astype(np.uint8)
    return lit
