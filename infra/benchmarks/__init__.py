"""What training, restoring and samples cost, beside the way of the public reference.

`training` runs each side of a case in a process of its own (`worker`) and alternates the two (`measure`);
`reference_way` computes the network as the reference does. `data` measures what samples cost to make, to keep and to
read, `loader` whether training waits for them.
"""
