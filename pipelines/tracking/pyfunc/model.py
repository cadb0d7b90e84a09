"""The pyfunc model. This file is packed with the model, `daefr` and `degradations`, and must not import `pipelines`.

`mlflow models serve` decodes and encodes images as base64.
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

BATCH = 8
# set in MLflow's scoring server, whose clients must not be able to read local files
SERVER_VARIABLE = "__pyfunc_model_path__"


class RestorationModel(PythonModel):
    """Restores photographs, or aligned crops with the parameter `aligned`, exactly like `daefr restore`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint.

        `model_config` may set device, detector, parser, upscaler and min_face of `Restorer.load`.
        """
        self._restorer = Restorer.load(context.artifacts["checkpoint"], **(context.model_config or {}))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Restore each row's `image`, the bytes of a file, or the file at its `path`, of any kind that is read.

        Returns for each row `image` (the bytes of a PNG, of a TIFF where the parameter `pages` is "all" and there are
        several; None if there is a problem), `faces` (the number of restored faces) and `problem` (an error message, or
        empty).
        """
        rows = [_source(row) for row in model_input.to_dict("records")]
        settings = params or {}
        restored = []
        for start in range(0, len(rows), BATCH):
            restored += self._restore(rows[start : start + BATCH], settings)
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
        return ImageError("set either image, the file's bytes, or path")
    if path is None:
        return bytes(image)
    if SERVER_VARIABLE in os.environ:
        return ImageError("a server does not read files; send the file's bytes as image")
    return Path(path)


def _given(value: Any) -> Any:
    """Return a value, None for any of the missing values of pandas."""
    return value if isinstance(value, (bytes, bytearray, str)) and value else None


set_model(RestorationModel())
