"""Texts as tokens, packed into sequences: the same sequences in the same order for every arm.

A tokenizer's file (`tokenizer.json`, read by the `tokenizers` library) turns documents into tokens; without one, bytes
are the tokens. Documents are concatenated with an end token between them (byte 0 without a tokenizer). Sample i is the
tokens from i x length to (i + 1) x length inclusive: each token predicts the next.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from raybench.declare.datasets import data_folder
from raybench.declare.setting import Setting
from raybench.declare.texts import SYNTHETIC_SEQUENCES, corpus
from raybench.errors import BadData

BYTES = 256
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]", "<|im_end|>")
_MASKS = ("[MASK]", "<mask>")
MASKED_SHARE = 0.15  # of a sequence's tokens (Devlin et al. 2018)
IGNORED = -100  # a target that is not predicted


@dataclass(frozen=True)
class Encoded:
    """A split of a text as one row of tokens."""

    tokens: torch.Tensor  # (tokens,) int64
    num_bytes: int  # of the text, without the ends of documents

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the tokens."""
        return tensor_digest(self.tokens)


def forget() -> None:
    """Drop the texts kept in memory."""
    encoded.cache_clear()
    corpus.cache_clear()


@lru_cache(maxsize=4)
def encoded(dataset: str, data_root: str, tokenizer: str | None, *, train: bool) -> Encoded:
    """The training or the held-out split in tokens. Raises BadData."""
    text = corpus(dataset, data_root)
    documents = text.train if train else text.held_out
    num_bytes = sum(map(len, documents))
    if tokenizer is None:
        joined = np.frombuffer(b"\0".join(documents), dtype=np.uint8)
        return Encoded(torch.from_numpy(joined.astype(np.int64)), num_bytes)
    reader = load_tokenizer(tokenizer)
    end = next((number for name in _ENDS if (number := reader.token_to_id(name)) is not None), None)
    rows: list[int] = []
    for encoding in reader.encode_batch([document.decode(errors="replace") for document in documents]):
        rows += [*encoding.ids, *([] if end is None else [end])]
    return Encoded(torch.tensor(rows), num_bytes)


@lru_cache(maxsize=2)
def load_tokenizer(path: str) -> Any:
    """A tokenizer from its file. Raises BadData for an invalid file."""
    from tokenizers import Tokenizer

    file = data_folder(path)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        raise BadData(f"tokenizer: {file} cannot be read as a tokenizer.json ({error!s:.200})") from error


def vocabulary(setting: Setting) -> int | None:
    """How many tokens the data have; None for random ones, which use the model's vocabulary."""
    if setting.dataset == "synthetic_tokens":
        return None
    return BYTES if setting.tokenizer is None else int(load_tokenizer(setting.tokenizer).get_vocab_size())


def mask_token(setting: Setting, model_vocabulary: int) -> int:
    """The mask token: the tokenizer's, else the last of the model's vocabulary."""
    if setting.tokenizer is None:
        return model_vocabulary - 1
    reader = load_tokenizer(setting.tokenizer)
    found = next((number for name in _MASKS if (number := reader.token_to_id(name)) is not None), None)
    if found is None:
        raise BadData(f"tokenizer: {setting.tokenizer} has no mask token ({' or '.join(_MASKS)}), which is needed")
    return int(found)


class Sequences(Dataset[torch.Tensor]):
    """A row of tokens cut into samples of `length` + 1."""

    def __init__(self, tokens: torch.Tensor, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.length)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.length
        return self.tokens[start : start + self.length + 1]


class RandomSequences(Dataset[torch.Tensor]):
    """As many samples as asked for, each one of 64 rows of random tokens."""

    def __init__(self, count: int, length: int, num_tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.count = count
        self.sequences = torch.randint(num_tokens, (64, length + 1), generator=generator)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sequences[index % 64]


class Masked(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sequences in which 15 % of the tokens are predicted: 80 % of these masked, 10 % random, 10 % unchanged.

    The choice follows from the sample's number (or the seed that comes with it), so that all arms mask alike. Every
    sequence has the same number of them, so that micro-batches weigh the same.
    """

    def __init__(self, sequences: Dataset[torch.Tensor], mask: int, num_tokens: int) -> None:
        self.sequences, self.mask, self.num_tokens = sequences, mask, num_tokens

    def __len__(self) -> int:
        return len(self.sequences)  # type: ignore[arg-type]

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, key)
        tokens = self.sequences[index][:-1]
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(tokens), generator=generator)[: math.ceil(MASKED_SHARE * len(tokens))]
        how = torch.rand(len(chosen), generator=generator)
        other = torch.randint(self.num_tokens, (len(chosen),), generator=generator)
        inputs, targets = tokens.clone(), torch.full_like(tokens, IGNORED)
        targets[chosen] = tokens[chosen]
        inputs[chosen] = torch.where(how < 0.8, self.mask, torch.where(how < 0.9, other, tokens[chosen]))
        return inputs, targets


def sequences(setting: Setting, model_vocabulary: int, *, train: bool) -> Dataset[torch.Tensor]:
    """The samples of a split. Raises BadData where the text is shorter than one."""
    length = setting.sequence_length
    assert length is not None
    if setting.dataset == "synthetic_tokens":
        return RandomSequences(SYNTHETIC_SEQUENCES[train], length, model_vocabulary)
    found = Sequences(encoded(setting.dataset, setting.data_root, setting.tokenizer, train=train).tokens, length)
    if not len(found):
        part = "training" if train else "held-out"
        raise BadData(f"{setting.dataset}: {len(found.tokens)} {part} tokens are fewer than a sequence of {length}")
    return found


def digest(setting: Setting, model_vocabulary: int) -> str:
    """16 hexadecimal digits that identify the training tokens."""
    data = sequences(setting, model_vocabulary, train=True)
    if isinstance(data, RandomSequences):
        return tensor_digest(data.sequences)
    return encoded(setting.dataset, setting.data_root, setting.tokenizer, train=True).digest


def tensor_digest(tokens: torch.Tensor) -> str:
    """16 hexadecimal digits that identify these tokens."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16]
