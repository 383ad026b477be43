"""PyTorch's training step of CLIP with patch dropout, as OpenCLIP builds it: bf16 autocast, SDPA, torch.compile, fused
AdamW.

    peer.py b16|l16 RATIO BATCH

Runs some steps, which compiles them, prints `ready`, frees the GPU's memory, waits for a line, and then prints
samples per second as a line of JSON. So several processes can compile at the same time, and are timed one after the
other.

It is timed as flipk is (`flipk profile --profile-seconds 10`): steps follow each other for at least ten seconds, and
the host reads the loss of each step after it has submitted the next one, so that the GPU never waits for it. A batch
that does not fit is run with gradient checkpointing, and the line says so; if that does not fit either, there is no
number. OpenCLIP is used if it is installed; otherwise the same modules are built here from torch.nn (pre-norm
blocks, packed qkv, GELU MLP), with the same sizes and the patches dropped after the embedding.
"""

import argparse
import gc
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

MODELS = json.loads(pathlib.Path(__file__).with_name("models.json").read_text())


def tower(model, name):
    return tuple(MODELS[model][f"{name}_{size}"] for size in ("layers", "width", "heads"))


# Vision layers, width, heads; text layers, width, heads; joint width.
SIZES = {name: (tower(name, "vision"), tower(name, "text"), MODELS[name]["embed_dim"]) for name in ("b16", "l16")}
SECONDS = 10
SIDE, PATCH, CONTEXT, VOCAB = (MODELS["b16"][size] for size in ("image_size", "patch_size", "context", "vocab"))


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
        self.cls = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn(patches + 1, width))
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


class Peer:
    """A model in training; the first step compiles it."""

    def __init__(self, name, ratio, batch, checkpointing, device):
        torch.manual_seed(0)
        try:
            model, self.kind = open_clip(*SIZES[name], ratio), "open_clip"
        except ImportError:
            model, self.kind = Clip(*SIZES[name], ratio), "torch.nn with OpenCLIP's architecture"
        model.set_grad_checkpointing(checkpointing)
        self.model, self.device, self.batch = model.to(device), device, batch
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.2,
                                           fused=device == "cuda")
        self.compiled = torch.compile(model)
        self.images = torch.randn(batch, 3, SIDE, SIDE, device=device)
        self.tokens = torch.randint(1, VOCAB, (batch, CONTEXT), device=device)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = self.compiled(self.images, self.tokens)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def move(self, device):
        """Moves everything that outlives a step."""
        self.optimizer.zero_grad(set_to_none=True)
        held = [*self.model.parameters(), *self.model.buffers(), self.images, self.tokens]
        held += [value for state in self.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        for tensor in held:
            tensor.data = tensor.data.to(device)

    def seconds(self):
        """The mean time of a step, from the end of one step to the end of another, over at least SECONDS."""
        for _ in range(3):
            before = self.step()
        count, start = 0, None
        while start is None or time.perf_counter() - start < SECONDS:
            loss = self.step()
            before.item()
            # The step before has ended.
            if start is None:
                start = time.perf_counter()
            else:
                count += 1
            before = loss
        return (time.perf_counter() - start) / count


def clean(device):
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SIZES)
    parser.add_argument("ratio", type=float)
    parser.add_argument("batch", type=int)
    arguments = parser.parse_args()
    name, ratio, batch = arguments.model, arguments.ratio, arguments.batch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    row = {"model": name, "mask_ratio": ratio, "batch": batch, "torch": torch.__version__, "samples_per_second": None}
    peer = None
    try:
        peer = Peer(name, ratio, batch, False, device)
        for _ in range(3):
            peer.step()
    except torch.OutOfMemoryError:
        pass  # Other processes use the GPU too; it may fit later.
    if peer:
        peer.move("cpu")
    clean(device)
    print("ready", flush=True)
    sys.stdin.readline()
    for checkpointing in [False, True]:
        try:
            if checkpointing or not peer:
                peer = None
                torch.compiler.reset()
                clean(device)
                peer = Peer(name, ratio, batch, checkpointing, device)
            peer.move(device)
            row |= {"peer": peer.kind, "recompute": checkpointing, "samples_per_second": batch / peer.seconds()}
            break
        except torch.OutOfMemoryError:
            pass
    print(json.dumps(row), flush=True)


main()
