"""What a training step and a restoration cost, beside the same network run the way of the public reference.

`cases` says what is measured, `reference_way` how the reference computes it, `worker` runs and watches one side in a
process of its own, `measure` alternates the two, and `report` prints. `data` measures samples instead: what they cost
to make, to keep and to read.
"""
