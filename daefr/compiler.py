"""What torch.compile needs beside PyTorch: a C compiler and Python's headers on a GPU, a C++ compiler on a CPU."""

import os
import shutil
import sysconfig
from pathlib import Path


def missing_compiler(device: str) -> str | None:
    """Return what this machine lacks to compile for `device`, in words; None when it lacks nothing.

    Triton builds its launcher for a GPU with the C compiler that CC names, or else gcc or clang; the code for a CPU is
    built with the C++ compiler that CXX names, or else g++.
    """
    variable, programs, name = ("CC", ("gcc", "clang"), "C") if device in ("cuda", "xpu") else ("CXX", ("g++",), "C++")
    chosen = os.environ.get(variable)
    if not any(shutil.which(program) for program in ([chosen] if chosen else programs)):
        tried = f"{variable}={chosen} is not found" if chosen else f"neither {variable} nor {' nor '.join(programs)}"
        return f"no {name} compiler ({tried})"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return f"no {headers / 'Python.h'} (the package python3-dev has it)"
    return None
