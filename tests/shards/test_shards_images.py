"""Decoding pictures and squaring them against brute force, hand-made files and real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shards_files import dicom, picture

from cxrmim.shards import images
from cxrmim.shards.images import UnreadableError, area, dhash, read_bytes, square, stretch

ORIENTATION = 0x0112  # EXIF


def decode(content: bytes, side: int | None = None) -> np.ndarray:
    return images.decode(content, side).pixels


def by_maximum(pixels: np.ndarray) -> np.ndarray:
    """The official rule: times 255 / maximum, rounded."""
    return np.rint(pixels * (255 / pixels.max()))


RAMP = np.arange(200, dtype=np.uint8).reshape(10, 20)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def test_eight_bit_grey_keeps_its_values():
    assert (decode(picture(Image.fromarray(RAMP))) == RAMP).all()


def test_sixteen_bit_grey_is_multiplied_by_255_over_its_maximum():
    deep = RAMP.astype(np.uint16) * 20
    assert (decode(picture(Image.fromarray(deep))) == by_maximum(deep)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_become_one_grey_channel(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    grey = np.where(RAMP > 100, 255, 0).astype(np.uint8)
    image = Image.fromarray(grey).convert(mode)
    assert (decode(picture(image, kind)) == grey).all()


def test_a_transparent_palette_and_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    found = decode(picture(image, transparency=0))
    assert found.tolist() == [[76, 150]]  # 0.299 and 0.587 of 255


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_every_colour_space(mode):
    grey = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0)
    found = decode(picture(Image.fromarray(grey).convert(mode), "JPEG", quality=100))
    assert np.abs(found.astype(int) - grey).max() <= 3


def test_the_content_decides_what_a_file_is(tmp_path):
    """The name is not asked: `decode` never sees it, whatever a file was called."""
    for content in (picture(Image.fromarray(RAMP)), dicom(by_maximum(RAMP).astype(np.uint8))):
        path = tmp_path / "called.jpg"
        path.write_bytes(content)
        assert images.decode(read_bytes(path)).shape == (10, 20)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda p: p),
        (2, np.fliplr),
        (3, lambda p: np.rot90(p, 2)),
        (4, np.flipud),
        (5, lambda p: p.T),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p.T, 2)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_obeyed(orientation, undo, kind):
    stored = np.zeros((64, 96), dtype=np.uint8)
    stored[:32, :32], stored[32:, 64:] = 250, 120
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = picture(Image.fromarray(stored), kind, exif=exif)
    upright = undo(stored)
    found = images.decode(content)
    assert found.pixels.shape == found.shape == upright.shape
    assert np.abs(found.pixels.astype(int) - upright).max() <= 3
    scaled = images.decode(content, 12)
    assert scaled.shape == upright.shape
    difference = square(scaled.pixels, 12, scaled.shape).astype(int) - square(upright, 12)
    assert np.abs(difference).max() <= 3


def test_stretching_degenerate_values():
    assert (stretch(np.zeros((2, 2), dtype=np.uint16)) == 0).all()
    assert stretch(np.array([[-10, 10]], dtype=np.int16)).tolist() == [[255, 255]]
    assert stretch(np.array([[7]], dtype=np.uint16)).tolist() == [[255]]
    for bad in (np.nan, np.inf):
        with pytest.raises(UnreadableError, match="no numbers"):
            stretch(np.array([[bad, 1.0]]))


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30))
@settings(max_examples=50)
def test_stretching_by_table_is_the_rule_itself(values):
    raw = np.array([values], dtype=np.uint16)
    top = max(values) or 1
    assert (stretch(raw) == np.rint(raw * (255.0 / top))).all()


def covered(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area means by brute force: each source pixel's covered share of each output pixel."""

    def shares(n: int, m: int) -> np.ndarray:
        edges, index = np.arange(m + 1) * n / m, np.arange(n)
        low = np.maximum(edges[:-1, None], index)
        return np.clip(np.minimum(edges[1:, None], index + 1) - low, 0, 1) * m / n

    return shares(pixels.shape[0], height) @ pixels @ shares(pixels.shape[1], width).T


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shrink=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_area_averaging_is_exact(shape, shrink, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    height, width = (max(1, int(n * s)) for n, s in zip(shape, shrink, strict=True))
    found = area(pixels, height, width)
    assert found.shape == (height, width)
    assert np.abs(found - covered(pixels, height, width)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("shape", [(3056, 2544), (4100, 4100), (5000, 3400)])
def test_area_averaging_of_large_images_does_not_overflow(shape):
    """White stays white; the two halves of a picture keep their means."""
    assert (area(np.full(shape, 255, dtype=np.uint8), 256, 200) == 255).all()
    halves = np.full(shape, 254, dtype=np.uint8)
    halves[: shape[0] // 2] = 3
    found = area(halves, 256, 200)
    assert (found[:128] == 3).all()
    assert (found[128:] == 254).all()


def test_a_jpeg_is_decoded_at_least_three_times_as_large_as_wanted():
    content = picture(Image.fromarray(NOISE).resize((1000, 800)), "JPEG")
    expected = {
        41: (100, 125),
        42: (200, 250),
        83: (200, 250),
        84: (400, 500),
        166: (400, 500),
        167: (800, 1000),
        2000: (800, 1000),
    }
    found = {side: images.decode(content, side) for side in expected}
    assert {side: decoded.pixels.shape for side, decoded in found.items()} == expected
    assert {decoded.shape for decoded in found.values()} == {(800, 1000)}
    assert images.decode(content).pixels.shape == (800, 1000)


def test_a_reduced_jpeg_is_near_the_full_one():
    """A smooth picture with noise, as radiographs are: at most 0.5 grey levels apart on average."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:1528, :1272]
    smooth = 120 + 80 * np.sin(x / 190) * np.cos(y / 240) + 20 * np.sin(x / 11)
    pixels = np.clip(smooth + rng.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8)
    content = picture(Image.fromarray(pixels), "JPEG", quality=95)
    full, scaled = images.decode(content), images.decode(content, 128)
    assert scaled.pixels.shape == (764, 636)
    difference = square(scaled.pixels, 128, scaled.shape).astype(int) - square(full.pixels, 128)
    assert 0 < np.abs(difference).mean() <= 0.5


@pytest.mark.parametrize("kind", ["PNG", "DICOM", "TIFF"])
def test_only_jpegs_are_decoded_at_a_reduced_scale(kind):
    content = dicom(NOISE) if kind == "DICOM" else picture(Image.fromarray(NOISE), kind)
    assert images.decode(content, 8).pixels.shape == (64, 64)


def test_one_pixel_and_one_line():
    for kind in ("PNG", "JPEG"):
        assert square(decode(picture(Image.new("L", (1, 1), 200), kind), 16), 16).sum() == 200
    line = decode(picture(Image.new("L", (900, 1), 7)), 8)
    assert square(line, 8).max() == 7


def test_the_perceptual_hash_says_which_neighbour_is_brighter():
    """272 px: 16 rows of 17 px each, 17 columns of 16 px."""
    rng = np.random.default_rng(1)
    small = 128 + np.cumsum(rng.choice([-6, 6], (16, 17)), axis=1)
    image = np.kron(small, np.ones((17, 16))).astype(np.uint8)
    expected = np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()
    assert dhash(image) == expected
    assert len(set(expected)) > 4
    darker = (image // 2 + 20).astype(np.uint8)
    larger = np.kron(image, np.ones((3, 3), dtype=np.uint8))
    assert dhash(darker) == dhash(larger) == expected
    assert dhash(decode(picture(Image.fromarray(image), "JPEG", quality=90))) == expected
    assert dhash(image[:, ::-1].copy()) != expected
    assert dhash(np.zeros((64, 64), dtype=np.uint8)) == "0" * 64
    assert dhash(np.full((16, 16), 9, dtype=np.uint8)) == "0" * 58  # 15 x 15 comparisons


def test_a_square_is_padded_in_the_centre():
    found = square(np.full((40, 20), 200, dtype=np.uint8), 10)
    expected = np.zeros((10, 10))
    expected[:, 2:7] = 200  # 5 wide, 5 to pad: 2 left, 3 right
    assert (found == expected).all()
    assert (square(np.full((20, 40), 200, dtype=np.uint8), 10) == expected.T).all()


def test_a_small_image_is_padded_and_never_enlarged():
    found = square(np.full((4, 6), 9, dtype=np.uint8), 10)
    assert (found > 0).sum() == 24
    assert (found[3:7, 2:8] == 9).all()
    assert (square(RAMP[:, :10], 10) == RAMP[:, :10]).all()
    assert square(np.full((1, 900), 7, dtype=np.uint8), 8).max() == 7  # no side shrinks to nothing


def test_every_real_file_decodes(repo):
    folder = repo.parent / "shared/real"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real radiographs are not part of the repository")
    files = [p for p in sorted(folder.rglob("*.*")) if p.suffix in (".png", ".jpeg", ".dcm")]
    assert len(files) > 40
    modes = set()
    for path in files:
        if path.suffix != ".dcm":
            with Image.open(path) as image:
                modes.add(image.mode)
        content = path.read_bytes()
        full, scaled = images.decode(content), images.decode(content, 256)
        assert full.shape == full.pixels.shape == scaled.shape
        stored = square(full.pixels, 256)
        assert stored.shape == (256, 256)
        assert stored.std() > 10
        difference = square(scaled.pixels, 256, scaled.shape).astype(int) - stored
        assert np.abs(difference).mean() <= 0.5, path.suffix
    assert {"L", "RGB", "RGBA"} <= modes
