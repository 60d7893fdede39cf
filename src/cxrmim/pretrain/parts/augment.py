"""Image augmentation and evaluation transform, batched on the device.

Resizing, cropping, flipping and blurring are linear and separable: each is two matrix products with
matrices made per sample, so a batch needs no loop and the filters are exact and antialiased.
Stored images are grey; saturation, hue and grey-scale augmentation leave a grey image as it is and
are therefore not computed (`jitter[2:]`, `grey_p`).
"""

import math

import torch
from torch import Generator, Tensor

from cxrmim.pretrain.parts.noise import Noise
from cxrmim.schema import Augment

SHARPEST = 1e-3  # sigma in px below which a blur is the identity
TRIES = 10  # draws of a crop's shape before the whole image is taken


def train(images: Tensor, augment: Augment, size: int, random: Generator | Noise) -> Tensor:
    """Augment a training batch.

    Args:
        images: (B, H, H) uint8 stored squares.
        augment: what to draw.
        size: side of the encoder's input in px.
        random: numbers of the batch; a generator is on the images' device.

    Returns:
        (B, 3, size, size) float, grey replicated and normalised.
    """
    draw = Draw(len(images), images.device, random)
    rows, columns = boxes(draw, augment, images.shape[-1], size)
    flip = draw.chance(augment.flip)
    x = sample(images, rows, columns, size, flip, cubic=augment.crop == "resized")
    if augment.jitter_p > 0:
        x = jitter(x, draw, augment)
    if augment.blur_p > 0:
        low, high = augment.blur
        sigma = torch.where(draw.chance(augment.blur_p), draw.uniform(low, high), SHARPEST)
        x = blur(x, sigma)
    return normalise(x, augment)


def evaluate(images: Tensor, augment: Augment, size: int) -> Tensor:
    """Centre crop of the resized square, the transform of every evaluation.

    Args:
        images: (B, H, H) uint8 stored squares.
        augment: its `resize`, mean and std are used.
        size: side of the encoder's input in px.

    Returns:
        (B, 3, size, size) float, grey replicated and normalised.
    """
    box = _square(images.shape[-1], augment.resize, size, torch.zeros(len(images)))
    box = box.to(images.device)
    return normalise(sample(images, box, box, size, None, cubic=False), augment)


