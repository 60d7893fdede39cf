"""Segmentation network, its loss and its training (MedIM 2.5; protocols.md 3, SIIM)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.downstream.stopping import Best
from cxrmim.errors import ParamsError
from cxrmim.pretrain.parts.decoders import ConvDecoder, upsampled_conv

SMOOTH = 1.0
Load = Callable[[Tensor], tuple[Tensor, Tensor]]


class Segmenter(nn.Module):
    """Encoder tokens -> Linear D to D -> grid -> convolutional decoder -> 3x3 conv -> one logit.

    Args:
        encoder: pretrained ViT; trained along unless frozen.
        decoder: pretrained decoder, or None for a new one.
        channels: channels of a new decoder's blocks.
        frozen: keep the encoder as it is, in eval mode.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder: ConvDecoder | None,
        channels: Sequence[int],
        frozen: bool,
    ) -> None:
        super().__init__()
        width = encoder.embed_dim
        self.encoder, self.frozen = encoder, frozen
        self.project = nn.Linear(width, width)
        self.decoder = ConvDecoder(width, channels) if decoder is None else decoder
        self.head = nn.Conv2d(self.decoder.channels[-1], 1, 3, padding=1)
        if frozen:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "Segmenter":
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, s, s) -> logits (B, s, s)."""
        tokens = self.encoder.forward_features(image)[:, self.encoder.num_prefix_tokens :]
        maps = self.decoder.coarse(self.project(tokens))
        return upsampled_conv(maps, self.head).squeeze(1)


@dataclass(frozen=True)
class Training:
    """How the network is trained; see `tasks.segment.Options`."""

    batch: int
    epochs: int
    epoch_steps: int
    patience: int
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    focal_weight: float
    focal_gamma: float
    scale: float
    rotate: float
    augment_p: float


def loss(logits: Tensor, mask: Tensor, training: Training) -> Tensor:
    """Weight * focal - log(soft dice) (rM ssl_segmenter.py).

        focal = mean over pixels of (1 - p_t)^gamma * BCE,
                (1 - p_t) = sigmoid(-logit * (2 mask - 1))
        dice  = (2 sum p m + 1) / (sum p + sum m + 1), sums over all pixels of the batch

    Args:
        logits: (B, s, s).
        mask: (B, s, s) share of foreground in each pixel.
        training: weight and gamma.
    """
    each = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    wrong = F.logsigmoid(-logits * (2 * mask - 1))
    focal = ((training.focal_gamma * wrong).exp() * each).mean()
    share = logits.sigmoid()
    dice = (2 * (share * mask).sum() + SMOOTH) / (share.sum() + mask.sum() + SMOOTH)
    return training.focal_weight * focal - dice.log()


def augment(
    image: Tensor, mask: Tensor, training: Training, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scale and rotate image and mask alike, each sample with probability `augment_p`.

    What comes in from outside is as dark as the image's darkest pixel, and no foreground.

    Args:
        image: (B, 3, s, s), all channels equal.
        mask: (B, s, s).
        training: scale in shares, rotation in degrees.
        random: CPU generator.
    """
    count = len(image)
    chosen, size, turn = torch.rand(3, count, generator=random)
    on = (chosen < training.augment_p).float()
    scale = 1 + on * (2 * size - 1) * training.scale
    angle = torch.deg2rad(on * (2 * turn - 1) * training.rotate)
    cos, sin = ((f(angle) / scale)[:, None, None].to(image.device) for f in (torch.cos, torch.sin))
    side = image.shape[-1]
    across = (2 * torch.arange(side, device=image.device) + 1) / side - 1  # pixel centres
    down = across[:, None]
    grid = torch.stack([cos * across - sin * down, sin * across + cos * down], dim=-1)
    both = torch.stack([image[:, 0], mask], dim=1)
    dark = torch.stack([image[:, 0].amin(dim=(1, 2)), image.new_zeros(count)], dim=1)[
        ..., None, None
    ]
    moved = F.grid_sample(both - dark, grid, align_corners=False) + dark
    return moved[:, :1].expand(-1, 3, -1, -1), moved[:, 1]


def fit(
    model: Segmenter,
    load: Load,
    train: Tensor,
    valid: Tensor,
    training: Training,
    random: torch.Generator,
) -> Best:
    """Train with AdamW at a constant rate; the model is left at its epoch of least validation loss.

    Args:
        model: on its device.
        load: row numbers -> image (B, 3, s, s) and mask (B, s, s).
        train: row numbers.
        valid: row numbers.
        training: hyper-parameters.
        random: CPU generator of batch order and augmentation.

    Returns:
        The validation losses, the best epoch and what ended training.

    Raises:
        ParamsError: the validation loss is never finite.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        weights, training.lr, training.betas, weight_decay=training.weight_decay, fused=True
    )
    best = Best(training.patience)
    for _ in range(training.epochs):
        model.train()
        for rows in epoch(train, training, random):
            image, mask = augment(*load(rows), training, random)
            optimiser.zero_grad()
            loss(model(image), mask, training).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if best.judge(validate(model, load, valid, training), model.state_dict()):
            break
    if best.at == 0:
        raise ParamsError(
            f"downstream.segment.lr = {training.lr}: the validation loss is never finite; lower it"
        )
    model.load_state_dict(best.weights)
    return best


def epoch(train: Tensor, training: Training, random: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of each batch: whole passes over the images until `epoch_steps` are made."""
    made = 0
    while made < training.epoch_steps:
        for rows in torch.split(
            train[torch.randperm(len(train), generator=random)], training.batch
        ):
            yield rows
            made += 1


@torch.no_grad()
def validate(model: Segmenter, load: Load, rows: Tensor, training: Training) -> float:
    """Mean loss over batches, each weighted by its size; no batch is dropped."""
    model.eval()
    total = 0.0
    for part in torch.split(rows, training.batch):
        image, mask = load(part)
        total += loss(model(image), mask, training).item() * len(part)
    return total / len(rows)
