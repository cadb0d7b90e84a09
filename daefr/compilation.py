"""Compiling the parts of a network with torch.compile, such that none of them silently stays uncompiled."""

import types
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch._dynamo
from torch import nn

BACKEND = "inductor"
_numbers = count()


def compile_forward(module: nn.Module) -> Callable[..., Any]:
    """Return the compiled `forward` of a module.

    torch.compile counts recompilations per code object, and computes without compilation, with a warning at most, once
    there are more than `torch._dynamo.config.recompile_limit` (8). All modules of a class share the code of their
    `forward`, so that a network of more than 8 of them always reaches the limit. Here each module gets a code object
    of its own, with a name of its own, by which torch.compile remembers which sizes have varied.

    A module that still reaches the limit, or that cannot be compiled as one graph, raises an error (`fullgraph`).
    """
    # DistributedDataParallel exchanges gradients between these parts; splitting them once more only hinders fusion
    torch._dynamo.config.optimize_ddp = False
    forward = type(module).forward
    name = f"{forward.__name__}_{next(_numbers)}_of_{type(module).__name__}"
    own = types.FunctionType(
        forward.__code__.replace(co_name=name),
        forward.__globals__,
        name,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    compiled: Callable[..., Any] = torch.compile(types.MethodType(own, module), fullgraph=True, backend=BACKEND)
    return compiled
