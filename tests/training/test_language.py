"""Language models of transformers: what they are built as, what they are fed, and what a token costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from raybench.declare.setting import Setting
from raybench.errors import BadData, InvalidConfig
from raybench.training import facts
from raybench.training.evaluation import Evaluator
from raybench.training.loader import Batches
from raybench.training.models.layers import blocks_of
from raybench.training.ranks import Ranks
from raybench.training.tasks import build_task
from raybench.training.tasks.adapt import adapt
from raybench.training.tasks.tokens import IGNORED

CPU = torch.device("cpu")
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
BERT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def setting(model: str = "hf/gpt2", options: dict[str, Any] | None = None, **fields: Any) -> Setting:
    known = {"model": model, "model_options": GPT if options is None else options, "dataset": "pydoc"}
    return Setting.model_validate({**known, "sequence_length": 16, "batch_size": 4, **fields})


@pytest.mark.parametrize(
    ("model", "options", "block"),
    [
        ("hf/gpt2", GPT, "GPT2Block"),
        ("hf/llama", LLAMA, "LlamaDecoderLayer"),
        ("hf/qwen3", {**LLAMA, "head_dim": 16}, "Qwen3DecoderLayer"),
        ("hf/bert", BERT, "BertLayer"),
        ("hf/roberta", BERT, "RobertaLayer"),
    ],
)
def test_types_build_and_train(model: str, options: dict[str, Any], block: str) -> None:
    one = setting(model, options)
    task = build_task(one)
    network = task.build_model().train()
    loss = task.loss(network, next(iter(Batches(task, 0, 0, CPU))))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(256), rel=0.05)  # nothing is known yet of 256 bytes
    assert [type(found).__name__ for found in blocks_of(network)] == [block, block]
    assert task.model_options["dropout"] == 0.0


def test_presets_have_the_published_sizes() -> None:
    sizes = {"gpt2": 124e6, "gpt2-medium": 355e6, "gpt2-xl": 1.558e9, "llama-1b": 1.236e9, "llama-8b": 8.03e9}
    for name, size in sizes.items():
        task = build_task(setting(f"hf/{name}", {}, dataset="synthetic_tokens"))
        with torch.device("meta"):
            network = task.build_model()
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(size, rel=0.005), name


def test_work_of_a_token_is_that_of_its_matrices() -> None:
    one = setting()
    task = build_task(one)
    network = task.build_model()
    width, layers, vocabulary, length = 32, 2, 256, 16
    block = 12 * width**2 + 13 * width  # attention, two linear layers, their biases, two norms
    multiplying = layers * block + 2 * width + vocabulary * width  # the last norm; the table is the head as well
    found = facts.model_facts(network, task)
    assert found["flops_per_token"] == 6 * multiplying + 12 * layers * width * length
    assert found["training_flops_per_sample"] == length * found["flops_per_token"]


def test_a_folder_with_a_configuration_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **LLAMA}))
    one = setting(str(tmp_path), {"num_hidden_layers": 3})
    assert one.task == "language"
    assert len(blocks_of(build_task(one).build_model())) == 3


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("hf/gpt2", {"n_layers": 2}, "did you mean n_layer"),
        ("hf/gpt2", {**GPT, "n_embd": 33}, "hf/gpt2"),
        ("hf/gpt2", {"vocab_size": 100}, "less than the data's 256"),
        ("hf/nobody/nothing", {}, "download: true fetches it"),
    ],
)
def test_what_cannot_be_built_is_refused(model: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        build_task(setting(model, options)).build_model()


def test_text_is_packed_and_its_end_held_out(tmp_path: Path) -> None:
    lines = b"".join(b"line %03d\n" % number for number in range(100))
    (tmp_path / "b.txt").write_bytes(lines[500:])
    (tmp_path / "a.txt").write_bytes(lines[:500])
    (tmp_path / ".hidden").write_bytes(b"no")
    task = build_task(setting(dataset="text", data_root=str(tmp_path)))
    train, held_out = task.dataset(train=True), task.dataset(train=False)
    packed = lines[:500] + b"\0" + lines[500:819]  # to the end of the line in which a tenth is left
    assert [bytes(train[i].tolist()) for i in range(3)] == [packed[16 * i : 16 * i + 17] for i in range(3)]
    assert bytes(held_out[0].tolist()) == lines[819:836]
    assert task.num_samples(train=True) == (820 - 1) // 16


def test_a_tokenizer_gives_the_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"a": 0, "b": 1, "</s>": 2, "[UNK]": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for part, text in (("train", "a b a c "), ("val", "b b a a ")):
        (tmp_path / "text" / part).mkdir(parents=True)
        (tmp_path / "text" / part / "one.txt").write_text(text * 20)
    fields = {"data_root": str(tmp_path / "text"), "tokenizer": str(tmp_path / "tokenizer.json")}
    task = build_task(setting(dataset="text", **fields))
    assert task.dataset(train=True)[0].tolist()[:5] == [0, 1, 0, 3, 0]
    network: Any = build_task(setting("hf/gpt2", GPT, dataset="text", **fields)).build_model()
    assert network.config.vocab_size == 4


@pytest.mark.parametrize(
    ("fields", "words"), [({}, "does not exist"), ({"tokenizer": "none.json"}, "none.json cannot be read")]
)
def test_missing_text_is_told_in_a_line(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    dataset = {"dataset": "text", "data_root": str(tmp_path / "nothing")} if not fields else {}
    with pytest.raises(BadData, match=words):
        build_task(setting(**dataset, **fields)).check_data(test_too=True)


def test_evaluation_is_that_of_the_whole_held_out_text() -> None:
    task = build_task(setting(sequence_length=512))
    torch.manual_seed(0)
    network = task.build_model()

    class Plain:
        forward = staticmethod(lambda inputs, last: network(inputs))

    found = Evaluator(task, Ranks(0, 1, CPU, None)).evaluate(Plain(), network)  # type: ignore[arg-type]
    data: Any = task.dataset(train=False)
    every = torch.stack([data[i] for i in range(len(data))])
    with torch.no_grad():
        logits = network.eval()(every[:, :-1]).logits
    loss = cross_entropy(logits.flatten(0, 1), every[:, 1:].flatten()).item()
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(loss / math.log(2), rel=0.01)
    assert found.accuracy is None


def test_masked_tokens_are_as_many_in_every_sequence_and_the_same_again() -> None:
    task = build_task(setting("hf/bert", BERT, sequence_length=40))
    batches = [next(iter(Batches(build_task(task.setting), 0, 5, CPU))) for _ in range(2)]
    (inputs, targets), again = batches
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    assert ((targets != IGNORED).sum(1) == 6).all()
    assert (inputs == 256).any()  # the token beyond all bytes


def test_what_is_frozen_is_counted() -> None:
    one = setting(trainable=r"\.h\.1\.")
    task = build_task(one)
    network = adapt(task.build_model(), one)
    found = facts.model_facts(network, task)
    assert found["num_trainable_tensors"] == 12
    assert found["num_trainable_parameters"] == 12 * 32**2 + 13 * 32
    with pytest.raises(InvalidConfig, match="finds no parameter"):
        adapt(task.build_model(), setting(trainable="nothing"))


def test_adapters_are_trained_in_place_of_the_weights() -> None:
    pytest.importorskip("peft")
    one = setting(lora={"r": 2, "targets": ["c_attn"]})
    task = build_task(one)
    network = adapt(task.build_model(), one)
    found = facts.model_facts(network, task)
    assert found["num_trainable_parameters"] == 2 * 2 * (32 + 96)
    assert [type(block).__name__ for block in blocks_of(network)] == ["GPT2Block"] * 2
    task.loss(network, next(iter(Batches(task, 0, 0, CPU)))).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
