"""The training loop: a corpus -> a trained method and its numbers."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cxrmim import grid, job, record
from cxrmim.errors import CxrmimError, DataError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.pretrain import data, validation, weights
from cxrmim.pretrain.contract import Method
from cxrmim.pretrain.devices import build_accelerator, check_processes
from cxrmim.pretrain.parts import world
from cxrmim.pretrain.schedule import build_optimiser, build_schedule, check
from cxrmim.pretrain.state import Keeper, keeper
from cxrmim.pretrain.validation import Validation
from cxrmim.pretrain.watch import TOTAL, DivergedError, Live, Watch, rounded
from cxrmim.progress import meter
from cxrmim.shards.store import Shards, open_shards

log = logging.getLogger("cxrmim")
Tree = dict[str, Any]
SAVE, STOP = 1, 2


@dataclass(frozen=True)
class Trained:
    """A trained method and what its record tells.

    Attributes:
        method: the method, on the device that it was trained on.
        metrics: final losses by term, loss curve, steps, images seen, epochs and why they ended.
    """

    method: Method
    metrics: dict[str, object]


def run(params: Params, checkpoint: str) -> None:
    """Train one checkpoint, write its weights and its record.

    A run that was killed goes on from its last saved state and ends with the same weights.

    Raises:
        CxrmimError: shards or weights to start from are missing, or training diverged.
        StoppedError: SIGTERM came; the state is saved.
    """
    with job.warnings() as warnings:  # from the start to the end: a signal must not kill the job
        _run(params, checkpoint, warnings)


def _run(params: Params, checkpoint: str, warnings: job.Warnings) -> None:
    item = grid.entry_of(checkpoint)
    block = params.pretraining(item.entry)[1]
    paths = Paths(params.scale)
    check_processes(params, checkpoint)
    shards: Shards | None = None
    if grid.reads_corpus(block):
        corpus = params.pretrain.corpus
        tree = record.read(paths.record("shards", corpus))
        record.verify(tree, "checksums")  # of the other files, which opening holds to them
        shards = open_shards(paths.shards(corpus))
    torch.manual_seed(item.seed)
    method = prepare(params, item, shards)
    used = weights.initialise(method, params, item)
    states = keeper(params, checkpoint, used)
    trained = train(params, item, method, shards, states=states, warnings=warnings)
    if job.rank() == 0:
        path = weights.save_method(params, checkpoint, trained.method, used)
        record.write(
            params,
            "pretrain",
            checkpoint,
            inputs=used,
            outputs={"weights": path},
            parents=grid.parents(params, "pretrain", checkpoint),
            metrics=trained.metrics,
            seed=item.seed,
            cost=states.cost,
        )
        states.clear()
    world.wait()


def prepare(params: Params, item: grid.Pretraining, shards: Shards | None) -> Method:
    """Build an item's method for a corpus; an untrained one needs none."""
    return weights.build_method(params, item.entry, data.stored_text(shards))


def train(
    params: Params,
    item: grid.Pretraining,
    method: Method,
    shards: Shards | None,
    *,
    states: Keeper | None = None,
    warnings: job.Warnings | None = None,
) -> Trained:
    """Train a method; one that is not trained is handed back as it is.

    The same parameters, seed and corpus give the same weights bit by bit on a CPU thread, killed
    and resumed at any step or not.

    Args:
        params: all parameters.
        item: entry and seed.
        method: with its starting weights.
        shards: the corpus; None for a method that brings its own images or is not trained.
        states: where states are saved and looked for; without it nothing is written at all.
        warnings: what signals have asked for.

    Raises:
        ParamsError: an optimiser, schedule or augmentation is missing, or a batch does not divide.
        DataError: the corpus has too few pairs or no reports.
        DivergedError: a loss is not finite or has exploded; names the source rows of the batch.
        StoppedError: SIGTERM came and the state is saved.
    """
    if not params.pretraining(item.entry)[1].trains:
        return Trained(method, {"steps": 0, "images": 0})
    training = Training(params, item, method, shards, states)
    first = 0
    found = None if states is None else states.load()
    if found is not None:
        first = int(found["step"])
        training.load_state_dict(found)
        del found  # weights and moments, which the training now holds
    if not world.agree(first) == first == -world.agree(-first):
        raise CxrmimError("the processes found different states; give them one results folder")
    if states is not None and world.rank() == 0:
        training.watch.live = Live(Paths(params.scale).curves(item.checkpoint), first)
    steps = training.order.steps
    with meter(item.checkpoint, steps, first, shown=world.rank() == 0) as tell:
        for step in range(first, steps):
            if training.ended:
                break
            training.step(step)
            if training.order.ends(step):
                training.close_epoch(training.order.epoch(step))
            if step + 1 < steps and not training.ended:
                _attend(training, step + 1, states, warnings or job.Warnings())
            tell(step + 1, training.watch.line)
    return training.finish()


