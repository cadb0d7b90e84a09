"""Start a shared MLflow server with PostgreSQL and S3, and with passwords unless it listens on loopback.

MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow@db/mlflow python infra/mlflow/serve.py --artifacts s3://bucket/mlflow
"""

import argparse
import hashlib
import io
import ipaddress
import os
import secrets
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import TextIO

DATABASE = "MLFLOW_BACKEND_STORE_URI"
PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE", "NO_PERMISSIONS")


class SettingError(Exception):
    """An invalid setting; the message is one line."""


def main() -> None:
    """Replace this process with the server, or exit with an error message."""
    options = _parser().parse_args()
    try:
        variables = prepare(options, os.environ)
    except SettingError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    arguments = command(options, authenticated=not is_loopback(options.host))
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", *arguments], {**os.environ, **variables})  # noqa: S606


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"The database's URI, which has a password, is read from {DATABASE}.")
    parser.add_argument("--artifacts", required=True, help="s3://bucket/prefix or a folder; AWS's variables apply")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; passwords are required unless it is loopback"
    )
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=4, help="number of worker processes")
    parser.add_argument(
        "--allowed-hosts", default="", metavar="NAMES", help="host names that clients use, such as mlflow.lab:5000"
    )
    parser.add_argument(
        "--secrets", type=Path, default=Path("~/.daefr-mlflow"), help="folder for secrets, created on the first start"
    )
    parser.add_argument(
        "--permission", choices=PERMISSIONS, default="EDIT", help="users' permission for resources of other users"
    )
    return parser


def prepare(options: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    """Check the settings, and create the tables and secrets; return the server's environment variables."""
    database = environment.get(DATABASE, "")
    if not database:
        raise SettingError(f"set {DATABASE}, such as postgresql+psycopg2://mlflow:PASSWORD@127.0.0.1/mlflow")
    create_tables(database)
    # otherwise, MLflow starts eight more processes, for jobs with language models
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if is_loopback(options.host):
        return variables
    if not options.allowed_hosts:
        raise SettingError(f"--host {options.host} requires --allowed-hosts, as MLflow rejects requests to other names")
    return variables | create_secrets(options.secrets.expanduser(), database, options.permission)


def command(options: argparse.Namespace, *, authenticated: bool) -> list[str]:
    """Return the arguments of `mlflow`."""
    arguments = ["server", "--artifacts-destination", options.artifacts, "--serve-artifacts"]
    arguments += ["--host", options.host, "--port", str(options.port), "--workers", str(options.workers)]
    if options.allowed_hosts:
        here = f"localhost:{options.port},127.0.0.1:{options.port}"
        arguments += ["--allowed-hosts", f"{options.allowed_hosts},{here}"]
    return [*arguments, "--app-name", "basic-auth"] if authenticated else arguments


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def create_tables(database: str) -> None:
    """Create the tables of a new database, before several processes do so at the same time.

    Tables of an older MLflow are not upgraded.
    """
    from mlflow import MlflowClient  # noqa: PLC0415  # slow, and not needed for wrong options
    from sqlalchemy import create_engine  # noqa: PLC0415

    try:
        create_engine(database).connect().close()  # MLflow itself would retry for minutes
        MlflowClient(tracking_uri=database, registry_uri=database).search_experiments(max_results=1)
    except Exception as error:  # MLflow also raises errors of alembic and of databases
        reason = " ".join(str(error).split())[:300]
        raise SettingError(f"the database of {DATABASE} cannot be used: {reason}") from None


def create_secrets(folder: Path, database: str, permission: str) -> dict[str, str]:
    """Create the missing secrets in `folder`, readable by the owner only; return the variables of the server."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = ConfigParser(interpolation=None)
    config["mlflow"] = {
        "default_permission": permission,
        "database_uri": database,
        "admin_username": "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    auth = folder / "basic_auth.ini"
    _write_config(auth, config)
    password = folder / "admin-password"
    sys.stderr.write(f"passwords are required; the initial one of the user admin is in {password}\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(auth),
        "MLFLOW_AUTH_ADMIN_PASSWORD": _secret(password),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret(folder / "session-key"),
    }


def _write_config(path: Path, config: ConfigParser) -> None:
    """Write the server's settings, replacing those of an earlier start only."""
    text = io.StringIO()
    config.write(text)
    if os.path.lexists(path):
        mark, _, content = path.read_text().partition("\n") if path.is_file() else ("", "", "")
        if path.is_symlink() or mark != _mark(content):
            raise SettingError(f"{path} was not written by this program, or was changed; move it")
        path.unlink()
    with _private(path) as file:
        file.write(f"{_mark(text.getvalue())}\n{text.getvalue()}")


def _mark(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"# made by infra/mlflow/serve.py, which replaces it at every start unless it was changed: {digest}"


def _secret(path: Path) -> str:
    if not path.exists():
        with _private(path) as file:
            file.write(secrets.token_urlsafe(24))
    return path.read_text().strip()


def _private(path: Path) -> TextIO:
    """Create a file that only the owner can read."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
    except FileExistsError:
        raise SettingError(f"{path} exists; move it") from None


if __name__ == "__main__":
    main()
