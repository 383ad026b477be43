"""Times OpenCLIP's training step on the CPU (forward, backward and AdamW, in f32 or under bf16 autocast) for run.py."""

import json
import sys
import time

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg


def create(case):
    # Patch dropout is OpenCLIP's version of FLIP: it embeds all patches and then drops some.
    if "model" in case:
        return open_clip.create_model(case["model"], force_patch_dropout=case["ratio"])
    width, heads = case["vision_width"], case["vision_heads"]
    vision = CLIPVisionCfg(layers=case["vision_layers"], width=width, head_width=width // heads,
                           patch_size=case["patch_size"], image_size=case["image_size"], patch_dropout=case["ratio"])
    text = CLIPTextCfg(context_length=case["context"], vocab_size=case["vocab"], width=case["text_width"],
                       heads=case["text_heads"], layers=case["text_layers"])
    return CLIP(case["embed_dim"], vision, text)


def main():
    case = json.loads(sys.argv[1])
    torch.manual_seed(0)
    model = create(case)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.2)
    loss_function = ClipLoss()
    images = torch.randn(case["batch"], 3, *model.visual.image_size)
    tokens = torch.randint(1, model.vocab_size, (case["batch"], model.context_length))

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16"):
            loss = loss_function(*model(images, tokens))
        loss.backward()
        optimizer.step()

    step()
    times = []
    while len(times) < 3 or sum(times) < case["seconds"]:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(json.dumps({"samples_per_second": [case["batch"] / time for time in times], "torch": torch.__version__,
                      "threads": torch.get_num_threads()}))


main()
