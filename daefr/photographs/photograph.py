"""A picture that somebody brought, and what is seen of it."""

from dataclasses import dataclass
from functools import cached_property

from daefr.images import Image
from daefr.photographs.colours import Colours
from daefr.photographs.deep import Channel, Pixels, to_8_bit
from daefr.photographs.hidden import fade_hidden, fill_hidden


@dataclass(frozen=True)
class Photograph:
    """A photograph, upright."""

    pixels: Pixels
    """(H, W, 3) uint8 or uint16 RGB, in the colours of `profile`; gray has three equal channels."""
    alpha: Channel | None = None
    """(H, W) of the same type: how opaque each pixel is, if the file tells."""
    profile: bytes | None = None
    """The ICC profile; None is sRGB."""
    one_channel: bool = False
    """Stored with one channel of gray."""
    format: str = ""
    """Pillow's name of the file's format, such as "JPEG"; empty where there was no file."""
    page_count: int = 1
    """How many pages or frames the file has."""
    further: tuple["Photograph", ...] = ()
    """The pages or frames after this one, where all were asked for."""

    @cached_property
    def colours(self) -> Colours:
        """The way between its colours and sRGB."""
        return Colours(self.profile, is_gray=self.one_channel)

    @cached_property
    def seen(self) -> Pixels:
        """`pixels` as they are seen: what is transparent takes the colours around it, the more so the less it shows.

        So nothing depends on what is stored where nothing shows.
        """
        return self.pixels if self.alpha is None else fade_hidden(self.pixels, self.alpha)

    @cached_property
    def filled(self) -> Pixels:
        """`pixels` but for those of which nothing shows, which take the colours around them."""
        return self.pixels if self.alpha is None else fill_hidden(self.pixels, self.alpha)

    @cached_property
    def srgb(self) -> Image:
        """What is seen, (H, W, 3) uint8 RGB of sRGB: what detectors, crops and measures work on."""
        return self.colours.to_srgb(to_8_bit(self.seen))

    @property
    def pixel_count(self) -> int:
        """How many pixels it has, with those of `further` pages."""
        return sum(page.pixels.shape[0] * page.pixels.shape[1] for page in (self, *self.further))
