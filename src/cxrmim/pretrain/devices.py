"""Where a training computes: device, precision, and the processes that share it."""

import logging
import os
from typing import TYPE_CHECKING

import torch

from cxrmim.errors import ParamsError
from cxrmim.params import Params
from cxrmim.pretrain.contract import Method
from cxrmim.pretrain.parts import world

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("cxrmim")


def build_accelerator(params: Params, method: Method) -> "Accelerator":
    """Device, mixed precision, accumulation and data-parallel training.

    bf16 is a GPU's; a CPU computes in fp32.

    Raises:
        ParamsError: fp16 is asked for without a GPU.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    shared = params.pretrain
    device = pick_device(shared.device)
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[shared.precision]
    if device.type == "cpu" and shared.precision == "fp16":
        raise ParamsError("pretrain.precision = 'fp16': needs a GPU; set it to fp32 or bf16")
    if device.type == "cpu" and shared.precision == "bf16":
        log.warning("pretrain.precision = bf16 is for GPUs; this CPU computes in fp32")
        precision = "no"
    if world.size() == 1:  # what an earlier training of this process has set up
        AcceleratorState._reset_state(reset_partial_state=True)
    # Joined BatchNorm gives all processes the same statistics; otherwise those of the first hold.
    spread = DistributedDataParallelKwargs(broadcast_buffers=not method.setup.joined)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=shared.accumulate),
        kwargs_handlers=[spread],
    )


def check_processes(params: Params, checkpoint: str) -> None:
    """Refuse a start with another number of processes than params name.

    Raises:
        ParamsError: naming the command that starts as many.
    """
    started, wanted = int(os.environ.get("WORLD_SIZE", "1")), params.pretrain.processes
    if started != wanted:
        raise ParamsError(
            f"pretrain.processes = {wanted}, and {started} started; change it, or start "
            f"`python -m torch.distributed.run --nproc-per-node {wanted} -m cxrmim.pretrain "
            f"--checkpoint {checkpoint}`"
        )


def pick_device(name: str) -> torch.device:
    """Device that params name; ``auto`` takes a GPU if there is one.

    Raises:
        ParamsError: a GPU is asked for and there is none.
    """
    has = torch.cuda.is_available()
    if name == "cuda" and not has:
        raise ParamsError("pretrain.device = 'cuda': torch sees no GPU; set it to auto or cpu")
    return torch.device("cuda" if has and name != "cpu" else "cpu")
