"""Reading a model file from anywhere: tensors come in, code does not run, and what is damaged is refused.

Files hold more than weights: counters, options, the states of callbacks, of classes that are not installed here. Each
object that is neither a tensor nor a plain container becomes a placeholder, which nothing is called for.
"""

import pickle
import reprlib
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from daefr.errors import UserError

ZIP_START = b"PK\x03\x04"
PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
WRAPPERS = ("module", "_orig_mod", "_forward_module")
"""Parts of names that DistributedDataParallel, torch.compile and Lightning's Fabric add."""

ATTACKS = ("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib")
BUILTIN_ATTACKS = ("eval", "exec", "compile", "open", "__import__")
"""No checkpoint needs these: a file that asks for one is refused rather than read without it."""


def read_tensors(path: Path, marks: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the state dict in a file of PyTorch or safetensors, whatever wraps it, on the CPU.

    Of several in a file, that with the most tensors is taken, and of equally many an average (`params_ema`). Tensors
    are mapped from the file rather than read into memory where it allows that.

    Args:
        path: the file; its content decides, not its suffix.
        marks: what some names of the wanted one contain; it is preferred, and what precedes them is removed if every
            name begins so, such as `model.`.

    Raises:
        UserError: when the file is missing, damaged, made to run code, or holds no plain tensors.

    """
    found = _load(path)
    if not found:
        raise UserError(f"{path} holds no model: there are no named tensors in it")
    tensors = max(found, key=lambda each: _is_marked(each, marks))  # the first of those
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable() or not _is_plain(tensor):
            raise UserError(f"{path} cannot be used: {reprlib.repr(name)} in it is no plain tensor")
    named = {_without_wrappers(name): tensor.detach() for name, tensor in tensors.items()}
    return _without_prefix(named, marks)


def _load(path: Path) -> list[dict[Any, Tensor]]:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if start[8:] == b"{":
            return [safetensors.torch.load_file(path)]
        zipped = start.startswith(ZIP_START)
        if zipped:
            _check_archive(path)
        elif tarfile.is_tarfile(path):
            raise tarfile.TarError("the format of 2016, which PyTorch reads by unpacking it")
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, "cpu", RESTRICTED, weights_only=False, mmap=zipped)  # restricted
        return _state_dicts(content)
    except _CodeError as error:
        raise UserError(f"{path} is refused: it would run code, as it asks for '{error}'") from None
    except Exception:  # a damaged or hostile file makes the unpickler raise anything
        raise UserError(f"{path} is no checkpoint of PyTorch or safetensors, or it is damaged or cut short") from None


def _check_archive(path: Path) -> None:
    """Compare the checksums, as mapping the file would not."""
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise _CodeError("TorchScript")
    with zipfile.ZipFile(path) as archive:
        # PyTorch never compresses; an archive that does might unpack to any size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed")
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(damaged)


class _CodeError(Exception):
    """A file asks for what has no business in a checkpoint; the text names it."""


class _Sealed(type):
    """Classes that a file can name but not change."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError(f"{cls.__name__} is sealed")


class _Placeholder(dict[Any, Any], metaclass=_Sealed):
    """Stands for any object but a tensor; what it is given by name is kept, as there may be tensors in it."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key
    __eq__ = object.__eq__

    def __init__(self, *arguments: object, **_: object) -> None:
        for argument in arguments:
            self.__setstate__(argument)

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)

    def __call__(self, *_: object, **__: object) -> "_Placeholder":
        return _Placeholder()

    def append(self, _: object) -> None:
        """Take an item as a list does."""

    extend = add = append


class _RebuiltTensor(metaclass=_Sealed):
    def __new__(cls, storage: Any, offset: int, size: Any, stride: Any, *_: object) -> Tensor:  # type: ignore[misc]
        tensor: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
        return tensor


class _RebuiltParameter(metaclass=_Sealed):
    def __new__(cls, data: Tensor, *_: object) -> Tensor:  # type: ignore[misc]
        return data


class _RebuiltSubclass(metaclass=_Sealed):
    def __new__(cls, rebuild: Any, _: object, arguments: Any, *__: object) -> Tensor:  # type: ignore[misc]
        rebuilt: Tensor = rebuild(*arguments)
        return rebuilt


class _NestedClass(metaclass=_Sealed):
    """What `getattr` of a placeholder gives: older pickles find a class within a class so."""

    def __new__(cls, *_: object) -> Any:
        return _Placeholder


CALLED = {
    "torch._utils._rebuild_tensor": _RebuiltTensor,
    "torch._utils._rebuild_tensor_v2": _RebuiltTensor,
    "torch._utils._rebuild_parameter": _RebuiltParameter,
    "torch._utils._rebuild_parameter_with_state": _RebuiltParameter,
    "torch._tensor._rebuild_from_type_v2": _RebuiltSubclass,
    "builtins.getattr": _NestedClass,
    "__builtin__.getattr": _NestedClass,
}
"""All that a file can have called, by the name it uses; everything else that it names is a placeholder."""


class _Unpickler(pickle.Unpickler):
    """Imports nothing. `torch.load` adds the types of storages, which are numbers."""

    def find_class(self, module: str, name: str) -> Any:
        builtin = module in ("builtins", "__builtin__") and name in BUILTIN_ATTACKS
        if builtin or module.partition(".")[0] in ATTACKS:
            raise _CodeError(f"{module}.{name}")
        # a class of its own for each name, as Lightning files the states of callbacks by class
        return CALLED.get(f"{module}.{name}") or self._placeholders.setdefault((module, name), _new_placeholder())

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._placeholders: dict[tuple[str, str], type[_Placeholder]] = {}


RESTRICTED = SimpleNamespace(
    __name__="pickle", Unpickler=_Unpickler, load=lambda *arguments, **options: _Unpickler(*arguments, **options).load()
)


def _new_placeholder() -> type[_Placeholder]:
    class Named(_Placeholder):
        __slots__ = ()

    return Named


def _state_dicts(content: object) -> list[dict[Any, Tensor]]:
    """Return every mapping of names to tensors in a file, the one with the most tensors first."""
    found: list[tuple[int, bool, dict[Any, Tensor]]] = []
    seen: set[int] = set()
    waiting: list[tuple[bool, object]] = [(False, content)]
    while waiting:
        averaged, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, (list, tuple)):
            waiting += ((averaged, each) for each in node)
        elif isinstance(node, dict):
            tensors = dict(_of_module(node, seen)) if "_modules" in node else _tensors(node)
            found += [(len(tensors), averaged, tensors)] if tensors else []
            waiting += ((averaged or (isinstance(key, str) and "ema" in key), each) for key, each in node.items())
    return [tensors for _, _, tensors in sorted(found, key=lambda each: each[:2], reverse=True)]


def _tensors(node: dict[Any, Any]) -> dict[Any, Tensor]:
    return {name: value for name, value in node.items() if isinstance(value, Tensor)}


def _of_module(module: dict[Any, Any], seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module that was stored as an object, by the names of its state dict."""
    for kind in ("_parameters", "_buffers"):
        yield from _tensors(module.get(kind) or {}).items()
    for name, inner in module["_modules"].items():
        if isinstance(inner, dict) and "_modules" in inner and id(inner) not in seen:
            seen.add(id(inner))
            yield from ((f"{name}.{each}", tensor) for each, tensor in _of_module(inner, seen))


def _is_marked(tensors: dict[Any, Tensor], marks: Sequence[str]) -> bool:
    return any(mark in str(name) for mark in marks for name in tensors)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _without_prefix(tensors: dict[str, Tensor], marks: Sequence[str]) -> dict[str, Tensor]:
    for mark in marks:
        prefix = next((name.partition(mark)[0] for name in tensors if f".{mark}" in name), "")
        if prefix and all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _is_plain(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in PRECISIONS
        # a few stored numbers could pose as many
        and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()
    )
