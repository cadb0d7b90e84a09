"""Benchmarks of training, restoration and data, compared with an imitation of the public reference.

`training` runs each side of a case in a separate process (`worker`) and alternates between them (`measure`);
`reference` imitates the computations of the reference. `data` measures making, storing and reading samples, and
`loader` whether training waits for data.
"""
