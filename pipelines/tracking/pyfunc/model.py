"""What MLflow runs. This file travels with the model, beside `daefr` and `degradations`, and imports nothing else here.

`mlflow models serve` decodes and encodes the images as base64, as JSON has no bytes.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from daefr.errors import UserError
from daefr.restore import ImageError, Restorer, encode_result

AT_ONCE = 8
# by which MLflow's scoring server finds its model: whoever can ask it is not to read this machine's files
SERVED = "__pyfunc_model_path__"


class RestorationModel(PythonModel):
    """Restores photographs, or aligned crops with the parameter `aligned`, exactly as `daefr restore`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint; `model_config` may have device, detector, parser and upscaler of `Restorer.load`."""
        self._restorer = Restorer.load(context.artifacts["checkpoint"], **(context.model_config or {}))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # as MLflow calls it
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Restore each row's `image`, the bytes of a file, or the file at its `path`, of any kind that is read.

        Returns for each row `image` (bytes of a PNG, of a TIFF where the parameter `pages` is "all" and there are
        several, None where there is a problem), `faces` (how many were restored) and `problem` (empty, or a sentence).
        """
        rows = [_source(row) for row in model_input.to_dict("records")]
        settings = params or {}
        restored = []
        for start in range(0, len(rows), AT_ONCE):
            restored += self._restore(rows[start : start + AT_ONCE], settings)
        return pd.DataFrame(restored, columns=["image", "faces", "problem"])

    def _restore(
        self, sources: Sequence[bytes | Path | ImageError], settings: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        given = [source for source in sources if not isinstance(source, ImageError)]
        try:
            results = iter(self._restorer.restore_all(given, **settings))
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        rows: list[dict[str, Any]] = []
        for source in sources:
            result = source if isinstance(source, ImageError) else next(results)
            if isinstance(source, ImageError) or isinstance(result, ImageError):
                rows.append({"image": None, "faces": 0, "problem": str(result)})
                continue
            content = encode_result(result, source, "tiff" if result.further else "png")
            rows.append({"image": content, "faces": result.face_count, "problem": ""})
        return rows


def _source(row: Mapping[Any, Any]) -> bytes | Path | ImageError:
    image, path = (_given(row.get(name)) for name in ("image", "path"))
    if (image is None) == (path is None):
        return ImageError("give either its bytes as image or its file as path")
    if path is None:
        return bytes(image)
    if SERVED in os.environ:
        return ImageError("a server reads no files: send the bytes as image")
    return Path(path)


def _given(value: Any) -> Any:
    """Return a value, None where pandas has one of its several nothings."""
    return value if isinstance(value, (bytes, bytearray, str)) and value else None


set_model(RestorationModel())
