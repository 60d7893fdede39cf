"""Models of the blocks of params.yaml; `cxrmim.params` reads the file into them."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from cxrmim.plugins import Strict

Tree = dict[str, Any]
Scale = Literal["demo", "trend", "phantom", "paper"]
Paper = Literal["medim", "cmitm"]  # each is also the entry of the paper's own method
PAPERS: tuple[Paper, ...] = get_args(Paper)
Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
Grey = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Seeds(Strict):
    """Seeds of pretraining and of downstream runs."""

    pretrain: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    downstream: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


# Which runs of a checkpoint share a job: of a dataset, task and percent; of the first two; all.
Cut = Literal["fraction", "dataset", "checkpoint"]


class Threads(Strict):
    """CPU threads of a job, by stop."""

    phantom: Positive
    manifest: Positive
    shards: Positive
    pretrain: Positive
    downstream: Positive
    report: Positive


class Gpus(Strict):
    """GPUs that a process of a stop is given on a cluster; 0 where a scale computes on CPUs."""

    pretrain: Annotated[int, Field(ge=0)]
    downstream: Annotated[int, Field(ge=0)]


class PhantomParams(Strict):
    """Generated data: `raster` is the long side in px, `patients` counts per dataset."""

    seed: Annotated[int, Field(ge=0)]
    raster: Annotated[int, Field(ge=32, le=2048)]
    difficulty: Literal["easy", "mid", "hard"]
    patients: dict[Name, Positive]


class Subset(Strict):
    """How the 1 % and 10 % label subsets are drawn.

    `lists` keeps the subsets that an imported split brings along; `reseed` draws one for each
    downstream seed instead of one for all.
    """

    lists: bool
    nested: bool
    reseed: bool
    seed: Annotated[int, Field(ge=0)]
    min_positives: Annotated[int, Field(ge=0)]


class DatasetEntry(Strict):
    """Another reading of a dataset.

    `audit`: for the audit alone; `lists`: needs the MRM lists; `released`: the official code's side
    of every switch, of the dataset's and of the tasks that are evaluated on it.
    """

    dataset: Name
    audit: bool = False
    lists: bool = False
    released: bool = False
    set: Tree = {}


class ManifestParams(Strict):
    """Raw data: whose it is, where it lies, and each dataset's own options."""

    source: Literal["real", "phantom"]
    max_unreadable: Unit
    roots: dict[Name, str | None]
    lists: str | None = None
    remote: str | None = None
    subset: Subset
    datasets: dict[Name, Tree]
    entries: dict[Name, DatasetEntry] = {}


class Mesh(Strict):
    """The MeSH headings: our own list, or the NLM's descriptor file and which of its trees."""

    source: Literal["radiology", "nlm"]
    file: str | None
    trees: Annotated[list[Annotated[str, Field(pattern=r"^[A-Z][0-9.]*$")]], Field(min_length=1)]


class RawText(Strict):
    """Tokens of whole reports, as MRM reads them."""

    tokenizer: Literal["mrm", "phantom"]
    vocab: Annotated[int, Field(ge=100)]
    length: Annotated[int, Field(ge=8, le=512)]


class ShardText(Strict):
    """Tokenised reports: WordPiece vocabulary, tokens a caption, MeSH list, whole reports."""

    tokenizer: Literal["bioclinicalbert", "phantom"]
    vocab: Annotated[int, Field(ge=100)]
    length: Annotated[int, Field(ge=8, le=512)]
    mesh: Mesh
    raw: RawText | None


class ShardsParams(Strict):
    """Stored arrays: sides of the square uint8 images in px, of the corpus and of the others."""

    side: Annotated[int, Field(ge=16)] | Literal["auto"]
    side_downstream: Annotated[int, Field(ge=16)]
    decode: Literal["scaled", "full"]
    text: ShardText


class Vit(Strict):
    """Vision transformer dimensions (timm), and how untrained weights are drawn."""

    patch: Positive
    width: Positive
    depth: Positive
    heads: Positive
    mlp: Annotated[float, Field(gt=0)]
    init: Literal["normal", "xavier"] = "normal"


class TextModel(Strict):
    """BERT dimensions (transformers) and the ledger's switches of the text encoder."""

    layers: Positive
    width: Positive
    heads: Positive
    mlp: Positive
    dropout: Unit
    positions: Literal["normal", "zero"]
    attn_shift: Literal["none", "released"]


