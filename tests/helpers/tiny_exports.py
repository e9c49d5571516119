"""Models of every family and head, so small that an export takes seconds, and tokenizers as families have them."""

from __future__ import annotations

from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

WORDS = """
the river had risen in night and carried small bridge away she asked for two tickets to coast one of them a child prices
fell by percent said bank nobody at market noticed nothing this film works ending is worse warm funny story that
children their parents will love committee meets on town hall moved from work port how far it station old harbour rain
expected north with strong winds along why what . , ?
""".split()  # noqa: SIM905
FAMILIES = {
    "bert": ("Bert", {"type_vocab_size": 2}),
    "electra": ("Electra", {"type_vocab_size": 2, "embedding_size": 16}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "modernbert": ("ModernBert", {"pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2}),
    "distilbert": ("DistilBert", {}),
    "camembert": ("Camembert", {"type_vocab_size": 1, "pad_token_id": 1}),
    "mpnet": ("MPNet", {"pad_token_id": 1}),
    "deberta-v2": ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}),
}
PADDING_READ = {
    "convbert": ("ConvBert", {"embedding_size": 32}),
    "fnet": ("FNet", {}),
    "mobilebert": ("MobileBert", {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}),
    "nystromformer": ("Nystromformer", {}),
}
"""Families whose models say something else of a text where it is padded."""
HEADS = {
    "masked_lm": "ForMaskedLM",
    "classification": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "questions": "ForQuestionAnswering",
    "hidden_states": "Model",
}


def tokenizer(family: str = "bert") -> Any:
    """A word tokenizer with the special tokens, the pairs and the inputs of the family."""
    angled = "roberta" in family or family in ("camembert", "mpnet")
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if angled else ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*names, *dict.fromkeys(WORDS)])}
    if not angled:
        vocabulary["[CLS]"], vocabulary["[PAD]"] = 1, 0
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=names[3]))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = (names[0], vocabulary[names[0]]), (names[2], vocabulary[names[2]])
    between = f"{sep[0]}:0 " if angled else ""
    made.post_processor = processors.TemplateProcessing(
        single=f"{cls[0]}:0 $A:0 {sep[0]}:0",
        pair=f"{cls[0]}:0 $A:0 {sep[0]}:0 {between}$B:{int(not angled)} {sep[0]}:{int(not angled)}",
        special_tokens=[cls, sep],
    )
    inputs = ["input_ids", "attention_mask"]
    one_type = angled or family in ("modernbert", "deberta-v2")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        cls_token=names[0],
        pad_token=names[1],
        sep_token=names[2],
        unk_token=names[3],
        mask_token=names[4],
        model_max_length=48,
        # A student cut from BERT keeps BERT's tokenizer, with the token types that DistilBERT has not.
        model_input_names=inputs if one_type else ["input_ids", "token_type_ids", *inputs[1:]],
    )


def model(family: str = "bert", head: str = "masked_lm", seed: int = 0, **changes: Any) -> Any:
    """The model in evaluation mode, its weights large enough for outputs that differ."""
    name, options = (FAMILIES | PADDING_READ)[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer(family)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
        **{"num_labels": 2 if head == "questions" else 3, **options, **changes},
    )
    return getattr(transformers, f"{name}{HEADS[head]}")(config).eval()
