#!/usr/bin/env python3
"""Compares embeddings of flipk with those of OpenCLIP, transformers and onnxruntime, for models that go in and out.

    tools/peers/interop.py --photos photos.tar [--flipk target/release/flipk] [--out FILE]

Models with random weights are made in Python and saved as OpenCLIP and transformers save them. flipk embeds photographs
and captions with each; trains it for three steps; exports it in every form and type of numbers that can express it; and
each export is loaded by the program that it is for, whose embeddings are compared with flipk's. So are those of the
paper's own model, trained by flipk. `photos.tar` is a WebDataset shard of photographs with captions.

Packages are installed from PyPI into a virtual environment (target/peers, or PEERS_ENV). Writes FILE, by default
benches/results/interop.json: for each model and form the largest difference of an element in f32, or the least cosine
in half precision. The photographs are scaled by OpenCLIP's transform first, so that both programs see the same pixels.
"""

import argparse
import datetime
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ["open_clip_torch==3.2.0", "transformers<5", "onnx==1.23.2", "onnxruntime==1.32.0"]
COUNT = 64

# Small, so that the whole comparison takes a minute; CLIP's vocabulary and context, so that its tokenizer is used.
VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
MODELS = {
    "clip": {},
    "quickgelu": {"quick_gelu": True},
    "end-id": {"text_cfg": {"pool_type": "eos", "eos_id": 49407}},
    "clipa": {
        "vision_cfg": {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {"pool_type": "last", "no_causal_mask": True},
    },
    "scaled": {
        "init_logit_bias": -10,
        "vision_cfg": {"pool_type": "avg", "ls_init_value": 0.3, "act_kwargs": {"approximate": "tanh"}},
        "text_cfg": {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}},
    },
    # Head widths of ViT-g and ViT-bigG, and MLPs of odd widths.
    "giant": {
        "vision_cfg": {"width": 88, "head_width": 88, "mlp_ratio": 4.3637},
        "text_cfg": {"width": 104, "heads": 1, "mlp_ratio": 4.3637},
    },
    "timm": {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}},
    "timm-token": {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "token"}},
    "timm-norm": {"vision_cfg": {"timm_model_name": "local-dir:"}},
    "timm-clip": {"quick_gelu": True, "vision_cfg": {"timm_model_name": "local-dir:"}},
}
# The `config.json` of timm for `local-dir:`.
SMALL = {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 2}
TOWERS = {
    "timm-norm": {
        "architecture": "vit_base_patch16_224", "pretrained_cfg": {},
        "model_args": {**SMALL, "global_pool": "avg", "pool_include_prefix": True, "no_embed_class": True,
                       "init_values": 0.3, "mlp_ratio": 3},
    },
    "timm-clip": {
        "architecture": "vit_base_patch16_clip_quickgelu_224", "pretrained_cfg": {},
        "model_args": {**SMALL, "pool_include_prefix": True},
    },
}
FORMS = {"clip": ["open_clip", "hf", "onnx"], "quickgelu": ["open_clip", "hf", "onnx"],
         "end-id": ["open_clip", "hf", "onnx"], "clipa": ["open_clip", "onnx"], "scaled": ["open_clip", "onnx"],
         "giant": ["open_clip", "hf", "onnx"],
         "timm": ["open_clip"], "timm-token": ["open_clip"], "timm-norm": ["open_clip"], "timm-clip": ["open_clip"],
         "flip": ["open_clip", "flip", "onnx"], "flip-patches": ["open_clip", "onnx"]}


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def make_open_clip(name, folder):
    """A model with random weights, as OpenCLIP's `save_for_hf` writes it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {"embed_dim": 32, **MODELS[name]}
    config["vision_cfg"] = {**VISION, **MODELS[name].get("vision_cfg", {})}
    config["text_cfg"] = {**TEXT, **MODELS[name].get("text_cfg", {})}
    folder.mkdir()
    if name in TOWERS:
        config["vision_cfg"]["timm_model_name"] += str(folder)
        (folder / "config.json").write_text(json.dumps(TOWERS[name]))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter) * (parameter.ndim > 0)
    pixels = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    config = {"model_cfg": config, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()},
              folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def photographs(shard, side, folder):
    """Photographs of `side` x `side` pixels as OpenCLIP's transform crops them, and their captions."""
    import open_clip
    from PIL import Image
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    members = {}
    with tarfile.open(shard) as archive:
        for member in archive.getmembers():
            if member.isfile():
                members[member.name] = archive.extractfile(member).read()
    folder.mkdir(exist_ok=True)
    images = sorted(name for name in members if name.endswith((".jpg", ".jpeg", ".png")))
    captions = []
    for number in range(COUNT):
        name = images[number % len(images)]
        image = Image.open(io.BytesIO(members[name])).convert("RGB")
        # Fewer photographs than wanted: other parts of the same ones.
        if number >= len(images):
            width, height = image.size
            part = number // len(images)
            image = image.crop((width * part // 10, height * part // 10, width, height))
        image = CenterCrop(side)(Resize(side, InterpolationMode.BICUBIC)(image))
        image.save(folder / f"{number:03}.png")
        captions.append(members[name.rsplit(".", 1)[0] + ".txt"].decode().strip().splitlines()[0])
    (folder / "captions.lines").write_text("\n".join(captions) + "\n")
    return captions


def embed(flipk, model, photos, out):
    """flipk's embeddings of images and captions."""
    from safetensors.torch import load_file

    run(flipk, "embed", model, "--images", photos, "--texts", photos / "captions.lines", "--out", out)
    rows = load_file(out)
    return rows["images"], rows["texts"]


def open_clip_rows(folder, photos, captions):
    """OpenCLIP's embeddings, with nothing of ours but the folder."""
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    images = torch.stack([transform(Image.open(photos / f"{number:03}.png")) for number in range(COUNT)])
    with torch.no_grad():
        return model.encode_image(images, normalize=True), model.encode_text(tokenizer(captions), normalize=True)


def hugging_face_rows(folder, photos, captions):
    """The embeddings of transformers' `CLIPModel` and its processor."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    images = [Image.open(photos / f"{number:03}.png").convert("RGB") for number in range(COUNT)]
    pixels = CLIPImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    length = model.config.text_config.max_position_embeddings
    tokens = AutoTokenizer.from_pretrained(folder)(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, **pixels)
    return output.image_embeds, output.text_embeds


def onnx_rows(folder, photos, captions):
    """onnxruntime's embeddings on the CPU, in batches of one and of all, with no other program's preparation."""
    import numpy
    import onnx
    import onnxruntime
    import torch
    from PIL import Image
    from tokenizers import Tokenizer

    about = json.loads((folder / "onnx_config.json").read_text())
    pixels = numpy.stack([numpy.asarray(Image.open(photos / f"{number:03}.png")) for number in range(COUNT)])
    pixels = pixels.transpose(0, 3, 1, 2).astype(numpy.float32) / 255
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(about["context"])
    tokenizer.enable_padding(length=about["context"], pad_id=about["text"]["input"]["pad_id"])
    tokens = numpy.array([text.ids for text in tokenizer.encode_batch(captions)], numpy.int64)
    results = []
    for side, rows in [("image", pixels), ("text", tokens)]:
        path = folder / about[side]["file"]
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        infer = lambda rows: session.run([about[side]["output"]["name"]], {about[side]["input"]["name"]: rows})[0]
        together, alone = infer(rows), numpy.concatenate([infer(row[None]) for row in rows])
        # Products may be summed in another order, which f16 makes visible.
        if (apart := numpy.abs(together - alone).max()) > (1e-5 if "f32" in folder.name else 1e-3):
            sys.exit(f"{path}: batches of 1 and of {COUNT} differ by {apart}")
        results.append(torch.from_numpy(together))
    return results


def compare(ours, theirs, numbers):
    """The largest difference, or with half precision the least cosine, of images and of texts."""
    if numbers == "f32":
        return [(a - b).abs().max().item() for a, b in zip(ours, theirs)]
    return [(a * b).sum(-1).div(a.norm(dim=-1) * b.norm(dim=-1)).min().item() for a, b in zip(ours, theirs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=pathlib.Path, required=True, help="a WebDataset shard of photographs")
    parser.add_argument("--flipk", type=pathlib.Path, default=ROOT / "target/release/flipk")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results/interop.json")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        environment = pathlib.Path(os.environ.get("PEERS_ENV", ROOT / "target/peers"))
        python = environment / "bin/python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        sys.exit(subprocess.run([python, __file__, "--inside", *sys.argv[1:]]).returncode)

    import onnxruntime
    import open_clip
    import transformers

    rows, failed = [], 0
    print("| model | step | form | numbers | images | texts |\n|---|---|---|---|---|---|")

    def row(model, step, form, numbers, found):
        nonlocal failed
        good = all(value < 1e-5 if numbers == "f32" else value > 0.9999 for value in found)
        failed += not good
        place = {"model": model, "step": step, "form": form, "numbers": numbers}
        rows.append(place | {"images": found[0], "texts": found[1]})
        shown = [f"{value:.1e}" if numbers == "f32" else f"{value:.6f}" for value in found]
        verdict = "" if good else " too far"
        print(f"| {model} | {step} | {form} | {numbers} | {shown[0]} | {shown[1]} |{verdict}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        flipk = arguments.flipk
        data = ["--data", arguments.photos, "--steps=3", "--batch=8", "--save-every=0", "--device=cpu"]
        for name in FORMS:
            run_folder = place / f"{name}-run"
            side = {**VISION, **MODELS.get(name, {}).get("vision_cfg", {})}["image_size"]
            photos = place / f"photos-{side}"
            captions = photographs(arguments.photos, side, photos)
            if name in MODELS:
                source = place / name
                make_open_clip(name, source)
                row(name, "in", "open_clip", "f32", compare(
                    embed(flipk, source, photos, place / f"{name}.safetensors"),
                    open_clip_rows(source, photos, captions), "f32"))
                run(flipk, "train", "--init-from", source, "--out", run_folder, "--mask-ratio=0.5", *data)
            else:
                pool = ["--pool=patches"] if name == "flip-patches" else []
                run(flipk, "train", "--model=tiny", "--image-size=64", "--patch-size=16", *pool, "--data=embedded:noto",
                    "--eval-data=embedded:noto", "--steps=3", "--save-every=0", "--device=cpu", "--out", run_folder)
            ours = embed(flipk, run_folder, photos, place / f"{name}-run.safetensors")
            for form in FORMS[name]:
                reader = {"open_clip": open_clip_rows, "hf": hugging_face_rows, "onnx": onnx_rows}.get(form)
                # onnxruntime does not compute in bf16 on a CPU, and flipk does not read ONNX.
                for numbers in ["f32", "f16"] if form == "onnx" else ["f32", "f16", "bf16"]:
                    out = place / f"{name}-{form}-{numbers}"
                    run(flipk, "export", run_folder, "--format", form, "--dtype", numbers, "--out", out)
                    if reader:
                        row(name, "out", form, numbers, compare(ours, reader(out, photos, captions), numbers))
                if form == "onnx":
                    continue
                back = embed(flipk, place / f"{name}-{form}-f32", photos, place / f"{name}-{form}.safetensors")
                row(name, "back", form, "f32", compare(ours, back, "f32"))
    versions = {"open_clip": open_clip.__version__, "transformers": transformers.__version__,
                "onnxruntime": onnxruntime.__version__}
    result = {"date": datetime.date.today().isoformat(), "versions": versions, "photographs": COUNT, "rows": rows}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(f"{failed} of {len(rows)} comparisons are too far apart" if failed else 0)


if __name__ == "__main__":
    main()
