"""The commands of ``ts4s``: one entry a command. To add one, add its line here and the function that it names."""

from __future__ import annotations

from collections.abc import Sequence

from flows.cli.command import Argument, Command, Option
from flows.deployment.specs import DeployOptions
from ts4s_core.planning.options import PlanOptions
from ts4s_core.prediction.options import PredictOptions

_PIPELINE = ("model", "data", "train", "evaluate", "spark", "storage")
_FROM = Option(
    "--from", "use this artifact (may be given several times); default: the newest under --name", "KIND/NAME/VERSION", repeat=True
)
_REASON = Option("--reason", "why: kept in the registry's history", required=True)
_ALIAS = Option("--alias", "the alias to move; default: champion", "ALIAS")
_MODEL = Argument("model", "NAME, NAME@ALIAS or NAME@VERSION; plain NAME is the champion, else the newest trained version")

_DEPLOY = (
    Option("--pool", "the work pool; created as a pool of processes if it does not exist", "NAME", default=DeployOptions.pool),
    Option("--cron", "when the nightly retraining starts", "'M H D M W'", default=DeployOptions.cron),
    Option("--timezone", "time zone of --cron, as in Europe/Madrid", "ZONE", default=DeployOptions.timezone),
    Option("--watch-every", "seconds between looks at data.source, 0: none", "SECONDS", default=DeployOptions.watch_every_s),
    Option("--limit", "trainings at a time", "N", default=DeployOptions.limit),
)
_STACK_FOLDER = Option("--folder", "where its state, logs and data are; default: .ts4s-stack", "FOLDER")

