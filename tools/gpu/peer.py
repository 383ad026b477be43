"""PyTorch's training step of CLIP with patch dropout, as OpenCLIP builds it: bf16 autocast, SDPA, torch.compile, fused AdamW.

    peer.py b16|l16 RATIO BATCH ...

Prints samples per second of each batch as a line of JSON. Where a batch does not fit, its blocks are computed again in the
backward pass (gradient checkpointing), and the line says so; where even that does not fit, there is no number. OpenCLIP itself is used where it is installed; otherwise the same modules are built here from
torch.nn alone (pre-norm blocks, packed qkv, GELU MLP), with the same sizes and the patches dropped after the embedding.
"""

import gc
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

SIZES = {  # vision layers, width, heads; text layers, width, heads; joint width
    "b16": ((12, 768, 12), (12, 512, 8), 512),
    "l16": ((24, 1024, 16), (12, 768, 12), 768),
}
SIDE, PATCH, CONTEXT, VOCAB = 224, 16, 32, 30_523


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Blocks(nn.Sequential):
    checkpointing = False

    def forward(self, x):
        for block in self:
            again = self.checkpointing and isinstance(block, Block)
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x


class Clip(nn.Module):
    def __init__(self, vision, text, joint, ratio):
        super().__init__()
        (layers, width, heads), (text_layers, text_width, text_heads) = vision, text
        patches = (SIDE // PATCH) ** 2
        self.keep = int(patches * (1 - ratio))
        self.conv = nn.Conv2d(3, width, PATCH, PATCH)
        self.cls, self.positions = nn.Parameter(torch.zeros(width)), nn.Parameter(0.02 * torch.randn(patches + 1, width))
        self.vision = Blocks(*(Block(width, heads) for _ in range(layers)), nn.LayerNorm(width))
        self.embedding = nn.Embedding(VOCAB, text_width)
        self.text_positions = nn.Parameter(0.02 * torch.randn(CONTEXT, text_width))
        self.text = Blocks(*(Block(text_width, text_heads) for _ in range(text_layers)), nn.LayerNorm(text_width))
        self.image_projection = nn.Linear(width, joint, bias=False)
        self.text_projection = nn.Linear(text_width, joint, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.659))

    def set_grad_checkpointing(self, on):
        self.vision.checkpointing = self.text.checkpointing = on

    def forward(self, images, tokens):
        x = self.conv(images).flatten(2).transpose(1, 2) + self.positions[1:]
        if self.keep < x.shape[1]:
            noise = torch.randn(x.shape[:2], device=x.device)
            index = noise.topk(self.keep, dim=1).indices
            x = x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        cls = (self.cls + self.positions[0]).expand(x.shape[0], 1, -1).to(x.dtype)
        image = F.normalize(self.image_projection(self.vision(torch.cat([cls, x], 1)).mean(1)), dim=-1)
        text = self.text(self.embedding(tokens) + self.text_positions)[:, 0]
        text = F.normalize(self.text_projection(text), dim=-1)
        logits = self.logit_scale.exp() * image.float() @ text.float().T
        target = torch.arange(logits.shape[0], device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def open_clip(vision, text, joint, ratio):
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    (layers, width, heads), (text_layers, text_width, text_heads) = vision, text
    vision = CLIPVisionCfg(layers=layers, width=width, head_width=width // heads, patch_size=PATCH, image_size=SIDE,
                           patch_dropout=ratio)
    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCAB, width=text_width, heads=text_heads, layers=text_layers)
    model, loss = CLIP(joint, vision, text), ClipLoss()

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def set_grad_checkpointing(self, on):
            self.model.set_grad_checkpointing(on)

        def forward(self, images, tokens):
            return loss(*self.model(images, tokens))

    return Step()


def measure(name, ratio, batch, checkpointing, device):
    """The kind of peer and its samples per second."""
    torch.manual_seed(0)
    try:
        model, peer = open_clip(*SIZES[name], ratio), "open_clip"
    except ImportError:
        model, peer = Clip(*SIZES[name], ratio), "torch.nn with OpenCLIP's architecture"
    model.set_grad_checkpointing(checkpointing)
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.2, fused=device == "cuda")
    compiled = torch.compile(model)
    images = torch.randn(batch, 3, SIDE, SIDE, device=device)
    tokens = torch.randint(1, VOCAB, (batch, CONTEXT), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = compiled(images, tokens)
        loss.backward()
        optimizer.step()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(5):
        step()
    times = []
    for _ in range(10):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    times.sort()
    return peer, batch / times[len(times) // 2]


def main():
    name, ratio, batches = sys.argv[1], float(sys.argv[2]), [int(batch) for batch in sys.argv[3:]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for batch in batches:
        row = {"model": name, "mask_ratio": ratio, "batch": batch, "torch": torch.__version__, "samples_per_second": None}
        for checkpointing in [False, True]:
            try:
                row["peer"], row["samples_per_second"] = measure(name, ratio, batch, checkpointing, device)
                row["recompute"] = checkpointing
                break
            except torch.OutOfMemoryError:
                pass
            finally:
                torch.compiler.reset()
                gc.collect()
                if device == "cuda":
                    torch.cuda.empty_cache()
        print(json.dumps(row), flush=True)


main()
