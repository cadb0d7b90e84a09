"""Measures of restored faces: with ground truth PSNR, SSIM, LPIPS, IDA, LMD; without FID and NIQE.

Under the paper's protocol they are computed as the published tables were, quirks included; under the standard one the
images reach every network in RGB, and in the range that the network was trained on.
"""
