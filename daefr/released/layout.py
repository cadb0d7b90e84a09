"""The layout of the released checkpoints: which of their tensors is which of ours, kind by kind."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.losses.contrastive import TEMPERATURE
from daefr.losses.perceptual import PerceptualLoss
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.training import AutoencoderTraining, PerceptualConfig, RestorationTraining
from daefr.stages.build import build_stage

Rows = tuple[tuple[str, str], ...]

HQ_ROWS: Rows = (("vqvae.", "generator.hq."), ("loss.discriminator.", "discriminator.hq."))
# a checkpoint of one codebook calls it by the same names, whatever images it was trained on
LQ_ALONE_ROWS: Rows = (("vqvae.", "generator.lq."), ("loss.discriminator.", "discriminator.lq."))
LQ_ROWS: Rows = (("vqvae_LQ.", "generator.lq."), ("loss_LQ.discriminator.", "discriminator.lq."))

ROWS: dict[StageName, Rows] = {
    "hq_codebook": HQ_ROWS,
    "lq_codebook": LQ_ALONE_ROWS,
    "association": HQ_ROWS + LQ_ROWS,
    "restoration": (
        ("vqvae.encoder.", "generator.lq_encoder."),
        ("vqvae.quant_conv.", "generator.lq_quant_conv."),
        ("vqvae.HQ_encoder.", "generator.hq_encoder."),
        ("vqvae.HQ_quant_conv.", "generator.hq_quant_conv."),
        ("vqvae.Fixed_encoder.", "target.encoder."),
        ("vqvae.Fixed_quant_conv.", "target.quant_conv."),
        ("vqvae.Fixed_quantize.", "generator.codebook."),
        ("vqvae.post_quant_conv.", "generator.post_quant_conv."),
        ("vqvae.decoder.", "generator.decoder."),
        ("cross_attention.", "generator.fusion."),
        ("position_emb", "generator.predictor.position_emb"),
        ("feat_emb.", "generator.predictor.feat_emb."),
        ("ft_layers.", "generator.predictor.layers."),
        ("idx_pred_layer.0.", "generator.predictor.norm."),
        ("idx_pred_layer.1.", "generator.predictor.head."),
    ),
}
"""Prefix in a released checkpoint, prefix in ours; what follows the prefix is the same in both."""

MARKS: tuple[tuple[str, tuple[StageName, ...]], ...] = (
    ("loss.net_d_", ()),  # discriminators that RestoreFormer has beside what a codebook has
    ("vqvae.Fixed_encoder.", ("restoration",)),
    ("vqvae_LQ.", ("association",)),
    ("loss.discriminator.", ("hq_codebook", "lq_codebook")),
)
"""Prefixes that tell the kinds apart; the first that occurs decides."""
PREFIXES = tuple(mark for mark, _ in MARKS)

OTHERS: tuple[tuple[str, str], ...] = (
    ("stylegan_decoder.", "GFP-GAN"),
    ("fuse_convs_dict.", "CodeFormer"),
    ("generator.blocks.", "CodeFormer's codebook"),
    ("loss.net_d_", "RestoreFormer"),
    (".mid.attn_1.norm1.", "RestoreFormer, or an autoencoder without what it was trained with"),
    (".rdb1.", "Real-ESRGAN, an upscaler"),
    (".RDB1.", "ESRGAN, an upscaler"),
    (".residual_group.", "SwinIR"),
    ("model.diffusion_model.", "Stable Diffusion"),
    ("ClassHead.", "RetinaFace, a face detector"),
    ("out_mask_conv.", "ParseNet, a face parser"),
    ("generator.", "a checkpoint directory of this project, which is given as a whole"),
)
"""Parts of names by which files are known that people have beside DAEFR's."""
COMPACT = re.compile(r"body\.\d+\.(weight|bias)")

PERCEPTUAL: dict[StageName, tuple[str, ...]] = {
    "hq_codebook": ("loss.perceptual_loss.",),
    "lq_codebook": ("loss.perceptual_loss.",),
    "association": ("loss.perceptual_loss.", "loss_LQ.perceptual_loss."),
    "restoration": (),
}
"""Where the weights of LPIPS lie, which are nobody's to train and no part of our checkpoints."""

UNUSED_CODEBOOKS = ("vqvae.HQ_quantize.embedding.weight", "vqvae.LQ_quantize.embedding.weight")
"""The association's codebooks, which a released restoration checkpoint carries and nothing reads."""

LOGIT_SCALE = "logit_scale"
"""The constant temperature of the association, as the logarithm of a factor."""


