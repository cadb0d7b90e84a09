"""What a portrait shows: every choice is sampled here, once, from the seed."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from daefr.portraits.canvas import Colour

Option = TypeVar("Option")
HairStyle = Literal["bald", "buzz", "short", "swept", "fringe", "bob", "long", "wavy", "curly", "afro", "bun"]
Glasses = Literal["none", "round", "square"]
Neckline = Literal["crew", "v", "collar"]
Backdrop = Literal["gradient", "bokeh", "window", "wall"]

# Light to dark, display RGB in [0, 1]; a skin tone is a point between two neighbours.
SKIN_TONES: tuple[Colour, ...] = (
    (0.97, 0.83, 0.76),
    (0.93, 0.76, 0.66),
    (0.88, 0.69, 0.56),
    (0.80, 0.59, 0.45),
    (0.68, 0.47, 0.35),
    (0.54, 0.36, 0.27),
    (0.42, 0.28, 0.21),
)
DARK_HAIR: tuple[Colour, ...] = ((0.09, 0.075, 0.07), (0.14, 0.10, 0.08), (0.22, 0.15, 0.11))
FAIR_HAIR: tuple[Colour, ...] = (
    (0.30, 0.20, 0.13),
    (0.42, 0.28, 0.17),
    (0.62, 0.47, 0.28),
    (0.80, 0.66, 0.44),
    (0.52, 0.23, 0.11),
)
GREY_HAIR: tuple[Colour, ...] = ((0.55, 0.54, 0.53), (0.80, 0.79, 0.77))
BROWN_EYES: tuple[Colour, ...] = ((0.22, 0.13, 0.08), (0.33, 0.20, 0.10))
LIGHT_EYES: tuple[Colour, ...] = ((0.42, 0.32, 0.14), (0.34, 0.44, 0.30), (0.32, 0.47, 0.60), (0.46, 0.52, 0.55))
HAIR_STYLES: tuple[HairStyle, ...] = (
    "bald", "buzz", "short", "swept", "fringe", "bob", "long", "wavy", "curly", "afro", "bun",
)  # fmt: skip
NECKLINES: tuple[Neckline, ...] = ("crew", "v", "collar")
BACKDROPS: tuple[Backdrop, ...] = ("gradient", "bokeh", "window", "wall")
LONG_STYLES = frozenset({"bob", "long", "wavy", "bun"})


@dataclass(frozen=True)
class Traits:
    """All that decides a portrait. Angles are in radians, lengths in face units, colours RGB in [0, 1].

    A field without a unit is a strength around 0 to 1, or a factor around 1.
    """

    texture_seed: int

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: tuple[float, float]

    face_width: float
    jaw: float
    chin: float
    age: float
    skin: Colour
    freckles: int
    blush: float

    hair_style: HairStyle
    hair_colour: Colour
    hair_part: float
    hair_volume: float
    hair_wave: float

    eye_colour: Colour
    eye_spacing: float
    eye_size: float
    eye_opening: float
    eye_tilt: float
    gaze: tuple[float, float]
    brow_weight: float
    brow_lift: float
    brow_arch: float
    makeup: float

    nose_width: float
    nose_length: float
    lip_fullness: float
    lip_colour: Colour
    mouth_width: float
    mouth_open: float
    smile: float

    beard: float
    moustache: float
    glasses: Glasses
    frame_colour: Colour

    light_azimuth: float
    light_elevation: float
    ambient: float
    warmth: float

    neckline: Neckline
    clothing: Colour
    backdrop: Backdrop
    backdrop_near: Colour
    backdrop_far: Colour


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def _vary(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """`colour` with its brightness and, less, its hue moved at random."""
    values = np.array(colour) * rng.uniform(1 - spread, 1 + spread) * rng.uniform(1 - spread / 4, 1 + spread / 4, 3)
    red, green, blue = (float(v) for v in np.clip(values, 0.02, 1.0))
    return (red, green, blue)


def _pick(rng: np.random.Generator, options: tuple[Option, ...]) -> Option:
    return options[int(rng.integers(len(options)))]


def _any_colour(rng: np.random.Generator, saturation: float) -> Colour:
    grey = float(rng.uniform(0.12, 0.85))
    red, green, blue = (float(v) for v in rng.uniform(0.05, 0.95, 3))
    return _mix((grey, grey, grey), (red, green, blue), saturation)


def _normal(rng: np.random.Generator, deviation: float, limit: float) -> float:
    return float(np.clip(rng.normal(0, deviation), -limit, limit))


def _hair_colour(rng: np.random.Generator, tone: float, age: float) -> Colour:
    """Fair hair only with the lighter skin tones (`tone` from 0, light, to 1), grey with age."""
    natural = _pick(rng, FAIR_HAIR if rng.random() < 0.7 - tone else DARK_HAIR)
    greying = float(np.clip((age - 0.6) * 2.5 * rng.uniform(0, 1.5), 0, 1))
    return _vary(rng, _mix(natural, _pick(rng, GREY_HAIR), greying), 0.15)


def sample_traits(seed: int) -> Traits:
    """The traits of portrait `seed`, a non-negative integer. Equal seeds give equal traits."""
    rng = np.random.default_rng(seed)
    # The part of the look that makes some traits likely together: long hair and make-up, or short hair and a beard.
    style = _pick(rng, HAIR_STYLES)
    feminine = style in LONG_STYLES or (style in {"curly", "afro", "fringe"} and rng.random() < 0.5)
    bearded = not feminine and rng.random() < 0.5
    made_up = float(rng.uniform(0, 1)) if feminine else 0.0
    age = float(rng.uniform(0, 1)) ** 1.3

    tone = float(rng.uniform(0, 1))
    step = tone * (len(SKIN_TONES) - 1)
    below = min(int(step), len(SKIN_TONES) - 2)
    skin = _vary(rng, _mix(SKIN_TONES[below], SKIN_TONES[below + 1], step - below), 0.05)
    bare_lips: Colour = (skin[0] * 0.86, skin[1] * 0.66, skin[2] * 0.68)
    lipstick = _vary(rng, _pick(rng, ((0.72, 0.16, 0.20), (0.62, 0.22, 0.30), (0.80, 0.38, 0.36))), 0.15)

    smile = float(np.clip(rng.normal(0.45, 0.4), -0.25, 1.1))
    opened = float(rng.uniform(0.15, 1)) if rng.random() < 0.3 + 0.4 * smile else 0.0
    return Traits(
        texture_seed=int(rng.integers(2**31)),
        yaw=_normal(rng, 0.27, 0.5),
        pitch=_normal(rng, 0.10, 0.22),
        roll=_normal(rng, 0.03, 0.08),
        zoom=float(np.exp(_normal(rng, 0.02, 0.05))),
        shift=(_normal(rng, 3, 7), _normal(rng, 3, 7)),
        face_width=float(rng.uniform(0.90, 1.0) if feminine else rng.uniform(0.93, 1.06)),
        jaw=float(rng.uniform(-0.6, 0.4) if feminine else rng.uniform(-0.2, 1.0)),
        chin=float(rng.uniform(-10, 12)),
        age=age,
        skin=skin,
        freckles=int(rng.uniform(40, 260)) if tone < 0.45 and rng.random() < 0.35 else int(rng.uniform(0, 14)),
        blush=float(rng.uniform(0.2, 1)),
        hair_style=style,
        hair_colour=_hair_colour(rng, tone, age),
        hair_part=float(rng.uniform(-60, 60)),
        hair_volume=float(rng.uniform(-4, 16)),
        hair_wave=float(rng.uniform(0, 1)),
        eye_colour=_vary(rng, _pick(rng, LIGHT_EYES if rng.random() < 0.75 - tone else BROWN_EYES), 0.2),
        eye_spacing=float(rng.uniform(-4, 4)),
        eye_size=float(rng.uniform(0.92, 1.1)),
        eye_opening=float(rng.uniform(0.72, 1.2)) - 0.12 * max(smile, 0),
        eye_tilt=float(rng.uniform(-0.04, 0.13)),
        gaze=(_normal(rng, 1.5, 3.5), _normal(rng, 0.6, 1.5)),
        brow_weight=float(rng.uniform(0.6, 1.0) if feminine else rng.uniform(0.85, 1.5)),
        brow_lift=float(rng.uniform(-5, 8)),
        brow_arch=float(rng.uniform(2, 13)),
        makeup=made_up,
        nose_width=float(rng.uniform(0.84, 1.05) if feminine else rng.uniform(0.92, 1.25)),
        nose_length=float(rng.uniform(-5, 5)),
        lip_fullness=float(rng.uniform(0.75, 1.35)) * (1.08 if feminine else 0.92),
        lip_colour=_mix(_vary(rng, bare_lips, 0.08), lipstick, made_up**2 * 0.9),
        mouth_width=float(rng.uniform(-4, 4)),
        mouth_open=opened,
        smile=smile,
        beard=float(rng.uniform(0.15, 1)) if bearded else 0.0,
        moustache=float(rng.uniform(0.2, 1)) if bearded and rng.random() < 0.85 else 0.0,
        glasses=_pick(rng, ("round", "square")) if rng.random() < 0.2 else "none",
        frame_colour=_pick(rng, ((0.06, 0.06, 0.07), (0.28, 0.17, 0.10), (0.62, 0.52, 0.34), (0.45, 0.10, 0.12))),
        light_azimuth=float(rng.uniform(-1.15, 1.15)),
        light_elevation=float(rng.uniform(0.15, 0.95)),
        ambient=float(rng.uniform(0.25, 0.55)),
        warmth=float(rng.uniform(-1, 1)),
        neckline=_pick(rng, NECKLINES),
        clothing=_any_colour(rng, 0.45),
        backdrop=_pick(rng, BACKDROPS),
        backdrop_near=_any_colour(rng, 0.3),
        backdrop_far=_any_colour(rng, 0.3),
    )
