#!/usr/bin/env python3
"""Writes golden states of OpenCLIP models: weights, inputs, embeddings, loss and every gradient, in f32.

    tools/golden/build.py tests/fixtures/golden

Each state is of a small model with other choices, so that `flipk verify` and `tests/golden.rs` check all of them. The
packages come from PyPI: `pip install open_clip_torch safetensors`.
"""

import argparse
import json
import pathlib

import open_clip
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.torch import save_file

BATCH = 8
PIXELS = {"clip": (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}

# Widths of 32 keep the files small. Every choice of a tower occurs, and each way to pool a caption.
VISION = {"image_size": 24, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 9, "vocab_size": 40, "width": 24, "heads": 2, "layers": 2}
STATES = {
    "open_clip_quick": ("clip", {"quick_gelu": True, "text_cfg": {"pool_type": "eos", "eos_id": 7}}),
    "open_clip_clipa": (
        "half",
        {
            "vision_cfg": {
                "no_ln_pre": True,
                "pool_type": "avg",
                "final_ln_after_pool": True,
                "pos_embed_type": "sin_cos_2d",
                "norm_kwargs": {"eps": 1e-3},
                "act_kwargs": {"approximate": "tanh"},
            },
            "text_cfg": {"pool_type": "last", "no_causal_mask": True, "mlp_ratio": 3.0},
        },
    ),
    "open_clip_scaled": (
        "clip",
        {
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {"pool_type": "avg", "ls_init_value": 0.3, "mlp_ratio": 3.25},
            "text_cfg": {
                "pool_type": "first",
                "no_causal_mask": True,
                "ls_init_value": 0.2,
                "norm_kwargs": {"eps": 1e-4},
                "act_kwargs": {"approximate": "tanh"},
            },
        },
    ),
}


def state(pixels, choices):
    """The header's config and the tensors of a state."""
    config = {"embed_dim": 16, **choices}
    config["vision_cfg"] = {**VISION, **choices.get("vision_cfg", {})}
    config["text_cfg"] = {**TEXT, **choices.get("text_cfg", {})}
    torch.manual_seed(1)
    custom = config.get("custom_text", False)
    create = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    model = create(**{key: value for key, value in config.items() if key != "custom_text"})
    # Biases, scales and positions start as constants, in which errors would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim:
                parameter += 0.1 * torch.randn_like(parameter)
    mean, std = PIXELS[pixels]
    images = torch.randint(0, 256, (BATCH, VISION["image_size"], VISION["image_size"], 3), dtype=torch.uint8)
    # No token is 0 or 7 but the ends: `eos` finds none in the last caption, and takes the first place.
    tokens = torch.randint(8, TEXT["vocab_size"] - 1, (BATCH, TEXT["context_length"]), dtype=torch.int32)
    for row, end in enumerate((3, 8, 5)):
        tokens[row, end] = 7 if config["text_cfg"].get("pool_type") == "eos" else TEXT["vocab_size"] - 1
        tokens[row, end + 1 :] = 0
    shape = (1, 3, 1, 1)
    pixels = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    output = model(pixels, tokens.long())
    image, text, scale = output[:3]
    if "init_logit_bias" in config:
        loss = SigLipLoss()(image, text, scale, model.logit_bias)
    else:
        loss = ClipLoss()(image, text, scale)
    loss.backward()
    # As CLIP names them, whether or not the text tower is a module of its own.
    name = lambda key: key.removeprefix("text.")
    tensors = {f"state_dict/{name(key)}": value for key, value in model.state_dict().items() if "attn_mask" not in key}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"grads/{name(key)}"] = parameter.grad
    tensors |= {
        "inputs/images_u8": images,
        "inputs/tokens": tokens,
        "outputs/image_features": image,
        "outputs/text_features": text,
        "outputs/logit_scale": scale,
        "outputs/loss": loss,
    }
    config |= {"batch": BATCH, "mean": list(mean), "std": list(std), "open_clip": open_clip.__version__}
    return config, {key: value.detach().contiguous() for key, value in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    for name, (pixels, choices) in STATES.items():
        config, tensors = state(pixels, choices)
        save_file(tensors, folder / f"{name}.safetensors", metadata={"config": json.dumps(config)})


if __name__ == "__main__":
    main()
