"""The sizes of phi-moe-nano and of its twin, as configurations of Transformers."""

from __future__ import annotations

from typing import Any

from transformers import Phi3Config, Phi3ForCausalLM, PhimoeConfig, PhimoeForCausalLM

from recipes.tokenizer import SPECIAL

HIDDEN, EXPERT, LAYERS, HEADS = 192, 192, 6, 6
EXPERTS, CHOSEN = 16, 2
CONTEXT = 2048
BALANCE = 0.01  # of the loss that spreads tokens over experts, in the sum of both

_NOTHING, _END = SPECIAL.index("<|endoftext|>"), SPECIAL.index("<|end|>")


def mixture(vocabulary: int) -> Any:
    """The architecture of Phi-3.5-MoE, small, with weights by chance."""
    config = PhimoeConfig(
        **_common(vocabulary),
        intermediate_size=EXPERT,
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        router_aux_loss_coef=BALANCE,
        attention_bias=True,
        lm_head_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return PhimoeForCausalLM(config)


def twin(vocabulary: int) -> Any:
    """The architecture of Phi-3-mini, small: its one feed-forward part is as large as the experts
    that work on a token."""
    config = Phi3Config(
        **_common(vocabulary),
        intermediate_size=CHOSEN * EXPERT,
        original_max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return Phi3ForCausalLM(config)


def _common(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": _NOTHING,
        "eos_token_id": [_END, _NOTHING],
        "pad_token_id": _NOTHING,
    }


def sizes(model: Any) -> tuple[int, int]:
    """(parameters, those that work on a token)."""
    total = sum(item.numel() for item in model.parameters())
    experts = sum(item.numel() for name, item in model.named_parameters() if ".experts." in name)
    return total, total - experts + experts * CHOSEN // EXPERTS
