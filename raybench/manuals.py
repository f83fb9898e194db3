"""Every command's arguments, declared once: its parser, its `--help` and Tab completion derive from this table.

Imports only the standard library, because Tab completion must be fast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """An argument `name=value`, which may also be written `--name value`."""

    name: str
    example: str  # a value, shown in the help
    help: str
    number: bool = False  # whether the value must be a number


@dataclass(frozen=True)
class Flag:
    """An argument `--name`; with a `metavar` it takes a value."""

    name: str
    help: str
    metavar: str = ""


@dataclass(frozen=True)
class Positionals:
    """Arguments without a name: ledgers, a shell, a plan."""

    metavar: str
    help: str
    least: int = 1
    most: int | None = None  # None: any number


@dataclass(frozen=True)
class Manual:
    """A command's arguments and help text."""

    summary: str  # one line, in the list of commands
    description: str
    examples: tuple[str, ...]
    keys: tuple[Key, ...] = ()
    flags: tuple[Flag, ...] = ()
    positionals: Positionals | None = None
    takes_space: bool = False  # any other key=value overrides a field of the space
    notes: str = ""
    exclusive: tuple[tuple[str, ...], ...] = ()  # flags of which only one may be given
    last: str = ""  # the end of its usage line
    launcher: str = ""  # the program that starts the command, if not Python alone


_SPACE = (
    Key("space", "cnns", "search_spaces/cnns.yaml, the one of that name that ships, or the path of a file"),
    Key("size", "small", "one of the sizes that the space has: small is for 2 CPU cores"),
)
_RESULTS = Key("results", "mlruns/ledger", "ledgers are at <results>/<space>/<sweep>: a folder or a URI (s3://...)")
_WAIT = Key("wait", "20", "minutes to wait for nodes that are missing or in use", number=True)
_YES = Flag("yes", "run or show a plan of more than 10,000 legs")
_MARGIN = Key("margin", "0.03", "effects within 3 % count as none; default: the question beside the ledger", True)
_ALPHA = Key("alpha", "0.05", "level of the tests; default: the question beside the ledger", number=True)
_MULTIPLICITY = Key(
    "multiplicity", "holm", "of all claims: hold the chance of any wrong one (holm), or the share of wrong ones (fdr)"
)
_BASELINE = Key("baseline", "ARM", "default: the arm that the ledger marks as the baseline")
_METRIC = Key("metric", "step_seconds", "what is compared; an unknown name lists the known ones")
_LADDER = Key("ladder", "A,B,C", "take this chain of arms apart: what each rung brought; default: the space's chain")
_QUALITY = Key("quality_margin", "0.01", "accuracy that an arm may lose and still count as equal", number=True)
_POOL = Flag("pool-hardware", "pool legs of different machines; without it they are kept apart")
_JSON = Flag("json", "everything as one JSON object on stdout, and nothing else there")
_LEDGERS = Positionals("LEDGER", "a sweep's folder, a Parquet file, a folder above several, or a URI (s3://...)")

