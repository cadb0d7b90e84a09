"""Where the facial components are: square boxes around eyes and mouth, from the five points of a face.

A box is (x0, y0, x1, y1) in pixels of an image that spans [0, R]; a box of the whole image is (0, 0, R, R).
"""

import numpy as np
import numpy.typing as npt

from daefr.settings.faces import CROP_SIDE

COMPONENTS = ("left_eye", "right_eye", "mouth")
"""In the order of a batch's boxes. The left eye is the one with the smaller x, as in GFP-GAN."""

EYE_SIDE = 80
MOUTH_SIDE = 120

Boxes = npt.NDArray[np.float32]


def component_boxes(landmarks: list[list[float]], resolution: int) -> dict[str, list[float]]:
    """Return the box of each component.

    An eye's box has its point in the middle, the mouth's the point halfway between its corners. At 512 pixels their
    sides are 80 and 120, which is what GFP-GAN's rule (the component's own extent, an eye's enlarged by 1.4) gives for
    an aligned face of FFHQ; they scale with the image. Boxes are not cut at its border.

    Args:
        landmarks: five (x, y) in pixels: left eye, right eye, nose, left and right corner of the mouth.
        resolution: R, the side of the square image.

    """
    left_eye, right_eye, _, left_corner, right_corner = np.asarray(landmarks, np.float64)
    eye, mouth = (side * resolution / CROP_SIDE for side in (EYE_SIDE, MOUTH_SIDE))
    squares = ((left_eye, eye), (right_eye, eye), ((left_corner + right_corner) / 2, mouth))
    boxes = [np.concatenate([centre - side / 2, centre + side / 2]).tolist() for centre, side in squares]
    return dict(zip(COMPONENTS, boxes, strict=True))


def flip_boxes(boxes: Boxes, resolution: int) -> Boxes:
    """Return the boxes (3, 4) of the mirrored image, in which the left eye is what the right one was."""
    right_eye, left_eye, mouth = boxes
    flipped = np.stack([left_eye, right_eye, mouth])
    flipped[:, [0, 2]] = resolution - flipped[:, [2, 0]]
    return flipped