class Draw:
    """Random numbers of a batch, one a sample."""

    def __init__(self, count: int, device: torch.device, random: Generator | Noise) -> None:
        self.count, self.device = count, device
        self.noise = random if isinstance(random, Noise) else Noise(random)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(B, *shape) uniform in [low, high)."""
        u = self.noise.rand(self.count, *shape, device=self.device)
        return low + (high - low) * u

    def chance(self, p: float) -> Tensor:
        """(B,) bool, True with probability p."""
        return self.uniform(0.0, 1.0) < p


def boxes(draw: Draw, augment: Augment, stored: int, size: int) -> tuple[Tensor, Tensor]:
    """Source interval of each sample along rows and columns.

    Returns:
        Two (B, 2) float tensors (start, length) in stored px: what becomes `size` px.
    """
    if augment.crop == "resized":
        height, width = shapes(draw, augment.area, stored)
        top = (draw.uniform(0.0, 1.0) * (stored - height + 1)).floor()
        left = (draw.uniform(0.0, 1.0) * (stored - width + 1)).floor()
        return torch.stack([top, height], 1), torch.stack([left, width], 1)
    if augment.crop == "random":
        slack = augment.resize - size
        top = (draw.uniform(0.0, 1.0) * (slack + 1)).floor() - slack // 2
        left = (draw.uniform(0.0, 1.0) * (slack + 1)).floor() - slack // 2
    else:
        top = left = torch.zeros(draw.count, device=draw.device)
    return (
        _square(stored, augment.resize, size, top),
        _square(stored, augment.resize, size, left),
    )


def shapes(draw: Draw, area: tuple[float, float], stored: int) -> tuple[Tensor, Tensor]:
    """Heights and widths of random crops of a square, as torchvision's RandomResizedCrop's.

    A shape that does not fit is drawn again, so that few crops reach from edge to edge; all draws
    are made at once and the first that fits counts. Where none of them does it is the whole image.

    Args:
        draw: random numbers.
        area: least and largest share of the image.
        stored: its side in px.

    Returns:
        Two (B,) float tensors in px.
    """
    size = stored**2 * draw.uniform(*area, TRIES)
    ratio = torch.exp(math.log(4 / 3) * draw.uniform(-1.0, 1.0, TRIES))
    height, width = (size / ratio).sqrt().round(), (size * ratio).sqrt().round()
    fits = (torch.minimum(height, width) >= 1) & (torch.maximum(height, width) <= stored)
    first, some = fits.long().argmax(1, keepdim=True), fits.any(1)
    return (
        torch.where(some, height.gather(1, first)[:, 0], float(stored)),
        torch.where(some, width.gather(1, first)[:, 0], float(stored)),
    )


def _square(stored: int, resize: int, size: int, offset: Tensor) -> Tensor:
    """(B, 2) interval in stored px of a crop of `size` px, `offset` px off the resized centre."""
    scale = stored / resize
    start = ((resize - size) // 2 + offset) * scale
    return torch.stack([start, torch.full_like(start, size * scale)], 1)


def sample(
    images: Tensor, rows: Tensor, columns: Tensor, size: int, flip: Tensor | None, *, cubic: bool
) -> Tensor:
    """Resample boxes of images with an antialiasing filter.

    Args:
        images: (B, H, H) uint8 or float.
        rows: (B, 2) start and length in px along rows.
        columns: the same along columns.
        size: side of the result.
        flip: (B,) bool, mirror left and right; None for no sample.
        cubic: bicubic (a = -0.5) instead of bilinear.

    Returns:
        (B, size, size) float in [0, 1].
    """
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    down = filter_matrix(rows, images.shape[-1], size, cubic=cubic)
    across = filter_matrix(columns, images.shape[-1], size, cubic=cubic)
    if flip is not None:
        across = torch.where(flip[:, None, None], across.flip(1), across)
    return (down @ x @ across.transpose(1, 2)).clamp(0, 1)


def filter_matrix(box: Tensor, inside: int, out: int, *, cubic: bool) -> Tensor:
    """Antialiased resampling weights, as Pillow and torch (antialias=True) define them.

    The triangle filter sees the whole source, as if all of it was resized and then cropped; the
    cubic one only the box, as if that was cropped and then resized (RandomResizedCrop).

    Args:
        box: (B, 2) start and length in px of the interval that becomes `out` px.
        inside: source px.
        out: target px.
        cubic: bicubic with a = -0.5, else triangle.

    Returns:
        (B, out, inside); rows sum to 1.
    """
    start, length = box[:, :1, None], box[:, 1:, None]
    scale = length / out
    target = torch.arange(out, device=box.device, dtype=box.dtype)[None, :, None]
    source = torch.arange(inside, device=box.device, dtype=box.dtype)[None, None, :]
    centre = start + (target + 0.5) * scale
    distance = ((source + 0.5 - centre) / scale.clamp(min=1)).abs()
    if cubic:
        box_only = (source >= start.floor()) & (source < (start + length).ceil())
        weight = _cubic(distance) * box_only
    else:
        weight = (1 - distance).clamp(min=0)
    return weight / weight.sum(-1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def jitter(x: Tensor, draw: Draw, augment: Augment) -> Tensor:
    """Brightness and contrast in random order, as torchvision's ColorJitter does on grey.

    Args:
        x: (B, S, S) in [0, 1].
        draw: random numbers.
        augment: `jitter` holds the strengths, `jitter_p` the probability of a sample.

    Returns:
        (B, S, S) in [0, 1].
    """
    chosen = draw.chance(augment.jitter_p)
    bright = draw.uniform(max(0.0, 1 - augment.jitter[0]), 1 + augment.jitter[0])
    contrast = draw.uniform(max(0.0, 1 - augment.jitter[1]), 1 + augment.jitter[1])
    first = draw.chance(0.5)
    one = torch.ones_like(bright)
    bright, contrast = torch.where(chosen, bright, one), torch.where(chosen, contrast, one)
    x = (x * torch.where(first, bright, one)[:, None, None]).clamp(0, 1)
    mean = x.mean((1, 2), keepdim=True)
    x = torch.lerp(mean, x, contrast[:, None, None]).clamp(0, 1)
    return (x * torch.where(first, one, bright)[:, None, None]).clamp(0, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, sigma (B,) in px; the kernel is renormalised at the border.

    Args:
        x: (B, S, S).
        sigma: standard deviations in px.

    Returns:
        (B, S, S).
    """
    at = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    square = (at[:, None] - at[None, :]).square()
    kernel = torch.softmax(-square / (2 * sigma.square()[:, None, None]), -1)
    return kernel @ x @ kernel.transpose(1, 2)


def normalise(x: Tensor, augment: Augment) -> Tensor:
    """(B, S, S) in [0, 1] -> (B, 3, S, S): subtract the mean, divide by std, replicate (a view)."""
    return ((x - augment.mean) / augment.std)[:, None].expand(-1, 3, -1, -1)


def pixels(image: Tensor, augment: Augment) -> Tensor:
    """Undo `normalise`: (B, 3, S, S) -> the same in [-1, 1], MedIM's restoration target."""
    return (image * augment.std + augment.mean) * 2 - 1