@dataclass(frozen=True)
class ReleasedLayout:
    """Every tensor of one released checkpoint."""

    stage: StageName
    own: dict[str, str]
    """Our name of each tensor that our network has, by its released name."""
    forms: dict[str, Tensor]
    """Shape and type of every tensor, on the meta device, by its released name."""

    @property
    def extra(self) -> list[str]:
        """Released names of the tensors that have no place in our network."""
        return [name for name in self.forms if name not in self.own]

    def check(self, tensors: Mapping[str, Tensor], source: str, *, trained_here: bool = False) -> None:
        """Raise `UserError` with counts and names when tensors are missing, unknown or of another shape or type.

        Args:
            tensors: by released name.
            source: where they are from, for the message.
            trained_here: whether all that our training never has may be missing together: the weights of LPIPS, or the
                codebooks that nothing reads. So our own exports are.

        """
        beyond_training = set(self.extra) - constants(self.stage).keys()
        excused = beyond_training if trained_here and not beyond_training & tensors.keys() else set()
        unfit = [
            f"{name} is {_described(tensors[name])}, not {_described(form)}"
            for name, form in self.forms.items()
            if name in tensors and not _fits(tensors[name], form)
        ]
        problems = {
            "missing": [name for name in self.forms if name not in tensors and name not in excused],
            "unknown": [name for name in tensors if name not in self.forms],
            "of another shape or type": unfit,
        }
        found = [f"{len(names)} {problem} ({_first(names)})" for problem, names in problems.items() if names]
        if found:
            raise UserError(f"{source} is no released checkpoint of {self.stage}: of its tensors, {'; '.join(found)}")


def layout_of(stage: StageName, network: NetworkConfig) -> ReleasedLayout:
    """Return the layout of a released checkpoint of `stage` whose network has the sizes of `network`."""
    # the weights of LPIPS are none of the stage's own, and not wanted here
    plain = AutoencoderTraining(steps=1, perceptual=PerceptualConfig(weight=0))
    training = RestorationTraining(steps=1) if stage == "restoration" else plain
    with torch.device("meta"):
        weights = build_stage(stage, network, training).weights()
        extra = _extra(stage, network)
    own = {_released_name(stage, name): name for name in weights}
    return ReleasedLayout(stage, own, {name: weights[mine] for name, mine in own.items()} | extra)


def recognize(tensors: Mapping[str, Tensor], kind: StageName | None, source: str) -> StageName:
    """Tell of which stage a released checkpoint is, by its keys.

    Args:
        tensors: by released name.
        kind: what the user says; only needed to tell one codebook from the other, whose keys are equal.
        source: the file, for the messages.

    Raises:
        UserError: when it is of no stage, of another than `kind`, or a codebook and `kind` is not given.

    """
    candidates = _candidates(tensors)
    if not candidates:
        other = _other_model(tensors)
        found = f"its {len(tensors)} tensors are called {_first(list(tensors))}"
        raise UserError(f"{source} is no released DAEFR checkpoint: {f'this looks like {other}' if other else found}")
    if kind is None and len(candidates) > 1:
        raise UserError(f"{source} is a codebook: say of which images, with --kind {' or --kind '.join(candidates)}")
    if kind is not None and kind not in candidates:
        raise UserError(f"{source} is a checkpoint of {' or '.join(candidates)}, not of {kind}")
    return kind or candidates[0]


def constants(stage: StageName) -> dict[str, Tensor]:
    """Return the tensors without a place in our network whose values are known nevertheless, by released name."""
    return {LOGIT_SCALE: torch.tensor(-math.log(TEMPERATURE))} if stage == "association" else {}


def _candidates(tensors: Mapping[str, Tensor]) -> tuple[StageName, ...]:
    for mark, stages in MARKS:
        if any(name.startswith(mark) for name in tensors):
            return stages
    return ()


def _other_model(tensors: Mapping[str, Tensor]) -> str | None:
    if all(COMPACT.fullmatch(name) for name in tensors):
        return "Real-ESRGAN, an upscaler"
    return next((model for part, model in OTHERS if any(part in name for name in tensors)), None)


def _released_name(stage: StageName, own: str) -> str:
    for released, mine in ROWS[stage]:
        if own.startswith(mine):
            return released + own.removeprefix(mine)
    raise KeyError(f"the table of {stage} has no row for {own}")


def _extra(stage: StageName, network: NetworkConfig) -> dict[str, Tensor]:
    extra: dict[str, Tensor] = {}
    for prefix in PERCEPTUAL[stage]:
        extra |= PerceptualLoss().state_dict(prefix=prefix)
    sizes = network.autoencoder
    if stage == "restoration":
        extra |= dict.fromkeys(UNUSED_CODEBOOKS, torch.empty(sizes.codes, sizes.code_channels))
    return extra | constants(stage)


def _fits(tensor: Tensor, form: Tensor) -> bool:
    # as in PyTorch's own loading, weights of another precision fit, and a vector of one number fits a scalar
    shapes = {form.shape} if form.dim() else {form.shape, torch.Size([1])}
    return tensor.shape in shapes and tensor.is_floating_point() == form.is_floating_point()


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