COMMANDS: tuple[Command, ...] = (
    Command(
        "retrain",
        "Retrain a model from labelled text: export, import, prepare, train, evaluate, promote if better.",
        "flows.cli.commands.retrain:retrain_command",
        _PIPELINE,
        notes="Steps that were already done with the same inputs and settings are not done again. A run of the same model "
        "that is under way elsewhere is waited for.",
        flow="retrain",
    ),
    Command(
        "language-model",
        "Train a language model on plain text: tokenizer, windows, decoder, training, evaluation, a generated sample.",
        "flows.cli.commands.language_model:language_model_command",
        (*_PIPELINE, "generate"),
        notes="Without data.source the text is the topics of Python's own help. What is not set has defaults for this command: "
        "a small decoder (model.source config:decoder) with a tokenizer trained on the text, and a schedule to go with it.",
        flow="language-model",
    ),
    Command(
        "export",
        "Write the base model as an ONNX artifact with its tokenizer and the names of its weights.",
        "flows.cli.commands.steps:export_command",
        ("model", "data", "train", "storage"),
        (Option("--to", "also write a plain ONNX file", "FILE.onnx"),),
        flow="export",
    ),
    Command(
        "import",
        "Turn an ONNX artifact into a trainable model with a new head, and check that it computes the same.",
        "flows.cli.commands.steps:import_command",
        ("model", "data", "train", "storage"),
        (_FROM,),
        notes="Class names come from --from dataset/..., else from the newest dataset under --name, else from model.classes.",
        flow="import",
    ),
    Command(
        "prepare",
        "Check, split and tokenise labelled text into a dataset artifact.",
        "flows.cli.commands.steps:prepare_command",
        ("model", "data", "train", "spark", "storage"),
        (_FROM,),
        flow="prepare",
    ),
    Command(
        "train",
        "Train an imported model on a dataset.",
        "flows.cli.commands.steps:train_command",
        ("model", "train", "spark", "storage"),
        (_FROM,),
        flow="train",
    ),
    Command(
        "evaluate",
        "Measure a trained model on the test side of a dataset.",
        "flows.cli.commands.steps:evaluate_command",
        ("model", "data", "train", "evaluate", "generate", "spark", "storage"),
        (_FROM,),
        flow="evaluate",
    ),
    Command(
        "generate",
        "Go on from a prompt, or from each line of a file, with a trained language model.",
        "flows.cli.commands.generate:generate_command",
        ("generate", "storage"),
        (Option("--model", "the language model: NAME, NAME@ALIAS or NAME@VERSION", "NAME[@...]", required=True),),
        notes="The text is written as it comes. The same seed gives the same text for a prompt, whatever other prompts stand "
        "beside it. With --json: prompts, texts, tokens, tokens_per_s. A prompt has to fit into the model's window.",
    ),
    Command(
        "predict",
        "Predict every row of a source with a trained model: labels with probabilities, or embeddings.",
        "flows.cli.commands.predict:predict_command",
        ("data", "train", "spark", "storage"),
        (
            Option(
                "--model", "NAME, NAME@ALIAS or NAME@VERSION; plain NAME is the champion, else the newest", "NAME", required=True
            ),
            Option(
                "--output",
                "new folder, s3:// prefix, or table:NAME of Spark's for the result; default: a sealed predictions artifact",
                "URI",
            ),
            Option(
                "--errors",
                "rows that cannot be predicted: mark them in the column error, or refuse",
                "mark|refuse",
                default=PredictOptions.errors,
            ),
            Option(
                "--embeddings",
                "in place of labels a vector: the mean of the tokens', or the first one's",
                "none|mean|first",
                default=PredictOptions.embeddings,
            ),
            Option(
                "--form",
                "parquet, or vectors: the text form of word vectors, for embeddings",
                "parquet|vectors",
                default=PredictOptions.form,
            ),
        ),
        notes="The source needs no labels: of a tsv line with a tab the part behind it is the text. Every row comes out. "
        "ONNX Runtime runs the model, with train.threads_per_worker threads a task.",
        flow="predict",
    ),
    Command("models list", "List the models in the store.", "flows.cli.commands.models:list_command", ("storage",)),
    Command(
        "models show",
        "Show one model: version, aliases, metrics, hash of its weights, what it was made from.",
        "flows.cli.commands.models:show_command",
        ("storage",),
        arguments=(_MODEL,),
    ),
    Command(
        "models promote",
        "Make a version the champion.",
        "flows.cli.commands.models:promote_command",
        ("storage",),
        (_REASON, _ALIAS),
        (Argument("model", "the model's name"), Argument("version", "the version to promote")),
    ),
    Command(
        "models rollback",
        "Make the champion before this one the champion again.",
        "flows.cli.commands.models:rollback_command",
        ("storage",),
        (_REASON, _ALIAS),
        (Argument("model", "the model's name"),),
    ),
    Command(
        "models verify",
        "Read every file in the store and compare it with its manifest; exit 1 if one is damaged.",
        "flows.cli.commands.models:verify_command",
        ("storage",),
        arguments=(Argument("model", "look at this name alone", optional=True),),
    ),
    Command(
        "models export",
        "Write a trained model for other tools, after checking that it computes the same.",
        "flows.cli.commands.hand_over:export_command",
        ("train", "storage"),
        (
            Option("--format", "hf, onnx, torch, onnx-int8 or onnx-int4", "FORMAT", required=True),
            Option("--to", "a new folder, or an empty one; written whole or not at all", "DIR", required=True),
        ),
        (_MODEL,),
        notes="hf: a folder for from_pretrained. onnx: one file of standard operators. torch: a program for torch.export.load. "
        "onnx-int8 and onnx-int4: quantised files, measured beside the FP32 one on the held-out rows, and refused if more than "
        "one point of accuracy is lost. labels.json, the tokenizer and export.json (what was checked) are beside each.",
    ),
    Command(
        "models compare",
        "Compare two trained models on the same held-out rows, with the 95 % interval of each difference.",
        "flows.cli.commands.hand_over:compare_command",
        ("train", "spark", "storage"),
        (
            Option(
                "--from",
                "the dataset whose test side is used; default: the newest they were trained on",
                "KIND/NAME/VERSION",
                repeat=True,
            ),
        ),
        (Argument("a", "NAME, NAME@ALIAS or NAME@VERSION"), Argument("b", "the other one")),
        notes="Rows whose text either was trained on are left out. Nothing is written.",
    ),
    Command(
        "models gc",
        "Delete what no model needs any more, and what broken runs left.",
        "flows.cli.commands.models:gc_command",
        ("storage",),
        (Option("--dry-run", "say what would be deleted, delete nothing", switch=True),),
    ),
    Command(
        "plan",
        "Say before a run what training will cost: memory, time and traffic for 1, 2, 4, ... workers.",
        "flows.cli.commands.plan:plan_command",
        ("model", "data", "train", "storage"),
        (
            _FROM,
            Option("--workers", "largest number of workers in the table; default: train.logical_shards", "N"),
            Option("--workers-per-host", "workers that share a host; default: as many as this machine has cores for", "N"),
            Option("--network", "speed of a host's network", "SPEED", default=PlanOptions.network),
            Option("--memory", "memory of a host, as in 16GB; default: this machine's", "SIZE"),
            Option("--rows", "training rows to assume where there is no dataset", "N", default=PlanOptions.rows),
            Option("--tokens", "typical tokens of a row to assume likewise", "N", default=PlanOptions.tokens),
        ),
        notes="Measures real steps on this machine for a few seconds: of the newest imported model and dataset under --name, or, "
        "where there are none yet, of random weights in the shape of model.source on rows of assumed lengths. "
        "Starts no Spark and no server and writes nothing. Refuses what cannot fit into memory.",
        flow="plan",
    ),
    Command(
        "deploy",
        "Make or update work pool, deployments and automations on a Prefect server; a second call changes nothing.",
        "flows.cli.commands.deploy:deploy_command",
        _PIPELINE,
        _DEPLOY,
        notes="Needs PREFECT_API_URL. The settings that are given become the parameters of the runs; local paths are made "
        "absolute. Secrets belong into the worker's environment (TS4S_STORAGE__KEY, ...). With TS4S_NOTIFY_URL in the "
        "environment that address is notified of failures and promotions.",
        flow="retrain",
    ),
    Command(
        "run-deployments",
        "Run the same deployments without a work pool, in this process, until Ctrl-C or SIGTERM.",
        "flows.cli.commands.deploy:run_deployments_command",
        _PIPELINE,
        _DEPLOY[1:],
        notes="Needs PREFECT_API_URL, like deploy. Schedules are paused when it ends, and go on when it is started again. "
        "It was called serve, which still works; it answers no requests for predictions.",
        flow="retrain",
        alias="serve",
    ),
    Command(
        "stack up",
        "Start Prefect with a worker, a Spark cluster and an S3 server on this machine, and deploy the flows to them.",
        "flows.cli.commands.stack:up_command",
        ("model", "data", "train", "evaluate"),
        (
            _STACK_FOLDER,
            Option("--cores", "cores that each of the two Spark workers offers; default: half of this machine's", "N"),
            Option("--memory", "memory that each of them offers; default: 2g", "SIZE"),
            *_DEPLOY,
        ),
        notes="All listen on 127.0.0.1 at free ports and go on to run until ts4s stack down. The settings that are given become "
        "the parameters of the deployments; cluster and store are the stack's own. The file ts4s.toml in the folder (it "
        "holds the store's keys: its owner alone can read it) is for --config of other commands. A second call changes only the "
        "deployments.",
        flow="retrain",
    ),
    Command(
        "stack status",
        "Say what of the stack is alive; exit 1 unless all of it is.",
        "flows.cli.commands.stack:status_command",
        (),
        (_STACK_FOLDER,),
    ),
    Command(
        "stack down",
        "End every process of the stack; its store and Prefect's database stay in the folder.",
        "flows.cli.commands.stack:down_command",
        (),
        (_STACK_FOLDER,),
    ),
    Command(
        "environment pack",
        "Write this environment as an archive for a cluster whose hosts have a bare Python, and say which settings use it.",
        "flows.cli.commands.environment:pack_command",
        ("storage",),
        (
            Option("--to", "a new file NAME.tar.gz, in a folder or on s3://", "URI", required=True),
            Option(
                "--with",
                "a library of your own, taken along with what it needs (may be given several times)",
                "NAME",
                repeat=True,
            ),
        ),
        notes="It holds ts4s and the libraries that it needs, as they are installed here, without Spark's jars and Java. The "
        "hosts need a Python of the same minor version and a system of the same kind (Linux, the processor's family).",
    ),
    Command(
        "doctor",
        "Check Java, memory, slots, the store and versions on this machine.",
        "flows.cli.commands.doctor:doctor_command",
        ("spark", "train", "storage"),
    ),
)


def find_command(words: Sequence[str], commands: Sequence[Command] = COMMANDS) -> tuple[Command | None, int]:
    """The command that the first words name, and how many words that are."""
    for length in (2, 1):
        name = " ".join(words[:length])
        for command in commands:
            if name in (command.name, command.alias) and len(words) >= length:
                return command, length
    return None, 0
