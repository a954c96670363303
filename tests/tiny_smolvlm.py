"""A tiny SmolVLM in the hub's layout, and Transformers' own word on what it sees and says.

    write(folder, kind)   a random checkpoint in `folder`, its config.json as the published one's;
                          kind: "idefics3", which SmolVLM is, or "smolvlm", which SmolVLM2 is
    processor(folder)     the library's own, which needs no torchvision
    reads(folder, ...)    what it makes of a conversation
    says(folder, ...)     the library's own greedy reply

Everything is seeded: the same arguments give the same numbers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import tiny_tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

SIDE, LONG = 32, 128  # of a crop, and of the longer side of all of them
PATCH, SHUFFLE = 4, 4
EACH = (SIDE // PATCH // SHUFFLE) ** 2  # tokens of a crop
#: Renders what the published one does; written for these tests.
TEMPLATE = (
    "<|im_start|>"
    "{% for turn in messages %}"
    "{{ turn.role.capitalize() + (':' if turn.content[0].type == 'image' else ': ') }}"
    "{% for part in turn.content %}"
    "{% if part.type == 'image' %}{{ '<image>' }}"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '<end_of_utterance>\n' }}"
    "{% endfor %}"
    "{{ 'Assistant:' if add_generation_prompt else '' }}"
)
SPECIAL = (
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
)
END = "<end_of_utterance>"
TEXT = {
    "architectures": ["VLlama3ForCausalLM"],
    "model_type": "llama",
    "is_llama_config": True,
    "pixel_shuffle_factor": SHUFFLE,
    "use_resampler": False,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "rope_theta": 100000,
    "rms_norm_eps": 1e-5,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "max_image_size": {"longest_edge": SIDE},
    "size": {"longest_edge": LONG},
    "use_base_siglip": False,
}
CLASSES = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}


def write(folder: Path, kind: str = "idefics3", **preprocessing: Any) -> Path:
    ids = _tokenizer(folder)
    special = {
        "bos_token_id": ids["<|im_start|>"],
        "eos_token_id": ids[END],
        "pad_token_id": ids["<|im_end|>"],
    }
    config = {
        "architectures": [f"{CLASSES[kind]}ForConditionalGeneration"],
        "model_type": kind,
        "image_token_id": ids["<image>"],
        "scale_factor": SHUFFLE,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": len(ids),
        "text_config": TEXT | {"vocab_size": len(ids), "pad_token_id": ids["<|im_end|>"]},
        "vision_config": VISION | {"model_type": f"{kind}_vision"},
    }
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"_from_model_config": True, **special})
    _write(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_image_splitting": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Idefics3ImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "max_image_size": {"longest_edge": SIDE},
            "processor_class": "Idefics3Processor",
            "resample": 1,
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": LONG},
            **preprocessing,
        },
    )
    read = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_config(read)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in model.parameters():
            scale = 0.3 if values.dim() < 2 else 2 / values[0].numel() ** 0.5
            values.copy_(scale * torch.randn(values.shape, generator=chance))
    weights = {name: values.contiguous() for name, values in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def processor(folder: Path) -> Any:
    return transformers.Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil.from_pretrained(folder),
        tokenizer=transformers.PreTrainedTokenizerFast.from_pretrained(folder),
        image_seq_len=EACH,
        chat_template=TEMPLATE,
    )


def reads(folder: Path, messages: Sequence[Any], pictures: Sequence[PIL.Image.Image]) -> Any:
    """What the library makes of a conversation: input_ids, pixel_values ..."""
    library = processor(folder)
    prompt = library.apply_chat_template(messages, add_generation_prompt=True)
    return library(text=prompt, images=list(pictures) or None, return_tensors="pt")


def says(
    folder: Path, messages: Sequence[Any], pictures: Sequence[PIL.Image.Image], count: int
) -> tuple[list[int], torch.Tensor]:
    """The library's greedy reply: its tokens, and log-probabilities [count, vocabulary]."""
    inputs = reads(folder, messages, pictures)
    with torch.inference_mode():
        made = _model(folder).generate(
            **inputs,
            max_new_tokens=count,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    said = made.sequences[0, inputs["input_ids"].shape[1] :]
    return said.tolist(), torch.cat(made.logits).log_softmax(-1)


@functools.cache
def _model(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def _tokenizer(folder: Path) -> dict[str, int]:
    """SmolLM2's with SmolVLM's tokens behind it, and with two ends of lines in one token."""
    tiny_tokenizers.files("smollm2", folder)
    file = folder / "tokenizer.json"
    source = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, added = source["model"]["vocab"], source["added_tokens"]
    vocabulary["ĊĊ"] = len(vocabulary)
    source["model"]["merges"].append("Ċ Ċ")
    added += [added[0] | {"content": content} for content in SPECIAL]
    for number, token in enumerate(added, len(vocabulary)):
        token["id"] = number
    _write(file, source)
    names = {"bos_token": "<|im_start|>", "eos_token": END, "pad_token": "<|im_end|>"}
    config = {
        **names,
        "additional_special_tokens": ["<fake_token_around_image>", "<image>", END],
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "processor_class": "Idefics3Processor",
        "tokenizer_class": "GPT2Tokenizer",
    }
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "special_tokens_map.json", names)
    return tiny_tokenizers.ids(folder)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
