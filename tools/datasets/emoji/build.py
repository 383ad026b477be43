"""Makes WebDataset shards and a tokenizer from the emoji of npm packages. Usage: build.py NODE_MODULES OUT

The same sources give the same bytes: samples are sorted, and archives hold no times and no owners.
"""

import gzip
import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

SIDE = 64
VOCABULARY = 4096
QUALITY = 97


def sources(modules: Path) -> dict[str, dict[str, Path]]:
    """Style -> normalised hex code -> image file."""
    folders = {
        "noto": modules / "emoji-datasource-google/img/google/64",
        "twemoji": modules / "emoji-datasource-twitter/img/twitter/64",
        "fluent": modules / "@lobehub/fluent-emoji-3d/assets",
    }
    return {
        style: {key(path.stem): path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".webp")}
        for style, folder in folders.items()
    }


def key(hexcode: str) -> str:
    """Code points in lower case, without the variation selector, which only some of the packages write."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def samples(modules: Path, styles: dict[str, dict[str, Path]]) -> dict[str, dict]:
    """Key -> caption and tags, for each emoji that all styles have; without skin tones and single letters."""
    found = {}
    for emoji in json.loads((modules / "emojibase-data/en/data.json").read_text()):
        name = key(emoji["hexcode"])
        if "group" in emoji and all(name in images for images in styles.values()):
            found[name] = {"caption": emoji["label"].lower(), "tags": emoji.get("tags", [])}
    assert len({sample["caption"] for sample in found.values()}) == len(found), "two emoji share a name"
    return dict(sorted(found.items()))


def image(path: Path) -> bytes:
    """64 px on white, as lossy WebP: lossless files would exceed 12 MB."""
    picture = Image.open(path).convert("RGBA")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    out = io.BytesIO()
    Image.alpha_composite(white, picture).convert("RGB").save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def shard(path: Path, images: dict[str, Path], captions: dict[str, dict]) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, sample in captions.items():
            fields = json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode()
            for suffix, data in (("json", fields), ("webp", image(images[name]))):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    path.write_bytes(gzip.compress(raw.getvalue(), 9, mtime=0))


def tokenizer(path: Path, captions: dict[str, dict]) -> None:
    """WordPiece with BERT's normalisation: every character, then the most frequent words of the captions and tags.

    The library's trainer is not used, because it breaks ties differently on each run.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [text for sample in captions.values() for text in (sample["caption"], *sample["tags"])]
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    pieces = ["[PAD]", "[UNK]", *letters, *("##" + letter for letter in letters)]
    common = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    pieces += common[: VOCABULARY - len(pieces)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer, model.decoder = normalizer, splitter, decoders.WordPiece()
    model.add_special_tokens(["[PAD]", "[UNK]"])
    path.write_text(json.dumps(json.loads(model.to_str()), ensure_ascii=False, indent=1) + "\n")


def main() -> None:
    modules, out = Path(sys.argv[1]), Path(sys.argv[2])
    styles = sources(modules)
    captions = samples(modules, styles)
    for style, images in styles.items():
        shard(out / f"emoji-{style}.tar.gz", images, captions)
    tokenizer(out / "tokenizer.json", captions)
    print(f"{len(captions)} emoji in {len(styles)} styles")


main()
