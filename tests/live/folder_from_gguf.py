"""Makes of the built-in model's file the folder that vLLM loads: the same weights and words, in Hugging Face's form.

    python folder_from_gguf.py FILE.gguf FOLDER

Run by `install_vllm.sh` with that installation's own Python, which has gguf, torch, safetensors and tokenizers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
CONTROL = 3
"""The type of a token that is no text."""


def main(file: str, folder: Path) -> None:
    reader = gguf.GGUFReader(file)
    told = {name: field.contents() for name, field in reader.fields.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(reader, told), folder / "model.safetensors", metadata={"format": "pt"})
    write(folder / "config.json", config(told))
    tokenizer(told).save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", tokenizer_config(told))


def weights(reader: Any, told: dict[str, Any]) -> dict[str, Any]:
    heads = {
        "attn_q.weight": told["llama.attention.head_count"],
        "attn_k.weight": told["llama.attention.head_count_kv"],
    }
    found = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        layer, kind = placed(tensor.name)
        if kind in heads:  # llama.cpp keeps the halves of each head's rows interleaved
            rows, columns = weight.shape
            halves = weight.reshape(heads[kind], rows // heads[kind] // 2, 2, columns)
            weight = halves.swapaxes(1, 2).reshape(rows, columns)
        name = f"model.layers.{layer}.{NAMES[kind]}" if layer else NAMES[kind]
        found[name] = weight.to(torch.bfloat16).contiguous()
    return found


def placed(name: str) -> tuple[str, str]:
    """A tensor's layer, empty where it is of none, and what it is there."""
    if not name.startswith("blk."):
        return "", name
    layer, _, kind = name.removeprefix("blk.").partition(".")
    return layer, kind


def config(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": told["llama.embedding_length"],
        "intermediate_size": told["llama.feed_forward_length"],
        "num_hidden_layers": told["llama.block_count"],
        "num_attention_heads": told["llama.attention.head_count"],
        "num_key_value_heads": told["llama.attention.head_count_kv"],
        "max_position_embeddings": told["llama.context_length"],
        "rms_norm_eps": told["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": told.get("llama.rope.freq_base", 10000.0),
        "vocab_size": len(told["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
        "bos_token_id": told["tokenizer.ggml.bos_token_id"],
        "eos_token_id": told["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "bfloat16",
    }


def tokenizer(told: dict[str, Any]) -> Tokenizer:
    words = told["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in told["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    kinds = told["tokenizer.ggml.token_type"]
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    return made


def tokenizer_config(told: dict[str, Any]) -> dict[str, Any]:
    words = told["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": words[told["tokenizer.ggml.bos_token_id"]],
        "eos_token": words[told["tokenizer.ggml.eos_token_id"]],
        "model_max_length": told["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": told["tokenizer.chat_template"],
    }


def write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
