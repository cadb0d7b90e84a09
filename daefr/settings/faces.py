"""Which faces of a photograph are worth training on: by score, size, place, pose and sharpness."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from daefr.settings.base import Settings

CROP_SIDE = 512
"""Side in pixels of the largest crop, and of the crops that the template and the sizes of components are stated for."""

MIN_FACE = 16
"""Pixels of the smallest face that is looked for, unless another is asked for: about the smallest that is found."""


class FaceFilters(Settings):
    """What a face must be like. A reason's part before the colon is what it is counted under."""

    min_score: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.9, description="Lowest detector confidence of a face that is used, from 0.5 to 1."
    )
    min_size: PositiveInt | None = Field(
        None,
        description="Smallest side, in pixels of the photograph, of the square that becomes a crop. By default, the "
        "configured resolution, so that no crop is enlarged.",
    )
    min_face: PositiveInt | None = Field(
        None,
        description="Smallest face that is looked for, by the longer side of its box in pixels of the photograph; the "
        "larger, the faster. By default, an eighth of the smallest crop that is used.",
    )
    max_outside: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="Largest fraction of a crop, from 0 to 1, that may lie outside the photograph and is filled by "
        "mirroring it.",
    )
    max_turn: Annotated[float, Field(gt=0, le=180)] = Field(
        45.0,
        description="Largest angle, in degrees, by which a face may look away from the camera; 180 turns the filter "
        "off.",
    )
    min_sharpness: NonNegativeFloat = Field(
        0.1,
        description="Lowest sharpness of a crop (daefr.faces.quality.sharpness); FFHQ has 0.2 to 0.5 at 512 pixels; 0 "
        "turns the filter off.",
    )

    def smallest_face(self, resolution: int) -> int:
        """Return how small the faces are, in pixels, that are looked for to make crops of that resolution."""
        return self.min_face or max(MIN_FACE, (self.min_size or resolution) // 8)

    def against_face(self, score: float, size: float, out: float, turned: float, resolution: int) -> str | None:
        """Return why a face is not wanted, as far as can be told before its crop is cut; None if it is."""
        wanted = self.min_size or resolution
        if score < self.min_score:
            return f"low score: {score:.2f}, where {self.min_score:g} is wanted"
        if turned > self.max_turn:
            return f"turned away: {turned:.0f} degrees, where {self.max_turn:g} are allowed"
        if size < wanted:
            return f"too small: {size:.0f} pixels, where {wanted} are wanted"
        if out > self.max_outside:
            return f"cut off: {out:.0%} of the crop outside, where {self.max_outside:.0%} are allowed"
        return None

    def against_crop(self, sharp: float) -> str | None:
        """Return why a crop of that sharpness is not wanted; None if it is."""
        if sharp < self.min_sharpness:
            return f"blurred: sharpness {sharp:.2f}, where {self.min_sharpness:g} is wanted"
        return None