MANUALS: dict[str, Manual] = {
    "doctor": Manual(
        "is this machine fit for sweeps, and if not, what to do",
        """
Is this machine fit for sweeps? Looks at Python, the compiler, the libraries and whether they fit each other,
DeepSpeed's operators, accelerators, memory, disk, limits, Ray and its token, and MLflow. Each is ok, a warning, or
an error with what to do about it. Takes some seconds and changes nothing.""",
        ("", "--build-ops", "--links nvme=/local_nvme", "--json"),
        (_RESULTS, Key("nvme", "FOLDER", "measure the disk of a folder to which arms offload (nvme_path)")),
        (
            Flag("links", "measure links between processes, to a GPU and back, and CPU Adam (about half a minute)"),
            Flag("build-ops", "build DeepSpeed's operators now (a minute or two), and clear locks of killed builds"),
            _JSON,
        ),
        notes="""
The surroundings count: run it with the environment variables that the sweep will have (RAY_ADDRESS, RAY_AUTH_MODE,
MLFLOW_TRACKING_URI), in the same folder, and on a cluster on every kind of node. What --links measures is slower
where something else runs.

Exit code 0: no errors (there may be warnings); 1: an error; 2: bad input.""",
    ),
    "list": Manual(
        "spaces, models, datasets, and sweeps that ran",
        """
Name what a space may say and what has run. Without words: the spaces and the sweeps. `schema` prints the JSON Schema
of a space, for editors.""",
        ("", "models resnet", "sweeps results=/data/ledger", "schema"),
        (Key("results", "mlruns/ledger", "where sweeps are looked for"),),
        positionals=Positionals("KIND [PART]", "spaces, models, datasets, sweeps or schema; a part of the names", 0, 2),
    ),
    "init": Manual(
        "write a space to begin with, from a few questions",
        """
Write a commented space, checked as a sweep would check it. In a terminal and without keys it asks; what is not given
has the default that the question shows.""",
        ("mine.yaml", "mine.yaml model=resnet18 dataset=cifar10 batch_size=128,512 workers=4 arms=zero1,zero3"),
        (
            Key("model", "lenet", "`raybench list models` names them"),
            Key("dataset", "digits", "`raybench list datasets` names them"),
            Key("batch_size", "32", "global; several with commas"),
            Key("workers", "2", "processes of a trial, one a GPU"),
            Key("precision", "fp32", "fp32, tf32, bf16 or fp16"),
            Key("arms", "zero1,zero3", "what plain torch is compared with: zero0 to zero3, offload, fsdp"),
        ),
        (Flag("force", "write over a file that is there"),),
        Positionals("FILE", "the space to write, a .yaml file", most=1),
    ),
    "plan": Manual(
        "what a sweep would run, how long, what it could detect",
        """
Show what a sweep would run: settings, arms and what they are declared to differ in, trials, legs; where, for how
long and at what cost; and how small an effect it could see. Runs nothing.""",
        (
            "space=quickstart",
            "space=cnns size=small price=3.06",
            "space=cnns repeats=12 setting.precision=bf16",
        ),
        (
            *_SPACE,
            Key("price", "3.06", "what a node costs an hour, in whatever money: gives the cost", number=True),
            Key("sweep", "friday", "names the sweep, as for a sweep"),
            Key("retry", "failed", "as for a sweep; changes nothing here"),
            _WAIT,
            Key("results", "mlruns/ledger", "where legs that ran before and calibrations are looked for"),
        ),
        (
            Flag("json", "the whole plan as JSON; `torchrun -m raybench.training PLAN` runs it"),
            _YES,
        ),
        takes_space=True,
        notes="""
Time is known for legs whose like ran on this machine before, or where it was calibrated (raybench.calibrate), and is
not guessed otherwise. With RAY_ADDRESS set the cluster there is looked at, else this machine; no Ray is started.""",
    ),
    "calibrate": Manual(
        "how finely this machine lets a sweep see",
        """
Run the baseline of a space against itself (A/A) on this machine, and say how finely a sweep here can see: the
noise and where it comes from, false verdicts, the smallest effect that 3 to 20 trials show and the machine time that
they take, and what raybench's own instruments cost. `python -m raybench.plan` uses it from then on.""",
        ("space=quickstart setting.model=lenet",),
        (
            *_SPACE,
            Key("repeats", "6", "trials of each setting; 6 where not given, whatever the space says"),
            Key("isolation", "both", "also run each leg in processes of its own: takes several times as long"),
            Key("results", "mlruns/ledger", "the ledger is written to <results>/calibration/<space>-<hash>"),
            _WAIT,
        ),
        (Flag("json", "what was found as JSON on stdout; all else goes to stderr"), _YES),
        takes_space=True,
        notes="The same command again runs what is missing, and repeats=12 adds trials.",
    ),
    "cluster": Manual(
        "today's image, zones, quota and price into cluster.yaml",
        """
Ask AWS, with your own credentials, for the image of today, the zones that have the machine, its quota and price, and
write what `ray up` needs into cluster.yaml.""",
        ("aws", "aws region=eu-central-1 gpu=p5.48xlarge"),
        (
            Key("region", "us-west-2", "prices, quotas and images are those of a region"),
            Key("gpu", "g5.12xlarge", "the type of the machines that train"),
            Key("file", "cluster.yaml", "the file to write into"),
        ),
        positionals=Positionals("aws", "who is asked", most=1),
    ),
    "sweep": Manual(
        "run a space: every setting with and without DeepSpeed",
        """
Train every setting of a space with each of its arms, on Ray, and say what DeepSpeed does for it. Ends with the
answer and a report. `python -m raybench.plan` with the same words shows beforehand what it would run.""",
        (
            "space=quickstart",
            "space=cnns size=small sweep=friday",
            "space=cnns 'setting.model=[resnet18,vgg11]' setting.batch_size=256 repeats=12 --quiet",
        ),
        (
            *_SPACE,
            Key("sweep", "friday", "names the sweep; the same name again resumes it. Without it the name is made from "
                "the space's content, so that the same command again resumes it too"),
            Key("retry", "failed", "run the legs that failed again; one kind of failure alone as in retry=timeout"),
            Key("results", "mlruns/ledger", "the ledger is written to <results>/<space>/<sweep>, the report below it; "
                "or a URI: S3, Google's (gs://), Azure's (abfs://), HDFS (hdfs://), with the credentials that the "
                "store's own tools take from the environment"),
            _WAIT,
        ),
        (
            Flag("quiet", "print the answer alone, at the end"),
            Flag("verbose", "a line for every leg in any case"),
            Flag("full", "at the end every comparison, caveats and the method before the answer"),
            _YES,
        ),
        takes_space=True,
        exclusive=(("quiet", "verbose"),),
        notes="""
environment
  RAY_ADDRESS=HOST:PORT   a Ray cluster; without it that of this node, else a Ray of its own on this machine
  RAY_ADDRESS=local       a Ray of its own, even where one runs on this node
  MLFLOW_TRACKING_URI     where MLflow is; without it MLflow's own default, sqlite:///mlflow.db

In a terminal a live view shows legs and trials, what runs, the time left, speedups so far, and failures as they
happen. Elsewhere it is a line a leg, and for more than 200 legs some lines a minute. What Ray, the workers and
DeepSpeed print goes to log files, whose folder is named at the start.

Ctrl-C finishes the running legs and stops; Ctrl-C again, SIGTERM or a closed terminal stops now. Every finished leg is
kept, and the same command runs the others.

Exit code 0: every leg has an outcome, a failure counts as one; 1: some could not be run, or nothing was measured; the
same command again tries them; 2: bad input, nothing was started; 130: stopped by Ctrl-C (143: SIGTERM).""",
    ),
    "pair": Manual(
        "two commands: which is faster, and am I sure",
        """
Run two commands in turn, in counterbalanced order, and say which is faster. Scripts that record their steps with
`raybench.steps` are compared by them; of others the whole command is timed. What is measured is a sweep like any
other: a ledger, which the same command goes on with.""",
        (
            "-- python train.py -- python train.py --compile",
            "repeats=8 --json -- torchrun train.py -- deepspeed train.py --deepspeed ds.json",
        ),
        (
            Key("repeats", "5", "how often each command runs: the sample of the statistics"),
            Key("warmup", "10", "steps at the start of each run that are not measured", number=True),
            Key("sweep", "friday", "names it; the same name again goes on with it"),
            Key("results", "mlruns/ledger", "the ledger is written to <results>/pair/<sweep>"),
            _WAIT,
        ),
        (_JSON,),
        takes_space=True,
        last="-- COMMAND_A -- COMMAND_B",
        notes="""
Any other key=value is a field of the space, as in leg_timeout_seconds=600, question.margin=0.01,
differs=[first_loss].""",
    ),
    "analysis": Manual(
        "from a ledger to speedups and verdicts",
        "From ledgers, of this machine or in a store, to speedups with intervals and verdicts.",
        (
            "mlruns/ledger/cnns/friday",
            "mlruns/ledger/cnns/friday margin=0.05 by=family",
            "mlruns/ledger/cnns/* --json > speedups.json",
            "mlruns/ledger/cnns/friday --costs price=3.06",
        ),
        (
            _MARGIN, _ALPHA, _MULTIPLICITY, _BASELINE, _METRIC,
            Key("by", "family", "summaries by family, dataset, precision, model, global_batch, workers, hardware"),
            _LADDER, _QUALITY,
            Key("price", "3.06", "what a machine costs an hour, for --costs and --json", number=True),
        ),
        (
            _JSON,
            Flag("full", "every comparison, what speed was paid with, caveats, the method; then the answer"),
            Flag("quiet", "the answer alone"),
            Flag("costs", "where the machines' time went, and what each verdict took"),
            Flag("csv", "the table of comparisons for a spreadsheet"),
            Flag("markdown", "the same for a pull request"),
            Flag("latex", "the same for a paper (booktabs)"),
            _POOL,
        ),
        _LEDGERS,
        exclusive=(("json", "csv", "markdown", "latex", "costs", "full", "quiet"),),
    ),
    "report": Manual(
        "an HTML page, figures and a summary from a ledger",
        """
From ledgers to a report: report.html (one file, opens anywhere, needs no network), figures/ as SVG, PNG and PDF,
summary.md for a pull request, comparisons.csv for a spreadsheet, report.json for `python -m raybench.verify`, which
recomputes all of it. The same ledger and the same question give the same bytes.""",
        (
            "mlruns/ledger/cnns/friday",
            "mlruns/ledger/cnns/* out=report margin=0.05",
            "mlruns/ledger/cnns/friday ladder=ddp,zero1,zero3",
            "s3://bucket/results/cnns/friday out=friday",
        ),
        (
            Key("title", "TEXT", "the page's; default: the names of the space and the sweep"),
            Key("out", "FOLDER", "where to write; default: _report/ in the first ledger's folder"),
            _MARGIN, _ALPHA, _BASELINE, _METRIC, _LADDER, _QUALITY,
        ),
        (_POOL,),
        _LEDGERS,
    ),
    "open": Manual(
        "the newest report, in the browser",
        "Open the report of a sweep in the browser: the newest one, or that of a ledger.",
        ("", "mlruns/ledger/cnns/friday"),
        (Key("results", "mlruns/ledger", "where reports are looked for"),),
        positionals=Positionals("[LEDGER]", "the folder of a sweep", 0, 1),
    ),
    "compare": Manual(
        "two sweeps: what got better, what got worse",
        "From sweep A to sweep B: which speedups got better, which worse, which appeared or are gone.",
        ("mlruns/ledger/cnns/deepspeed-0.19.7 mlruns/ledger/cnns/deepspeed-0.19.8 --fail-on hurts",),
        (
            Key("margin", "0.03", "changes of a speedup within 3 % count as none", number=True),
            _ALPHA, _BASELINE, _METRIC,
        ),
        (
            _JSON,
            Flag("fail-on", "exit with 1 when a change has one of these verdicts (several: --fail-on "
                 "hurts,disappeared); `hurts` includes `lost`", "VERDICTS"),
        ),
        Positionals("A B", "the two ledgers", least=2, most=2),
        notes="""
verdicts: helps, no effect, hurts, undecided (of the change); gained and lost (an arm that runs now or no longer
does); appeared and disappeared (in one ledger only); not comparable; unchanged (an outcome without a number)""",
    ),
    "versions": Manual(
        "did an upgrade make it slower, or wrong",
        """
Run versions of a library side by side, as arms of one space, each in an environment that Ray makes: against the space's
baseline, and version against version; and whether the training is the same.""",
        (
            "deepspeed=0.18.4,0.18.6 space=versions size=small",
            "deepspeed=0.19.7,../DeepSpeed space=cnns arm=zero3 --fail-on hurts,differs",
            "--bisect good=0.18.4 bad=0.18.6 space=versions size=small",
        ),
        (
            Key("deepspeed", "A,B", "the versions: releases, git URLs, wheels, folders of checkouts"),
            Key("torch", "A,B", "the same for torch, transformers, torchvision, timm"),
            Key("transformers", "A,B", "as torch"),
            Key("torchvision", "A,B", "as torch"),
            Key("timm", "A,B", "as torch"),
            Key("nvidia-nccl-cu12", "A,B", "as torch"),
            Key("nvidia-nccl-cu13", "A,B", "as torch"),
            Key("good", "0.18.4", "with --bisect: a release, or a commit of the checkout, that is fast and right"),
            Key("bad", "0.18.6", "with --bisect: a later one that is slower than the good one, or trains differently"),
            Key("package", "NAME", "with --bisect: the library; default deepspeed"),
            Key("checkout", "../DeepSpeed", "with --bisect: the folder whose commits are looked through"),
            Key("arm", "zero2", "the arm whose versions differ; default: the first with a DeepSpeed engine"),
            *_SPACE,
            Key("sweep", "friday", "names the sweep; the same name again resumes it"),
            _RESULTS,
            _WAIT,
        ),
        (
            _JSON,
            Flag("markdown", "the table for a pull request or a commit; progress goes to standard error"),
            Flag("bisect", "find the first release between good= and bad= that is slower or trains differently"),
            Flag("fail-on", "exit with 1 when a version hurts, differs or failed (several: hurts,differs)", "KINDS"),
        ),
        exclusive=(("json", "markdown"),),
        takes_space=True,
    ),
    "tune": Manual(
        "the best of an arm's knobs, judged on fresh trials",
        """
Search an arm's knobs (ZeRO's buckets, overlap, prefetch ...; DDP's buckets; the micro-batch at an equal global batch)
by short trials beside the arm as it is, then judge the best found against the baseline in a sweep of its own.
The space must have one setting: choose it with setting.x=.""",
        (
            "space=zero size=small arm=zero3 setting.model=lenet setting.batch_size=32",
            "space=gpt setting.model=hf/gpt2 arm=zero2,ddp trials=24 minutes=120",
        ),
        (
            Key("arm", "zero3", "the arm to tune, or several; default: the first with a DeepSpeed engine"),
            Key("trials", "12", "choices to try of each arm, at most", number=True),
            Key("minutes", "30", "of the search of all arms; a round that would not fit is not started", number=True),
            *_SPACE,
            Key("sweep", "friday", "names the sweeps; the same name again resumes them"),
            _RESULTS,
            _WAIT,
        ),
        (_JSON,),
        takes_space=True,
    ),
    "predict": Manual(
        "the speedup to expect of a setting not measured yet",
        """
The speedup to expect of a setting that was not measured: an interval, or "measure it". Without model=, what
explains the speedups that were measured.""",
        ("mlruns/ledger/cnns/friday model=resnet101 num_parameters=44.5e6 batch_size=256",),
        (
            Key("model", "NAME", "a model of the ledgers, or another one"),
            Key("batch_size", "128", "global; left out, it must be the same in all settings, or is not used", True),
            Key("workers", "4", "as batch_size", number=True),
            Key("precision", "bf16", "as batch_size"),
            Key("dataset", "cifar10", "as batch_size"),
            Key("family", "cnn", "known for a model of the ledgers"),
            Key("num_parameters", "25.6e6", "known for a model of the ledgers; of another, sharpens the answer", True),
            Key("num_parameter_tensors", "161", "as num_parameters", number=True),
            Key("flops_per_byte", "80", "as num_parameters", number=True),
            Key("arm", "zero3", "one arm; all arms otherwise"),
            Key("hardware", "H100", "a part of its name, where the ledgers hold several"),
            _MARGIN, _ALPHA, _BASELINE,
        ),
        (_JSON,),
        _LEDGERS,
    ),
    "sync": Manual(
        "bring MLflow up to date with a ledger",
        """
Bring MLflow (MLFLOW_TRACKING_URI, else its own default) up to date with the ledgers of sweeps: the legs that it
lacks, the speedups and verdicts, the report. Nothing is written twice: run it as often as you like.""",
        ("mlruns/ledger/quickstart/friday", "mlruns/ledger"),
        positionals=_LEDGERS,
        notes="A server with basic authentication takes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    ),
    "verify": Manual(
        "check a ledger and its report from the raw rows up",
        """
Check the ledger of a sweep, a folder or a URI, from the raw rows up, and say what does not hold:

  files     each is read whole, checksums included; a damaged or foreign file is named
  rows      one outcome a leg, values that can be true together, and each trial measured at one place
  ids       of settings, trials and legs, computed again from the space that lies beside the rows
  looks     where the sweep stopped when settled: each look computed again
  report    every number of the stored report computed again, every file of it as it was written""",
        ("mlruns/ledger/quickstart/friday",),
        flags=(
            Flag("set-aside", "move damaged and foreign files to _aside/ in the ledger's folder; the sweep's command "
                 "runs their legs again"),
        ),
        positionals=Positionals("LEDGER", "the folder of a sweep, or a URI", most=1),
        notes="Exit code 0: all of it holds; 1: something does not; 2: bad input.",
    ),
    "completion": Manual(
        "the script with which a shell completes `raybench`",
        """
Print the script with which a shell completes the command `raybench`: commands and options, spaces and their sizes,
keys and values of a space, models, datasets, arms, and ledgers.""",
        ("bash",),
        positionals=Positionals("SHELL", "bash, zsh or fish", most=1),
        notes="""
bash, in ~/.bashrc:       source <(raybench completion bash)
zsh, in ~/.zshrc:         source <(raybench completion zsh)          (after compinit)
fish, in config.fish:     raybench completion fish | source""",
    ),
    "training": Manual(
        "",
        "Run a plan's legs in torchrun's processes, without Ray, and write the ledger.",
        ("plan.json",),
        (
            Key("ledger", "FOLDER", "where the rows go; mlruns/ledger/<space>/<sweep> where not given"),
            Key("repeat", "K", "only the trials of repeat K, from 0: each repeat is a sample in processes of its own"),
            Key("trial", "K", "only the plan's trial number K, from 0"),
        ),
        positionals=Positionals("PLAN", "from: python -m raybench.plan space=NAME setting.workers=N --json", most=1),
        launcher="torchrun --nproc-per-node N",
    ),
}  # fmt: skip

# The list of commands, in groups, as `raybench --help` shows it.
GROUPS = {
    "before": ("doctor", "list", "init", "plan", "calibrate"),
    "measure": ("cluster", "sweep", "pair", "versions", "tune"),
    "read": ("analysis", "report", "open", "compare", "predict"),
    "keep": ("sync", "verify", "completion"),
}
COMMANDS = {name: MANUALS[name].summary for names in GROUPS.values() for name in names}
