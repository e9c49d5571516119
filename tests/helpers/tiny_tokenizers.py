"""Small tokenizers of every kind that can be trimmed, and what their definitions say of a text, written plainly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import distilfast as df
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = ("wordpiece", "bytes", "characters", "unigram", "wordlevel")


@cache
def tiny_tokenizer(kind: str) -> df.Tokenizer:
    """A tokenizer of `kind`, trained on this package's own text."""
    package = Path(df.__file__).parent
    lines = [line for file in ("tokenizer.py", "_files.py") for line in (package / file).read_text().splitlines()]
    lines = [line for line in lines if not any(special in line for special in SPECIALS)]
    lines += ["Größe naïve 北京 東京 москва αβγ", "e\u0301 가나 🙂 \u00a0 ﬁ"] * 20
    made: Any
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIALS, initial_alphabet=alphabet)
    elif kind == "characters":
        made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        made.normalizer, made.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIALS, end_of_word_suffix="</w>")
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIALS, unk_token="<unk>")
    elif kind == "wordlevel":
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=400, special_tokens=SPECIALS)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=100))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIALS)
    made.train_from_iterator(lines, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[(each, made.token_to_id(each)) for each in ("<s>", "</s>")],
    )
    return df.Tokenizer(
        made.to_str(), {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    )


def by_definition(tokenizer: df.Tokenizer, kept: set[str], text: str) -> list[str]:
    """The tokens of `text`, in which no added token stands, by the definition of the tokenizer's kind over the tokens
    `kept` alone; what the library splits text into is taken from it."""
    library = Tokenizer.from_str(tokenizer.to_json())
    model = json.loads(tokenizer.to_json())["model"]
    normal = text if library.normalizer is None else library.normalizer.normalize_str(text)
    words = [word for word, _ in library.pre_tokenizer.pre_tokenize_str(normal)]
    return [token for word in words for token in _PARTS[model["type"]](model, kept, word)]


def _wordpiece(model: dict[str, Any], kept: set[str], word: str) -> list[str]:
    tokens, start = [], 0
    if len(word) > model["max_input_chars_per_word"]:
        return [model["unk_token"]]
    while start < len(word):
        prefix = "##" if start else ""
        ends = [end for end in range(len(word), start, -1) if prefix + word[start:end] in kept]
        if not ends:
            return [model["unk_token"]]
        tokens.append(prefix + word[start : ends[0]])
        start = ends[0]
    return tokens


def _wordlevel(model: dict[str, Any], kept: set[str], word: str) -> list[str]:
    return [word if word in kept else model["unk_token"]]


def _bpe(model: dict[str, Any], kept: set[str], word: str) -> list[str]:
    suffix = model["end_of_word_suffix"] or ""
    parts = [*word[:-1], word[-1] + suffix]
    parts = [part if part in kept else model["unk_token"] for part in parts]
    assert None not in parts
    merges = [tuple(merge) for merge in model["merges"]]
    ranks = {pair: rank for rank, pair in enumerate(merges) if {*pair, pair[0] + pair[1]} <= kept}
    while True:
        found = [(ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not found:
            return parts
        _, place = min(found)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def _unigram(model: dict[str, Any], kept: set[str], word: str) -> list[str]:
    scores = {piece: score for piece, score in model["vocab"] if piece in kept}
    unknown = min(score for _, score in model["vocab"]) - 10
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(word) + 1):
        paths = []
        for start in range(end):
            piece = word[start:end]
            if piece in scores:
                paths.append((best[start][0] + scores[piece], [*best[start][1], piece]))
            elif end == start + 1:
                paths.append((best[start][0] + unknown, [*best[start][1], ""]))
        best.append(max(paths, key=lambda path: path[0]))
    tokens: list[str] = []
    for piece in best[-1][1]:
        if piece:
            tokens.append(piece)
        elif not tokens or tokens[-1] != "":
            tokens.append("")  # unknown characters beside each other are one token
    return [token or model["vocab"][model["unk_id"]][0] for token in tokens]


_PARTS = {"WordPiece": _wordpiece, "WordLevel": _wordlevel, "BPE": _bpe, "Unigram": _unigram}


def names(tokenizer: df.Tokenizer, ids: Sequence[int]) -> list[str]:
    tokens = tokenizer.tokens()
    return [str(tokens[index]) for index in ids]
