"""The settings need no PyTorch, whose import takes seconds."""

import subprocess
import sys

SCRIPT = """
import pkgutil, sys
from importlib import import_module
import daefr.settings
for module in pkgutil.iter_modules(daefr.settings.__path__, "daefr.settings."):
    import_module(module.name)
import pipelines.config
sys.exit(sorted({"torch", "mlflow", "ray", "boto3"} & sys.modules.keys()) or 0)
"""


def test_settings_and_configurations_load_no_heavy_library() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
