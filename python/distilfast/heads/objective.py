"""What a student is trained for: the losses, their weights, and where they are taken."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

KLPositions = Literal["all", "masked", "sampled"]
CosinePositions = Literal["all", "kl"]
HiddenKind = Literal["cosine", "mse"]


@dataclass(frozen=True)
class Objective:
    """The weighted sum of a head's losses and of those on hidden states; the defaults are those of the published run.

    alpha_ce: what the head says against the teacher's (KL; see each head). alpha_mlm: the masked-language-model loss of
    masked_lm. alpha_task: the loss against labels of every other head. alpha_mse: squared distance of logits, summed
    over classes. alpha_cos: 1 - cosine of the last hidden states. alpha_hidden: intermediate layers
    (`HiddenLayerLoss`). alpha_rel: attention relations (`RelationLoss`). alpha_embedding, alpha_similarity: vectors of
    texts, and how alike those of a batch are, with `similarity_temperature` and `dimensions` (see `Embedding`).
    alpha_margin_mse, alpha_listnet: scores of the rows of a group (see `Reranking`). A head reads the alphas that it
    has.

    For masked_lm, `kl_positions`: the rows of KL and MSE, "all" that are attended (the original's default), "masked"
    ones alone, or the masked and a "sampled" share of the others, that comes with the batches, weighted to be unbiased.
    `cos_positions`: the rows of the cosine, "all" that are attended (the original's) or those of the "kl".
    `impl`: which implementation of the losses, see `distilfast.losses`.
    """

    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_task: float = 1.0
    alpha_cos: float = 1.0
    alpha_mse: float = 0.0
    temperature: float = 2.0
    kl_positions: KLPositions = "all"
    cos_positions: CosinePositions = "all"
    alpha_hidden: float = 0.0
    hidden_map: tuple[tuple[int, int], ...] | None = None
    hidden_kind: HiddenKind = "cosine"
    alpha_rel: float = 0.0
    relation_heads: int | None = None
    relation_layers: tuple[int, int] | None = None
    alpha_embedding: float = 0.0
    alpha_similarity: float = 0.0
    alpha_margin_mse: float = 0.0
    alpha_listnet: float = 0.0
    similarity_temperature: float = 0.05
    dimensions: tuple[int, ...] | None = None
    seed: int = 0
    impl: str = "auto"

    def settings(self, masked: bool) -> dict[str, Any]:
        """{field: value} of what decides the weights: all alphas, and the settings of losses whose alpha is not 0.

        `masked`: whether the head is masked_lm, which alone chooses positions."""
        soft = self.alpha_ce != 0 or self.alpha_mse != 0
        idle = {
            "temperature": self.alpha_ce == 0 and self.alpha_listnet == 0,
            "kl_positions": not (masked and soft),
            "cos_positions": not masked or self.alpha_cos == 0,
            **dict.fromkeys(("hidden_map", "hidden_kind"), self.alpha_hidden == 0),
            **dict.fromkeys(("relation_heads", "relation_layers"), self.alpha_rel == 0),
            "similarity_temperature": self.alpha_similarity == 0,
            "dimensions": self.alpha_embedding == 0 and self.alpha_similarity == 0,
            "impl": True,
        }
        return {name: value for name, value in asdict(self).items() if not idle.get(name)}

    @property
    def inner_states(self) -> bool:
        """Whether a loss looks at layers before the last."""
        return self.alpha_hidden != 0 or self.alpha_rel != 0
