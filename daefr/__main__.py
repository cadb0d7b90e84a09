"""Command line on one machine: `python -m daefr restore IN OUT --model DIR`, and others; `--help` lists them."""

import argparse
import sys
from pathlib import Path

import torch
from pydantic import ValidationError
from tqdm import tqdm

from daefr.bench.data import add_options as add_bench_data_options
from daefr.bench.data import bench_data
from daefr.bench.loading import add_options as add_bench_loader_options
from daefr.bench.loading import bench_loader
from daefr.bench.report import add_options as add_bench_options
from daefr.bench.report import bench
from daefr.data.images import MAX_PIXELS, MOST_PIXELS
from daefr.data.manifest import Rejection, count_reasons
from daefr.errors import UserError
from daefr.faces import Aligner, Detector, FaceFilters
from daefr.faces.alignment import CROP_SIDE
from daefr.faces.folder import align_files, list_photographs
from daefr.metrics.options import add_measure_options, add_statistics_options
from daefr.released import Unseen, export_released, import_released
from daefr.restore.command import add_conflict_option, add_restore_options, restore
from daefr.stages import STAGES


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0 when everything succeeded, 1 when some of it failed, 2 for the user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        status: int = COMMANDS[options.command](options)
        return status
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m daefr", description="DAEFR face restoration on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    restoring = commands.add_parser("restore", help="restore the faces of photographs, or aligned crops")
    add_restore_options(restoring)
    _add_device(restoring)
    _add_align(commands.add_parser("align", help="cut aligned crops of the faces out of photographs"))
    _add_import(commands.add_parser("import", help="turn a released .ckpt file into a checkpoint directory"))
    add_measure_options(commands.add_parser("measure", help="measure restored images: PSNR, SSIM, NIQE and others"))
    add_statistics_options(commands.add_parser("fid-statistics", help="store what FID needs to know of real images"))
    add_bench_options(commands.add_parser("bench", help="measure the cost of training and restoring"))
    add_bench_loader_options(commands.add_parser("bench-loader", help="measure whether training waits for its data"))
    add_bench_data_options(commands.add_parser("bench-data", help="measure the cost of making and reading samples"))
    _add_export(commands.add_parser("export", help="turn a checkpoint directory into a .ckpt file like the released"))
    return parser


def _add_align(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", type=Path, help="a photograph, or a folder of photographs")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder for the crops, in the folders of IN")
    parser.add_argument("--detector", metavar="PATH", type=Path, help="RetinaFace weights (default: facexlib's)")
    parser.add_argument("--side", type=int, default=CROP_SIDE, help="of the crops, in pixels (default %(default)s)")
    for name, setting in FaceFilters.model_fields.items():
        default = "the crops' side" if setting.default is None else f"{setting.default:g}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="X",
            help=f"{setting.description} Default: {default}".replace("%", "%%"),
        )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="larger images are not decoded (default %(default)s)"
    )
    add_conflict_option(parser)
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="CKPT", type=Path, help="a released codebook, association or restoration")
    parser.add_argument("target", metavar="OUT", type=Path, help="checkpoint directory to write; must not exist")
    parser.add_argument("--kind", choices=STAGES, help="the stage; only a codebook needs to be told")
    parser.add_argument("--resolution", type=int, help="side of the images, where the file does not tell (default 512)")
    parser.add_argument("--groups", type=int, default=Unseen.groups, help="of the normalizations (default %(default)s)")
    parser.add_argument("--heads", type=int, default=Unseen.heads, help="of the predictor (default %(default)s)")
    parser.add_argument(
        "--fusion-heads", type=int, default=Unseen.fusion_heads, help="of the fusion (default %(default)s)"
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR", type=Path, help="a checkpoint directory")
    parser.add_argument("target", metavar="CKPT", type=Path, help="file to write; must not exist")
    parser.add_argument(
        "--like", metavar="CKPT", type=Path, help="a released file of the same kind: gives the tensors that DIR lacks"
    )


def _restore(options: argparse.Namespace) -> int:
    _device(options.device)
    return restore(options)


def _align(options: argparse.Namespace) -> int:
    if not 1 <= options.max_pixels <= MOST_PIXELS:
        raise UserError(f"--max-pixels {options.max_pixels} is not to be had; 1 to {MOST_PIXELS} are")
    photographs, filters = list_photographs(options.source), _filters(options)
    detector = Detector.load(options.detector, _device(options.device))
    aligner = Aligner(detector, filters, options.side, options.max_pixels)
    outcomes = align_files(aligner, options.source, options.target, options.on_conflict)
    written = failed = 0
    rejected: list[Rejection] = []
    for outcome in tqdm(outcomes, total=len(photographs), unit=" photographs", disable=not sys.stderr.isatty()):
        if outcome.problem:
            failed += 1
            tqdm.write(f"failed: {outcome.source}: {outcome.problem}", file=sys.stderr)
        written += len(outcome.written)
        rejected += outcome.rejected
    counts = "".join(f", {count} {kind}" for kind, count in count_reasons(rejected).items())
    sys.stdout.write(f"{written} crops of {len(photographs)} photographs{counts}, {failed} failed\n")
    return 1 if failed or not written else 0


def _filters(options: argparse.Namespace) -> FaceFilters:
    given = {name: value for name in FaceFilters.model_fields if (value := getattr(options, name)) is not None}
    try:
        return FaceFilters.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option} {first['input']}: {first['msg']}") from None


def _import(options: argparse.Namespace) -> int:
    unseen = Unseen(options.resolution, options.groups, options.heads, options.fusion_heads)
    imported = import_released(options.source, options.target, options.kind, unseen)
    resolution = imported.network.autoencoder.resolution
    sys.stdout.write(f"imported {imported.stage} at {resolution}x{resolution} pixels to {imported.path}\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    exported = export_released(options.source, options.target, options.like)
    sys.stdout.write(f"exported {exported.tensors} tensors to {options.target}\n")
    if exported.left_out:
        sys.stdout.write(
            f"left out {len(exported.left_out)} that {options.source} does not have, such as {exported.left_out[0]}: "
            "--like CKPT takes them from a released file\n"
        )
    return 0


def _bench(options: argparse.Namespace) -> int:
    _device(options.device)
    return bench(options)


def _bench_loader(options: argparse.Namespace) -> int:
    _device(options.device)
    return bench_loader(options)


def _measure(options: argparse.Namespace) -> int:
    from daefr.metrics.command import measure  # noqa: PLC0415  # loads libraries for seconds that others do without

    _device(options.device)
    return measure(options)


def _compute_statistics(options: argparse.Namespace) -> int:
    from daefr.metrics.command import compute_statistics  # noqa: PLC0415  # likewise

    _device(options.device)
    return compute_statistics(options)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not to be had here; cpu is") from None
    return device


COMMANDS = {
    "restore": _restore,
    "align": _align,
    "measure": _measure,
    "fid-statistics": _compute_statistics,
    "import": _import,
    "export": _export,
    "bench": _bench,
    "bench-data": bench_data,
    "bench-loader": _bench_loader,
}

if __name__ == "__main__":
    sys.exit(main())
