"""Tiny models of many architectures with random weights, and what plain transformers says of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from bench.engine.forward import Forward
from bench.engine.pack import Budget, TokenRequest, plan_packs
from bench.engine.scorer import Outcome, Scorer
from bench.hf import AutoModelForCausalLM
from bench.records import Loglikelihood

VOCAB = 101
WINDOW = 13  # small enough to bite

_BASE = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
_LLAMA = {**_BASE, **_SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
_GPT = {**_BASE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
_LAYERS = ["sliding_attention", "full_attention"]
_SOME_SLIDE = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": _LAYERS}

PACKED: dict[str, dict[str, Any]] = {
    "cohere": {**_LLAMA, "logit_scale": 0.4, "use_qk_norm": True},
    "gemma": {**_LLAMA, "head_dim": 16},
    "gemma2": {
        **_LLAMA,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _LAYERS,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 4.0,
        "query_pre_attn_scalar": 12,
    },
    "gemma3_text": {
        **_LLAMA,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _LAYERS,
        "query_pre_attn_scalar": 12,
    },
    "gpt2": {**_GPT, "scale_attn_by_inverse_layer_idx": True},
    "gpt_bigcode": {**_GPT, "multi_query": True},
    "gpt_neox": {
        **_BASE,
        **_SIZES,
        "intermediate_size": 48,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    },
    "granite": {
        **_LLAMA,
        "embedding_multiplier": 2.0,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.4,
    },
    "llama": {**_LLAMA, "attention_bias": True, "head_dim": 16},
    "llama-3": {
        **_LLAMA,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {**_LLAMA, "sliding_window": WINDOW},
    "mixtral": {**_LLAMA, "sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": {**_LLAMA, "clip_qkv": 0.7},
    "olmo2": _LLAMA,
    "olmo3": {**_LLAMA, "sliding_window": WINDOW, "layer_types": _LAYERS},
    "opt": {
        **{key: value for key, value in _BASE.items() if key != "initializer_range"},
        **_SIZES,
        "ffn_dim": 48,
        "word_embed_proj_dim": 16,
        "init_std": 0.2,
    },
    "phi": {**_LLAMA, "qk_layernorm": True},
    "phi3": {**_LLAMA, "sliding_window": WINDOW},
    "qwen2": {**_LLAMA, **_SOME_SLIDE},
    "qwen2_moe": {
        **_LLAMA,
        **_SOME_SLIDE,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3": {**_LLAMA, **_SOME_SLIDE, "head_dim": 16},
    "qwen3_moe": {
        **_LLAMA,
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "smollm3": {**_LLAMA, **_SOME_SLIDE, "no_rope_layers": [1, 0]},
    "stablelm": {**_LLAMA, "use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
    "starcoder2": {**_LLAMA, "sliding_window": WINDOW},
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neo": {
        **_BASE,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
        "max_position_embeddings": 512,
    },
    "bloom": {**_BASE, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {**_BASE, **_SIZES, "multi_query": True},
    "falcon-new": {**_BASE, **_SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-alibi": {**_BASE, **_SIZES, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "mpt": {
        **{key: value for key, value in _BASE.items() if key != "pad_token_id"},
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 512,
    },
    "codegen": {**_GPT, "n_ctx": 512, "rotary_dim": 4},
}
"""Configurations of the architectures that are scored packed, by model type and variant.

They have every feature of theirs that touches attention."""

UNKNOWN = {"gpt_neox_japanese": {**_BASE, **_SIZES, "intermediate_multiple_size": 2}}
"""Of architectures that are not."""


def tiny_model(name: str, **changes: Any) -> Any:
    """Build a model in fp32. Vectors (norms, biases) are random as well, so that none of them can be left out."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[name.partition("-")[0]](**({**PACKED, **UNKNOWN}[name] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def plain_loglikelihoods(model: Any, requests: Sequence[TokenRequest]) -> list[tuple[float, bool]]:
    """Value and greediness of each request by one forward pass of its own through a copy of the model."""
    model = copy.deepcopy(model)
    if model.config.model_type == "gemma2":
        model.set_attn_implementation("eager")  # transformers' sdpa leaves soft caps out
    found = []
    seen: dict[bytes, torch.Tensor] = {}  # options of one token ask for the same pass
    with torch.inference_mode():
        for request in requests:
            key = request.inputs.tobytes()
            if key not in seen:
                ids = torch.tensor([request.inputs.tolist()], device=model.device)
                seen[key] = model(input_ids=ids).logits[0].double().cpu()
            logits = seen[key][-len(request.targets) :]
            targets = torch.tensor(request.targets)
            values = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])
            found.append((float(values.sum()), bool((logits.argmax(-1) == targets).all())))
    return found


def score(forward: Forward, requests: Sequence[TokenRequest], budget: Budget) -> list[Outcome]:
    """All requests' outcomes, each of which must come once."""
    outcomes: dict[int, Outcome] = {}
    plan = plan_packs(requests, budget)
    for scored in Scorer(forward, budget).score(requests, plan, set(range(len(requests)))):
        assert outcomes.keys().isdisjoint(scored.outcomes)
        outcomes.update(scored.outcomes)
    return [outcomes[index] for index in range(len(requests))]


def largest_difference(found: Sequence[Outcome], expected: Sequence[tuple[float, bool]]) -> float:
    """Largest |difference| of loglikelihoods; `is_greedy` must be equal."""
    differences = [0.0]
    for outcome, (value, is_greedy) in zip(found, expected, strict=True):
        assert isinstance(outcome, Loglikelihood)
        assert outcome.is_greedy == is_greedy
        differences.append(abs(outcome.value - value))
    return max(differences)