class Optim(Strict):
    """Optimiser; `clip` limits the gradient norm (0: none), `decay_1d` decays 1-D weights too."""

    name: Literal["adamw", "adam"]
    lr: Annotated[float, Field(gt=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    decay_1d: bool
    clip: Annotated[float, Field(ge=0)]


class Schedule(Strict):
    """Learning rate: linear warm-up over a share of all steps, then cosine to `end`."""

    name: Literal["cosine", "plateau"] = "cosine"
    warmup: Unit
    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]
    factor: Unit = 0.5
    patience: Positive = 5


class Augment(Strict):
    """Image augmentation of a pretraining; sizes in px at the input scale."""

    resize: Positive
    crop: Literal["random", "resized", "centre"]
    area: tuple[Unit, Unit] = (1.0, 1.0)
    flip: Unit = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: Unit = 0.0
    grey_p: Unit = 0.0
    blur: tuple[float, float] = (0.1, 2.0)
    blur_p: Unit = 0.0
    mean: Grey
    std: Grey


class Stop(Strict):
    """When a training ends and which weights it keeps (ledger: `ckpt.select`).

    `patience` is the number of epochs without a better validation loss after which it stops (0:
    never); `select` keeps the weights of the last epoch or of the best validated one.
    """

    patience: Annotated[int, Field(ge=0)] = 0
    select: Literal["last", "best"] = "last"


class Loader(Strict):
    """How batches are made of the corpus.

    `valid` is the share of the training patients that is kept for validation where the corpus has
    no validation split, only by methods that look at a validation loss; `drop_val` leaves out its
    last, incomplete batch, as the official code does.
    """

    valid: Annotated[float, Field(gt=0, lt=1)]
    drop_val: bool


class Save(Strict):
    """Resuming: minutes between saved states, and how many are kept."""

    minutes: Annotated[float, Field(ge=0)]
    keep: Positive


class Method(Strict):
    """A pretraining method as resolved for one entry.

    `stand_in` says what stands in for weights that a scale has not got; it is printed beside the
    row's name.
    """

    papers: list[Paper] = list(PAPERS)
    base: Name | None = None
    trains: bool = True
    init: str = "none"
    shuffle_pairs: bool = False
    batch: Positive = 1
    epochs: Positive = 1
    optim: Optim | None = None
    schedule: Schedule | None = None
    augment: Augment | None = None
    stop: Stop = Stop()
    stand_in: str | None = None
    options: Tree = {}


class Entry(Strict):
    """A variant of a method, or another name for an entry that is already there.

    `released`: trained with the official code's side of every switch; `corpus`: on another reading
    of the reports than the methods.
    """

    method: Name | None = None
    alias: Name | None = None
    released: bool = False
    corpus: Name | None = None
    set: Tree = {}


class PretrainParams(Strict):
    """The pretraining stop: shared encoder dimensions, methods and their variants.

    `processes` train one checkpoint together, under torchrun, on `nodes` machines; `accumulate`
    micro-batches make one step; `explode` is the multiple of the recent median loss at which
    training stops.
    """

    corpus: Name
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "bf16", "fp16"]
    processes: Positive
    nodes: Positive
    accumulate: Positive
    negatives: Literal["batch", "shard"]
    loader: Loader
    save: Save
    explode: Annotated[float, Field(gt=1)]
    image: Annotated[int, Field(ge=16)]
    vit: Vit
    text: TextModel
    methods: dict[Name, Tree]
    entries: dict[Name, Entry]


class DownstreamParams(Strict):
    """The downstream stop: how the grid is cut into jobs, and each task's options."""

    cut: Cut | dict[str, Cut]
    bootstrap: Annotated[int, Field(ge=2)]
    baselines: dict[Name, list[Name]]
    probe: Tree
    segment: Tree
    retrieve: Tree
    finetune: Tree
    attend: Tree


FRAME = {"cut", "bootstrap", "baselines"}  # what of `downstream` is not a task


class ReportParams(Strict):
    """The report stop."""

    site_images: bool


class Cells(Strict):
    """Table columns that share a dataset and a task.

    `percents` are shares of the training labels; `seeded` says that a run draws random numbers, so
    that it is repeated over the downstream seeds.
    """

    dataset: Name
    task: Name
    percents: list[Literal[1, 10, 100]]
    seeded: bool = True


class Block(Strict):
    """What one table or figure needs: its rows are entries, or all methods of a paper."""

    paper: Paper | None = None
    rows: list[Name] | Literal["methods"]
    cells: list[Cells]
