"""The corpus: spaces and command lines that are wrong, each with a name; all of it made from a fixed seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

GOOD: dict[str, Any] = {
    "question": {"margin": 0.03, "alpha": 0.05},
    "setting": {
        "model": "lenet", "dataset": "digits", "image_size": 32, "batch_size": 32, "accumulation": 1, "workers": 2,
        "precision": "fp32", "mixed_precision": "autocast", "loss_scale": {"initial": 65536.0, "growth_interval": 5},
        "optimizer": {"name": "adamw", "kernel": "foreach", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup_steps": 2, "total_steps": 50}, "gradient_clipping": 0.5,
        "activation_checkpointing": False, "channels_last": False, "compile": False, "loader_workers": 0,
        "device": "cpu", "model_options": {},
    },
    "arms": {
        "ddp": {"engine": "torch", "zero_redundancy_optimizer": False},
        "fsdp": {"engine": "fsdp", "reshard_after_forward": True},
        "zero1": {"engine": "deepspeed", "zero": 1, "overlap_comm": True, "reduce_bucket_size": 1000},
        "theirs": {
            "engine": "deepspeed",
            "config": {
                "train_batch_size": 32, "gradient_clipping": 0.5, "prescale_gradients": False,
                "fp16": {"enabled": False, "loss_scale_window": 500}, "bf16": {"enabled": False},
                "zero_optimization": {
                    "stage": 2, "contiguous_gradients": True, "reduce_bucket_size": 1000,
                    "offload_optimizer": {"device": "cpu", "pin_memory": False, "ratio": 0.5},
                },
                "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01}},
                "activation_checkpointing": {"partition_activations": False}, "aio": {"queue_depth": 8},
            },
        },
    },
    "baseline": "ddp",
    "differs": ["optimizer"],
    "chain": False,
    "protocol": {"kind": "throughput", "warmup_steps": 5, "steps": 10, "rounds": 2, "phases": True},
    "repeats": 3,
    "seed": 0,
    "isolation": "shared",
    "leg_timeout_seconds": 100.0,
}  # fmt: skip
# None of them fits any key: no number, no name of anything, no truth value.
WRONG: dict[str, Any] = {
    "text": "no such thing",
    "list of lists": [[]],
    "unknown keys": {"no_such_key": 1},
    "minus": -1,
    "giant": 10**30,
    "infinite": float("inf"),
    "no number": float("nan"),
    "date": "2024-01-01",
    "path": "../../etc/passwd",
    "null byte": "a\0b",
    "right to left": "\u202etenel",
    "emoji": "\U0001f600" * 40,
    "long": "x" * 50_000,
    "reference": "${no.such.key}",
    "environment": "${oc.env:HOME}",
    "missing": "???",
}
# Where one of them is a legal value after all, or a key's own text.
_LEGAL = {
    ("setting", "optimizer", "lr", "giant"),
    ("setting", "optimizer", "weight_decay", "giant"),
    ("setting", "gradient_clipping", "giant"),
    ("setting", "model_options", "unknown keys"),
    # Numbers to DeepSpeed, whatever they mean; and a section whose keys are any optimizer's.
    *(
        ("arms", "theirs", "config", *place, kind)
        for place in (("aio", "queue_depth"), ("fp16", "loss_scale_window"))
        for kind in ("minus",)
    ),
}

TEXTS: dict[str, str] = {
    "empty": "",
    "a comment": "# nothing\n",
    "a list": "- setting\n- arms\n",
    "a scalar": "lenet",
    "null": "null",
    "two documents": "setting: {}\n---\narms: {}\n",
    "a tab": "setting:\n\tmodel: lenet\n",
    "an open brace": "setting: {model: lenet",
    "an open quote": "setting: {model: 'lenet}",
    "an open bracket": "arms: [",
    "many brackets": "[" * 20_000,
    "many braces": "{a: " * 20_000,
    "many dashes": "- " * 20_000,
    "an unknown alias": "setting: *nothing",
    "an alias of itself": "setting: &s {model: *s}",
    "a merge of itself": "setting: &s {<<: *s, model: lenet}",
    "a merge of a number": "setting: {<<: 3}",
    "a key twice": "setting: {model: lenet, model: lenet5}",
    "a top key twice": "repeats: 1\nrepeats: 2\n",
    "a list as key": "? [1, 2]\n: 3\n",
    "a mapping as key": "{{a: 1}: 2}",
    "numbers as keys": "1: 2\n3.5: 4\n",
    "null as key": "null: 1\n~: 2\n",
    "a python object": "setting: !!python/object/apply:os.system ['touch hacked']\n",
    "a python name": "setting: !!python/name:os.system\n",
    "a python module": "setting: !!python/module:os\n",
    "an unknown tag": "setting: !mine {model: lenet}\n",
    "binary": "setting: {model: !!binary aGVsbG8=}\narms: {}\n",
    "a set": "setting: !!set {model, dataset}\n",
    "pairs": "setting: !!pairs [model: lenet]\n",
    "omap": "setting: !!omap [model: lenet]\n",
    "an int that is none": "repeats: !!int many\n",
    "a float that is none": "repeats: !!float many\n",
    "a bool that is none": "repeats: !!bool many\n",
    "a time that is none": "seed: 2001-13-45\n",
    "five thousand digits": "seed: " + "9" * 5000,
    "sexagesimal": "seed: " + ":".join(["59"] * 3000),
    "a control character": "setting: {model: \x07}\n",
    "a null byte": "setting: {model: \0}\n",
    "a byte order mark inside": "setting: {model: \ufeff\x01}\n",
    "a directive": "%YAML 9.9\n---\nsetting: {}\n",
    "a broken directive": "%TAG ! tag\n---\n",
    "a million characters": "# " + "x" * 1_200_000,
    "a long key": "k" * 30_000 + ": 1\n",
    "a question mark": "?",
    "a percent": "%",
    "an at": "setting: @model\n",
    "a backtick": "setting: `model`\n",
    "a bad escape": 'setting: {model: "\\q"}\n',
    "a bad indent": "setting:\n    model: lenet\n  dataset: digits\n",
    "a billion laughs": "\n".join(
        [f"a0: &a0 [{', '.join(['lol'] * 10)}]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    ),
    "quadratic": "a: &a " + "x" * 20_000 + "\nb: [" + ", ".join(["*a"] * 60_000) + "]\n",
    "interpolation in a circle": "a: ${b}\nb: ${c}\nc: ${a}\n",
    "interpolation of itself": "a: ${a}\n",
    "interpolation doubled": "x0: aaaaaaaaaa\n"
    + "".join(f"x{n}: '${{x{n - 1}}}${{x{n - 1}}}'\n" for n in range(1, 60)),
    "interpolation nested": "a: ${${${${a}}}}\n",
    "interpolation open": "a: '${b'\n",
    "a resolver": "a: ${oc.decode:'[1, 2]'}\n",
}
COMMANDS: dict[str, list[str]] = {
    "no space": [],
    "an empty space": ["space="],
    "an unknown space": ["space=quickstrat"],
    "a folder": ["space=/"],
    "a device": ["space=/dev/null"],
    "a file that is none": ["space=no/such.yaml"],
    "out of the folder": ["space=../../etc/passwd"],
    "a null byte": ["space=a\0b"],
    "a null byte in a path": ["space=a\0b.yaml"],
    "a long name": ["space=" + "x" * 5000],
    "a long path": ["space=" + "x" * 5000 + ".yaml"],
    "a space twice": ["space=quickstart", "space=quickstart"],
    "no key": ["space=quickstart", "=3"],
    "a word": ["space=quickstart", "repeats"],
    "an unknown option": ["space=quickstart", "--fast"],
    "a short option": ["space=quickstart", "-x"],
    "dashes": ["space=quickstart", "--"],
    "an unknown key": ["space=quickstart", "repeat=3"],
    "an unknown nested key": ["space=quickstart", "setting.modle=lenet"],
    "a key into a number": ["space=quickstart", "repeats.x=3"],
    "a key into a list": ["space=cnns", "setting.model.x=3"],
    "an index": ["space=cnns", "setting.model.99999999=3"],
    "brackets in a key": ["space=quickstart", "setting[model]=lenet"],
    "a deep key": ["space=quickstart", ".".join(["a"] * 3000) + "=1"],
    "dots": ["space=quickstart", "a..b=1"],
    "a dot at the end": ["space=quickstart", "setting.=1"],
    "an open bracket": ["space=quickstart", "setting.model=[lenet"],
    "an empty list": ["space=quickstart", "setting.model=[]"],
    "an empty value": ["space=quickstart", "setting.model="],
    "a null": ["space=quickstart", "setting=null"],
    "arms gone": ["space=quickstart", "arms=null"],
    "an arm gone": ["space=quickstart", "arms.zero1=null"],
    "a list of arms": ["space=quickstart", "arms=[a,b]"],
    "a python object": ["space=quickstart", "seed=!!python/object/apply:os.system ['touch hacked']"],
    "an environment variable": ["space=quickstart", "setting.model=${oc.env:HOME}"],
    "a reference to nothing": ["space=quickstart", "setting.model=${nothing}"],
    "a circle": ["space=quickstart", "setting.model=${setting.model}"],
    "an alias": ["space=quickstart", "setting.model_options={a: &a [*a]}"],
    "the same value twice": ["space=quickstart", "setting.model=[lenet,lenet]"],
    "a million repeats": ["space=quickstart", "repeats=1000000"],
    "more repeats than fit": ["space=quickstart", "repeats=99999999999999999999"],
    "a huge product": [
        "space=quickstart",
        f"setting.batch_size={list(range(2, 2000, 2))}".replace(" ", ""),
        "repeats=500",
    ],
    "huger, and meant": ["space=quickstart", "repeats=2000000000", "--yes"],
    "many rounds": ["space=quickstart", "protocol.rounds=100000000"],
    "endless steps": ["space=quickstart", "protocol.steps=1000000000000"],
    "endless warm-up": ["space=quickstart", "protocol.warmup_steps=1000000000000"],
    "no steps": ["space=quickstart", "protocol.steps=0"],
    "a batch that does not divide": ["space=quickstart", "setting.batch_size=33"],
    "a batch beyond the data": ["space=quickstart", "setting.batch_size=1000000"],
    "a model of the system": ["space=quickstart", "setting.model=os:system"],
    "a model elsewhere": ["space=quickstart", "setting.model=../evil:net"],
    "a model with dots": ["space=quickstart", "setting.model=..evil:net"],
    "a model that is code": ["space=quickstart", "setting.model=__import__('os').system('id')"],
    "a model with two colons": ["space=quickstart", "setting.model=a:b:c"],
    "a sweep above": ["space=quickstart", "sweep=../up"],
    "a sweep at the root": ["space=quickstart", "sweep=/root"],
    "a hidden sweep": ["space=quickstart", "sweep=.hidden"],
    "an empty sweep": ["space=quickstart", "sweep="],
    "a sweep with a newline": ["space=quickstart", "sweep=a\nb"],
    "a long sweep": ["space=quickstart", "sweep=" + "x" * 300],
    "a sweep of letters from elsewhere": ["space=quickstart", "sweep=файл"],
    "a size that is none": ["space=quickstart", "size=huge"],
    "an empty size and a dot": ["space=quickstart", "size=."],
    "colours": ["space=quickstart", "setting.model=\x1b[31mred\x1b[0m"],
    "lines": ["space=quickstart", "setting.model=a\nb\nc"],
    "half a character": ["space=quickstart", "setting.model=\udc80"],
    "engines": ["space=quickstart", "arms.x={engine: jax}"],
    "no engine": ["space=quickstart", "arms.x={}"],
    "a bool as engine": ["space=quickstart", "arms.x={engine: true}"],
    "a stage that is none": ["space=quickstart", "arms.x={engine: deepspeed, zero: 4}"],
    "a config that is a list": ["space=quickstart", "arms.x={engine: deepspeed, config: [1]}"],
    "an arm that changes the seed": ["space=quickstart", "arms.x={engine: torch, setting: {seed: 3}}"],
    "an arm with another model": ["space=quickstart", "arms.x={engine: torch, setting: {model: lenet5}}"],
    "a baseline that is none": ["space=quickstart", "baseline=nobody"],
    "a margin beyond one": ["space=quickstart", "question.margin=3"],
}


@dataclass(frozen=True)
class Case:
    """One wrong input: a space's text (or None) and the plan's arguments; `file` stands for the text's path."""

    name: str
    text: str | None
    argv: list[str]
    may_pass: bool = False  # random damage can leave a space that is right


