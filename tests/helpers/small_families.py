"""Small configurations of every family, for tests of models and of what runs inside them."""

from __future__ import annotations

from transformers import (
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

VOCAB = 61


def small(**changes: object) -> dict[str, object]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        # Large weights make attention sharp, so that a token seen by mistake shows.
        "initializer_range": 0.2,
        **changes,
    }


FAMILIES: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**small()),
    "distilbert": DistilBertConfig(
        vocab_size=VOCAB,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=40,
        initializer_range=0.2,
    ),
    "roberta": RobertaConfig(**small(pad_token_id=1)),
    "electra": ElectraConfig(**small(embedding_size=16)),
    # A window of 3 tokens to each side, narrower than the sequences; layer 0 is global.
    "modernbert": ModernBertConfig(
        **small(local_attention=6, pad_token_id=0, global_attn_every_n_layers=3, attention_dropout=0.1)
    ),
}

LAST_LAYER_SIZES = {
    "vocab_size": 53,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
LAST_LAYER_FAMILIES: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**LAST_LAYER_SIZES),
    "distilbert": DistilBertConfig(
        vocab_size=53, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40, initializer_range=0.2
    ),
    "roberta": RobertaConfig(**LAST_LAYER_SIZES, pad_token_id=1),
    "electra": ElectraConfig(**LAST_LAYER_SIZES, embedding_size=16),
    "modernbert-local": ModernBertConfig(
        **LAST_LAYER_SIZES, local_attention=6, pad_token_id=0, global_attn_every_n_layers=2
    ),
    "modernbert-bias": ModernBertConfig(
        **LAST_LAYER_SIZES, attention_bias=True, mlp_bias=True, pad_token_id=0, global_attn_every_n_layers=1
    ),
}
