"""The DAEFR network (paper section 3): two associated encoders, their fusion, a code predictor and a codebook.

Shapes are written with: B images, C channels, H and W sides, N = H * W latent tokens (row by row), K codes.
Images are float32 RGB in [-1, 1], shape (B, 3, H, W), unless a docstring says otherwise.
"""