def cases() -> Iterator[Case]:
    """The whole corpus."""
    for name, text in TEXTS.items():
        yield Case(f"text: {name}", text, ["space=file"])
    for name, argv in COMMANDS.items():
        yield Case(f"command: {name}", None, argv)
    for place in _places(GOOD):
        for name, value in WRONG.items():
            if (*place, name) not in _LEGAL:
                yield Case(f"{'.'.join(place)}: {name}", _written(place, value), ["space=file"])
    for place in [(), *_places(GOOD, mappings=True)]:
        if place != ("setting", "model_options"):
            yield Case(f"{'.'.join(place)}: a key too many", _written((*place, "zzz"), 1), ["space=file"])
    yield from _damaged()


def _places(value: dict[str, Any], *, mappings: bool = False) -> Iterator[tuple[str, ...]]:
    for key, item in value.items():
        if isinstance(item, dict):
            if mappings and key != "arms":
                yield (key,)
            yield from ((key, *rest) for rest in _places(item, mappings=mappings))
        if not mappings:
            yield (key,)


def _written(place: tuple[str, ...], value: Any) -> str:
    content = copy.deepcopy(GOOD)
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _damaged(count: int = 150) -> Iterator[Case]:
    """A good space with lines doubled, dropped or swapped, and characters replaced."""
    lines = yaml.safe_dump(GOOD, sort_keys=False).splitlines()
    for number in range(count):
        chance = random.Random(number)
        text = list(lines)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            match chance.randrange(4):
                case 0:
                    text.insert(at, text[at])
                case 1:
                    del text[at]
                case 2:
                    text[at] = "  " * chance.randint(0, 3) + text[at].strip()
                case _:
                    place = chance.randrange(len(text[at]) or 1)
                    text[at] = text[at][:place] + chance.choice("{}[]:,&*!|>'\"%@`#-?\0\t\x85é") + text[at][place + 1 :]
        yield Case(f"damaged {number}", "\n".join(text) + "\n", ["space=file"], may_pass=True)
