"""Small models of many families and every head, for tests of what is loaded and cut."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCAB = 99
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**{**SMALL, "pad_token_id": 1}),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**{**SMALL, "pad_token_id": 1}),
    "camembert": lambda: transformers.CamembertConfig(**{**SMALL, "pad_token_id": 1}),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=16),
    "modernbert": lambda: transformers.ModernBertConfig(**SMALL, local_attention=4, cls_token_id=2, sep_token_id=3),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=40
    ),
}
HEADS: dict[str, Any] = {
    "masked_lm": transformers.AutoModelForMaskedLM,
    "classification": transformers.AutoModelForSequenceClassification,
    "tokens": transformers.AutoModelForTokenClassification,
    "questions": transformers.AutoModelForQuestionAnswering,
    "hidden_states": transformers.AutoModel,
}
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
LABELS = {0: "good", 1: "bad", 2: "neither"}


def config_of(family: str, head: str = "masked_lm") -> Any:
    config = CONFIGS[family]()
    if head in ("classification", "tokens"):
        config.id2label, config.label2id = dict(LABELS), {name: number for number, name in LABELS.items()}
    if head == "classification":
        config.problem_type = "multi_label_classification"
    return config


def teacher_of(family: str, head: str = "masked_lm") -> Any:
    """A small teacher in float64 with weights far enough from zero for mistakes to show."""
    torch.manual_seed(1)
    return spread(HEADS[head].from_config(config_of(family, head)))


def spread(model: Any) -> Any:
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def inputs(model: Any) -> dict[str, torch.Tensor]:
    """Three rows of up to 11 tokens, the second one shorter, with two token types where the model has them."""
    generator = torch.Generator().manual_seed(0)
    attention_mask = torch.ones(3, 11, dtype=torch.long)
    attention_mask[1, 7:] = 0
    found = {"input_ids": torch.randint(5, VOCAB, (3, 11), generator=generator), "attention_mask": attention_mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        found["token_type_ids"] = (torch.arange(11) > 4).long().expand(3, 11)
    return found


def outputs(model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model says, by name, without the positions of padding."""
    with torch.no_grad():
        result = model(**given, return_dict=True)
    kept = given["attention_mask"].bool()
    return {
        name: result[name][kept] if result[name].shape[:2] == kept.shape else result[name]
        for name in OUTPUTS
        if result.get(name) is not None
    }
