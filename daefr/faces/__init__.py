"""Faces of raw photographs: found by a detector, aligned to the five-point template, filtered.

Images are (H, W, 3) uint8 RGB. Points are (x, y) in pixels of an image that spans [0, W] x [0, H], so that the middle
of its first pixel is (0.5, 0.5). The five landmarks are left eye, right eye, nose, left and right corner of the mouth;
left is the smaller x of an upright face.
"""