def _attend(training: "Training", step: int, states: Keeper | None, warnings: job.Warnings) -> None:
    """Between two steps: save when it is time or a signal asks for it; stop if told to.

    Raises:
        StoppedError: SIGTERM came to any of the processes.
    """
    if states is None:
        return
    timed = world.rank() == 0 and states.due
    asked = world.agree(STOP if warnings.stop else SAVE if warnings.save or timed else 0)
    if not asked:
        return
    training.inspect()  # nothing is saved unseen
    if world.rank() == 0:
        states.save(step, training.state_dict())
    warnings.save = False
    world.wait()
    if asked == STOP:
        raise job.StoppedError(
            f"stopped by SIGTERM at step {step}; saved; run the same command to go on"
        )


class Training:
    """One training between two of its steps: everything that a saved state holds.

    Args:
        params: all parameters.
        item: entry and seed.
        method: with its starting weights.
        shards: the corpus, None for a method's own images.
        states: only asked, in messages, what it holds.
    """

    def __init__(
        self,
        params: Params,
        item: grid.Pretraining,
        method: Method,
        shards: Shards | None,
        states: Keeper | None = None,
    ) -> None:
        block, shared = params.pretraining(item.entry)[1], params.pretrain
        if block.optim is None or block.schedule is None or block.augment is None:
            raise ParamsError(f"pretrain entry {item.entry}: needs optim, schedule and augment")
        check(block.schedule, item.entry)
        self.seed, self.clip, self.micro = item.seed, block.optim.clip, shared.accumulate
        validated = validation.asked_for(block)
        self.corpus = read_corpus(params, item, method, shards, validated=validated)
        self.order = data.Order(len(self.corpus.train.rows), block.batch, block.epochs, item.seed)
        if self.order.per_epoch == 0:
            raise DataError(
                f"{self.corpus.name}: {self.order.count} training pairs do not fill a batch of "
                f"{block.batch}; lower `batch` of {item.entry}"
            )
        self.accelerator = accelerator = build_accelerator(params, method)
        data.check_batch(params, item.entry, block.batch, world.size())
        self.method = method.to(accelerator.device).train()
        self.model = accelerator.prepare_model(self.method)
        plain = build_optimiser(self.method, block.optim)
        self.optimiser = accelerator.prepare_optimizer(plain)
        self.schedule = build_schedule(plain, block.schedule, self.order.steps)
        self.loader = data.Loader(self.corpus, self.method, accelerator.device, item.seed)
        self.validation: Validation | None = None
        if self.corpus.valid is not None:
            parts = self.micro * (1 if method.setup.joined else world.size())
            self.validation = Validation(
                self.method,
                self.loader,
                self.corpus.valid,
                block.batch // parts,
                drop=shared.loader.drop_val,
                stop=block.stop,
            )
        self.watch = Watch(
            block.batch,
            shared.explode,
            self.corpus.name,
            rows=lambda step: self.corpus.source[self.corpus.train.rows[self.order[step]]].tolist(),
            kept=lambda: "no states are kept" if states is None else states.kept,
        )

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def ended(self) -> bool:
        """Whether the validation loss has ended the training before its last epoch."""
        return self.validation is not None and self.validation.exhausted

    def step(self, number: int) -> None:
        """Take a step; nothing in it waits for the device, but for a look every few steps."""
        self.schedule.at(number)
        pairs = self.corpus.train.of(self.order[number])
        rank, size = world.rank(), world.size()
        torch.manual_seed(data.stream(self.seed, data.DROPOUT, number, rank))
        terms: dict[str, Tensor] = {}
        for part in range(self.micro):
            share = data.Share(part * size + rank, self.micro * size)
            batch = self.loader.train(pairs, number, share)
            with self.accelerator.accumulate(self.model):
                total, losses = self.model(batch)
                self.accelerator.backward(total)
                if self.accelerator.sync_gradients:
                    self.method.after_backward(self.order.epoch(number))
                    if self.clip > 0:
                        self.accelerator.clip_grad_norm_(self.method.parameters(), self.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
            for name, value in {**losses, TOTAL: total}.items():
                mean = value.detach() / self.micro
                terms[name] = terms[name] + mean if name in terms else mean
        self.watch.note(terms)
        if self.watch.due:
            self.watch.look(self.rate)

    def inspect(self) -> None:
        """Look at the losses so far and at the weights; this waits for the device.

        Raises:
            DivergedError: a loss is not finite or has exploded, or the last step's gradient has
                spoilt the weights, which its own loss does not tell.
        """
        self.watch.look(self.rate)
        finite = [torch.isfinite(p.detach()).all() for p in self.method.parameters()]
        if not bool(torch.stack(finite).all()):
            self.watch.spoilt()

    def close_epoch(self, epoch: int) -> None:
        """Look at the losses; validate, and let schedule and early stopping see the result.

        Raises:
            DivergedError: the validation loss is not finite.
        """
        self.watch.look(self.rate)
        self.watch.report(epoch, self.order.per_epoch)
        if self.validation is None:
            return
        loss = self.validation.look()
        log.info("epoch %d: validation %.4f", epoch, loss)
        if not math.isfinite(loss):
            raise DivergedError(
                f"epoch {epoch}: the validation loss is not finite; lower the learning rate; "
                f"{self.watch.kept()}"
            )
        self.schedule.judge(loss)

    def finish(self) -> Trained:
        """The trained method, in eval mode, and its numbers."""
        self.inspect()
        steps, per_epoch = len(self.watch.values), self.order.per_epoch
        metrics: Tree = self.watch.metrics(per_epoch) | {
            "steps": steps,
            "images": steps * self.order.batch,
            "epochs": steps // per_epoch,
        }
        if self.validation is not None:
            self.validation.select()
            metrics |= self.validation.metrics(rounded)
            metrics["stopped"] = "validation" if self.ended else "last epoch"
        method: Method = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        return Trained(method.eval(), metrics)

    def state_dict(self) -> Tree:
        """Everything that the next step depends on; random numbers depend on its number alone."""
        scaler = self.accelerator.scaler
        return {
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "watch": self.watch.state_dict(),
            "validation": None if self.validation is None else self.validation.state_dict(),
        }

    def load_state_dict(self, tree: Tree) -> None:
        """Restore."""
        self.method.load_state_dict(tree["method"])
        self.optimiser.load_state_dict(tree["optimiser"])
        self.schedule.load_state_dict(tree["schedule"])
        self.watch.load_state_dict(tree["watch"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(tree["scaler"])
        if self.validation is not None:
            self.validation.load_state_dict(tree["validation"])


def read_corpus(
    params: Params,
    item: grid.Pretraining,
    method: Method,
    shards: Shards | None,
    *,
    validated: bool,
) -> data.Corpus:
    """What an item learns from: the corpus, or the images that its method brings along."""
    share = params.pretrain.loader.valid
    if shards is None:
        return data.of_method(method, item.entry, item.seed, validated=validated, share=share)
    return data.of_shards(
        shards,
        item.entry,
        method.needs,
        item.seed,
        shuffle=params.pretraining(item.entry)[1].shuffle_pairs,
        validated=validated,
        share=share,
    )
