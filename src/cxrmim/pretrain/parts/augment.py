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
ROUNDING = 1e-3  # px that a quotient may be short of a whole number
WIDEST = 4 / 3  # aspect ratio of a random crop; its inverse is the narrowest
TRIES = 10  # draws of a crop's shape before the whole image is taken


def train(
    images: Tensor,
    augment: Augment,
    size: int,
    random: Generator | Noise,
    content: Tensor | None = None,
    *,
    cubic: bool = True,
) -> Tensor:
    """Augment a training batch.

    Args:
        images: (B, H, H) uint8 stored squares.
        augment: what to draw.
        size: side of the encoder's input in px.
        random: numbers of the batch; a generator is on the images' device.
        content: (B, 2) height and width of each image inside its square, px: crops (`resized`
            alone) are taken of the image without its padding. None: of the square.
        cubic: whether `resized` crops are bicubic, else bilinear; other crops are bilinear.

    Returns:
        (B, 3, size, size) float, grey replicated and normalised.
    """
    draw = Draw(len(images), images.device, random)
    rows, columns = boxes(draw, augment, images.shape[-1], size, content)
    flip = draw.chance(augment.flip)
    # A resized crop is cut out, then resized: whatever the filter, it sees the box alone.
    resized = augment.crop == "resized"
    seen = (rows, columns) if resized else None
    x = sample(images, rows, columns, size, flip, cubic=resized and cubic, seen=seen)
    if augment.jitter_p > 0:
        x = jitter(x, draw, augment)
    if augment.blur_p > 0:
        low, high = augment.blur
        sigma = torch.where(draw.chance(augment.blur_p), draw.uniform(low, high), SHARPEST)
        x = blur(x, sigma)
    return normalise(x, augment)


def evaluate(images: Tensor, augment: Augment, size: int, content: Tensor | None = None) -> Tensor:
    """Centre crop of the resized square, the transform of every evaluation.

    Args:
        images: (B, H, H) uint8 stored squares.
        augment: its `resize`, mean and std are used.
        size: side of the encoder's input in px.
        content: (B, 2) height and width of each image inside its square, px: the image's shorter
            side is resized and its own centre taken. None: the square's.

    Returns:
        (B, 3, size, size) float, grey replicated and normalised.
    """
    stored = images.shape[-1]
    if content is None:
        box = _square(stored, augment.resize, size, torch.zeros(len(images))).to(images.device)
        return normalise(sample(images, box, box, size, None, cubic=False), augment)
    content = content.to(images.device)
    scale = content.amin(1) / augment.resize
    rows, columns = (_centred(stored, side, scale, size) for side in content.unbind(1))
    seen = _inside(stored, content[:, 0]), _inside(stored, content[:, 1])
    return normalise(sample(images, rows, columns, size, None, cubic=False, seen=seen), augment)


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


