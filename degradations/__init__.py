"""What spoils a face: named recipes, and the steps they are made of.

Stands alone: numpy, scipy, OpenCV, pydantic. The steps as albumentations transforms are in `degradations.transforms`,
which only those import who use them: albumentations takes seconds to import, and brings in torch where it is installed.
"""

import os

from degradations.chain import Degraded, degrade, replay
from degradations.errors import DegradationError, UnknownRecipeError
from degradations.face import Face
from degradations.jpeg import decode_image
from degradations.recipes import RECIPES, Recipe, get_recipe
from degradations.resample import enlarge

# Keeps `import albumentations` from asking the network for a newer version in every process.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__all__ = [
    "RECIPES",
    "DegradationError",
    "Degraded",
    "Face",
    "Recipe",
    "UnknownRecipeError",
    "decode_image",
    "degrade",
    "enlarge",
    "get_recipe",
    "replay",
]
