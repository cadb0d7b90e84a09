"""What is wrong with a picture."""


class ImageError(ValueError):
    """An image that cannot be read or restored. Its text is one sentence: why not."""
