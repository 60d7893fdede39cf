"""What no loss reads, against what follows from a few layers and from the methods' definitions."""

from __future__ import annotations

import pytest
import torch
from benchmarks.pretrain_steps import Job
from torch import nn
from torch.nn import functional as F

from benchmarks import flops, unread

B, T, W = 2, 5, 4


def found(loss) -> list[tuple[int, float]]:
    """FLOPs of each layer, and the share of them that is unread."""
    return [(layer.flops, layer.unread) for layer in unread.watched(loss).layers]


def test_rows_of_linear_layers():
    x, one, two = torch.randn(B, T, W), nn.Linear(W, 3), nn.Linear(3, 7)
    whole = [(2 * B * T * W * 3, 0.0), (2 * B * T * 3 * 7, 0.0)]
    assert found(lambda: two(one(x)).square().sum().backward()) == whole
    cls = [(number, (T - 1) / T) for number, _ in whole]
    assert found(lambda: two(one(x))[:, 0].square().sum().backward()) == cls
    mixed = [(number, 1 / T) for number, _ in whole]  # a column is enough for a row to be read
    assert found(lambda: two(one(x))[:, 1:, :1].square().sum().backward()) == mixed


def test_a_layer_that_runs_in_vain():
    x, read, dead = torch.randn(B, T, W), nn.Linear(W, 3), nn.Linear(W, 9)

    def loss():
        dead(x)
        (read(x).square().sum() + 0 * dead(x).sum()).backward()

    watch = unread.watched(loss)
    assert [layer.unread for layer in watch.layers] == [1, 0, 1]
    assert watch.unread == {f"linear ({B}, {T}, 9)": 2 * 3 * 2 * B * T * W * 9}
    assert watch.flops == 3 * 2 * B * T * W * (3 + 9 + 9)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_pixels_of_convolutions(kind):
    x = torch.randn(B, 3, 4, 4)
    conv = kind(3, 6, 3, padding=1)  # of stride 1, either has as many products
    got = found(lambda: conv(x)[:, :, :2].square().sum().backward())
    assert got == [(2 * B * 16 * 9 * 3 * 6, 0.5)]


def test_queries_of_attention():
    q, k, v = (torch.randn(B, 2, n, W, requires_grad=True) for n in (T, 7, 7))
    attend = F.scaled_dot_product_attention
    got = found(lambda: attend(q, k, v)[:, :, :2].square().sum().backward())
    assert got == [(2 * 2 * B * 2 * T * 7 * W, 3 / T)]


def test_what_cannot_be_watched_is_an_error():
    with pytest.raises(ValueError, match="no layer"):
        unread.watched(lambda: None)


def rows_of_a_layer(rows: int, tokens: int, width: int, mlp: int, *, query: bool) -> int:
    """A last layer's operations for rows that are not read; their keys and values are."""
    return rows * (2 * (1 + query) * width**2 + 4 * width * mlp + 4 * tokens * width)


@pytest.mark.parametrize("entry", ["medim", "cmitm", "mrm"])
def test_only_of_last_layers_some_rows_are_unread(demo, entry):
    """Without padding: no dead decoder, no unused head, no layer before the last."""
    torch.manual_seed(0)
    job = Job(demo, entry, 3, "cpu", even=True)
    watch, sizes = unread.watched(job.loss), flops.Sizes(job.method, job.batch)
    rows, setup = sizes.rows, job.method.setup.text
    text = {"width": setup.width, "mlp": setup.mlp, "query": True}
    wanted = {
        "medim": lambda: rows_of_a_layer(rows, sizes.tokens, **text),  # of SEP alone
        "cmitm": lambda: (
            rows_of_a_layer(rows * (sizes.tokens - 1), sizes.tokens, **text)  # of all but CLS
            + decoder(sizes, rows)  # of CLS: images are the mean of their patches
        ),
        "mrm": lambda: decoder(sizes, rows * (sizes.kept + 1)),  # of visible patches
    }
    assert sum(watch.unread.values()) == pytest.approx(3 * wanted[entry](), rel=1e-9)
    assert watch.flops == pytest.approx(sum(flops.needed(job.method, job.batch).values()), rel=0.1)


def decoder(sizes: flops.Sizes, rows: int) -> int:
    """Rows of a decoder's last layer, whose query, key and value are one product."""
    width = sizes.options.decoder_width
    return rows_of_a_layer(rows, sizes.patches + 1, width, 4 * width, query=False)