def boxes(
    draw: Draw, augment: Augment, stored: int, size: int, content: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Source interval of each sample along rows and columns.

    Returns:
        Two (B, 2) float tensors (start, length) in stored px: what becomes `size` px.

    Raises:
        ValueError: `content` is given for a crop other than `resized`.
    """
    if content is not None and augment.crop != "resized":
        raise ValueError(f"crop {augment.crop!r} is one of the square, not of its content")
    if augment.crop == "resized":
        if content is None:
            content = torch.full((draw.count, 2), float(stored), device=draw.device)
        height, width, some = shapes(draw, augment.area, content)
        rows, columns = (
            _placed(stored, whole, part, draw.uniform(0.0, 1.0), some)
            for whole, part in zip(content.unbind(1), (height, width), strict=True)
        )
        return rows, columns
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


def shapes(draw: Draw, area: tuple[float, float], content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heights and widths of random crops, as torchvision's RandomResizedCrop's.

    A shape that does not fit is drawn again, so that few crops reach from edge to edge; all draws
    are made at once and the first that fits counts. Where none of them does it is as much of the
    image as has an aspect ratio between 3/4 and 4/3, around its centre.

    Args:
        draw: random numbers.
        area: least and largest share of the image.
        content: (B, 2) height and width of each image in px.

    Returns:
        Two (B,) float tensors in px, and (B,) bool: whether any draw fitted.
    """
    tall, wide = content.unbind(1)
    size = (tall * wide)[:, None] * draw.uniform(*area, TRIES)
    ratio = torch.exp(math.log(WIDEST) * draw.uniform(-1.0, 1.0, TRIES))
    height, width = (size / ratio).sqrt().round(), (size * ratio).sqrt().round()
    fits = torch.minimum(height, width) >= 1
    fits = fits & (height <= tall[:, None]) & (width <= wide[:, None])
    first, some = fits.long().argmax(1, keepdim=True), fits.any(1)
    return (
        torch.where(
            some, height.gather(1, first)[:, 0], torch.minimum(tall, (wide * WIDEST).round())
        ),
        torch.where(
            some, width.gather(1, first)[:, 0], torch.minimum(wide, (tall * WIDEST).round())
        ),
        some,
    )


def _placed(stored: int, whole: Tensor, part: Tensor, share: Tensor, some: Tensor) -> Tensor:
    """(B, 2) interval of `part` px of an image of `whole` px that is centred in `stored` px."""
    slack = whole - part
    start = torch.where(some, (share * (slack + 1)).floor(), (slack / 2).floor())
    return torch.stack([_inside(stored, whole)[:, 0] + start, part], 1)


def _centred(stored: int, whole: Tensor, scale: Tensor, size: int) -> Tensor:
    """(B, 2) interval of the middle `size` px of an image of `whole` / `scale` px."""
    resized = (whole / scale + ROUNDING).floor()
    own = whole / resized  # the longer side is cut to whole px, so its scale is a little another
    start = ((resized - size) / 2).round() * own
    return torch.stack([_inside(stored, whole)[:, 0] + start, size * own], 1)


def _inside(stored: int, whole: Tensor) -> Tensor:
    """(B, 2) interval of an image of `whole` px in its padded square, as `shards.images` pads."""
    return torch.stack([((stored - whole) / 2).floor(), whole], 1)


def _square(stored: int, resize: int, size: int, offset: Tensor) -> Tensor:
    """(B, 2) interval in stored px of a crop of `size` px, `offset` px off the resized centre."""
    scale = stored / resize
    start = ((resize - size) // 2 + offset) * scale
    return torch.stack([start, torch.full_like(start, size * scale)], 1)


def sample(
    images: Tensor,
    rows: Tensor,
    columns: Tensor,
    size: int,
    flip: Tensor | None,
    *,
    cubic: bool,
    seen: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Resample boxes of images with an antialiasing filter.

    Args:
        images: (B, H, H) uint8 or float.
        rows: (B, 2) start and length in px along rows.
        columns: the same along columns.
        size: side of the result.
        flip: (B,) bool, mirror left and right; None for no sample.
        cubic: bicubic (a = -0.5) instead of bilinear.
        seen: (B, 2) intervals of rows and of columns that the filter sees; by default the whole
            source, as if all of it was resized and then cropped.

    Returns:
        (B, size, size) float in [0, 1].
    """
    x = images.float().div_(255) if images.dtype == torch.uint8 else images
    tall, wide = seen or (None, None)
    if flip is not None:  # backwards from its end
        mirrored = torch.stack([columns.sum(1), -columns[:, 1]], 1)
        columns = torch.where(flip[:, None], mirrored, columns)
    down = filter_matrix(rows, images.shape[-1], size, cubic=cubic, seen=tall)
    across = filter_matrix(columns, images.shape[-1], size, cubic=cubic, seen=wide)
    return (down @ x @ across.transpose(1, 2)).clamp_(0, 1)


def filter_matrix(
    box: Tensor, inside: int, out: int, *, cubic: bool, seen: Tensor | None = None
) -> Tensor:
    """Antialiased resampling weights, as Pillow and torch (antialias=True) define them.

    Args:
        box: (B, 2) start and length in px of the interval that becomes `out` px; one of negative
            length is run through backwards.
        inside: source px.
        out: target px.
        cubic: bicubic with a = -0.5, else triangle.
        seen: (B, 2) interval that the filter sees, None for all of the source.

    Returns:
        (B, out, inside); rows sum to 1.
    """
    start, length = box[:, :1, None], box[:, 1:, None]
    scale = length / out
    target = torch.arange(out, device=box.device, dtype=box.dtype)[None, :, None]
    source = torch.arange(inside, device=box.device, dtype=box.dtype)[None, None, :]
    centre = start + (target + 0.5) * scale
    # In place from here on: the maps are large, and new memory costs more than the arithmetic.
    distance = (source + 0.5 - centre).div_(scale.abs().clamp(min=1)).abs_()
    weight = _cubic(distance) if cubic else (1 - distance).clamp_(min=0)
    if seen is not None:
        first, end = seen[:, :1, None], seen.sum(1)[:, None, None]
        weight.mul_((source >= first.floor()) & (source < end.ceil()))
    return weight.div_(weight.sum(-1, keepdim=True))


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5: a cubic up to 1, another up to 2, 0 beyond.

    Each cubic is 0 at its ends, so that holding it there leaves their sum: no slow `where`.
    """
    near, far = x.clamp(max=1), x.clamp(1, 2)
    near = (near * 1.5).sub_(2.5).mul_(near).mul_(near).add_(1)
    return near.add_((far * -0.5).add_(2.5).mul_(far).sub_(4).mul_(far).add_(2))


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
