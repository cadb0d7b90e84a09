"""Files that others publish under a fixed name: weights and statistics."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from daefr.errors import UserError


@dataclass(frozen=True)
class Published:
    """Where a file is published, and how its sha256 digest begins; without a known digest it is not downloaded."""

    name: str
    url: str
    sha256: str | None

    def find(self, folder: Path | None = None) -> Path:
        """Return where the file is: in `folder`, or else in torch's cache, downloaded and checked if need be.

        Raises `UserError` when it is in neither and cannot be had.
        """
        if folder is not None and (folder / self.name).is_file():
            return folder / self.name
        cached = Path(torch.hub.get_dir()) / "checkpoints" / self.name
        if not cached.is_file():
            missing = self.name if folder is None else f"{self.name}, which is not in {folder},"
            if self.sha256 is None:
                raise UserError(f"{missing} has to be downloaded by hand, from {self.url}")
            cached.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.url, str(cached), hash_prefix=self.sha256, progress=False)
            except (OSError, RuntimeError) as error:
                raise UserError(f"{missing} cannot be downloaded from {self.url} ({error})") from None
        return cached

    def tensors(self, path: Path, under: str | None = None) -> dict[str, Tensor]:
        """Read the file's tensors by name, or those of its entry `under`, on the CPU; no code in it is run.

        Raises `UserError` when `path` holds something else.
        """
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged or hostile file makes the unpickler raise anything
            raise UserError(f"{path} is not {self.name}: it is damaged, or holds more than tensors") from None
        if under is not None and isinstance(stored, dict):
            stored = stored.get(under)
        if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
            raise UserError(f"{path} is not {self.name}: it is no mapping of names to tensors")
        return {str(name): tensor for name, tensor in stored.items()}

    def fill(self, network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
        """Give a network the weights that were read from `path`; raises `UserError` when they are not its own."""
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            problem = str(error).splitlines()[-1].strip()
            raise UserError(f"{path} is not {self.name}: {problem[:200]}") from None
