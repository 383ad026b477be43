#!/usr/bin/env python3
"""Compares flipk's token ids with those of OpenCLIP's tokenizer, on captions that are hard to clean: emoji, combining
marks, HTML, other scripts, mojibake, curly quotes, control characters, long texts, and texts without any word. Then
compares those of the tokenizer.json that flipk writes, as the Python package `tokenizers` reads it, on
cleaned captions.

    tools/peers/clip_tokens.py [--captions 2000] [--fixture FILE] [--python PYTHON]

Installs open_clip_torch and tokenizers into a virtual environment under target/, unless --python names one that has
them. --fixture writes some of the captions with OpenCLIP's ids. Exits with 1 if any caption differs.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "target" / "clip-tokens"
CONTEXT = 77

PHRASES = [
    "A Photo of a Dog", "Café au lait", "NAÏVE Résumé", "the Eiffel Tower in Paris", "东京塔",
    "東京タワー", "한국어 간판",
    "Ångström's Straße", "Cafe\u0301 (decomposed)", "señor Núñez", "Россия: Красная площадь",
    "αθήνα ΟΔΥΣΣΕΥΣ ΣΑΣ",
    "مدينة القاهرة", "हिन्दी किताब", "Zażółć gęślą jaźń", "İstanbul ISPARTA", "ﬁne oﬃce ﬀ",
    "ｆｕｌｌ　ｗｉｄｔｈ ﾊﾝｶｸ", "x² + y² ∈ ℝ",
    "Ⅳ. Akt ⅷ", "don't we'll I'M they'VE it's ’tis", "U.S.A.", "New\u00a0York",
    "zero\u200bwidth", "soft\u00adhyphen",
    "tab\there", "$5.99 £3 €4,50", "https://example.com/a?b=c&d=e", "q" * 120, "漢字とかな交じり文",
    "𠮷野家", "ภาษาไทย",
    "Đà Nẵng", "ǆ Ǆ ŉ ĳ", "mixed中文English123abc", "A\u030A o\u0308\u0323", "𝓯𝓪𝓷𝓬𝔂 𝕿𝖊𝖝𝖙",
    "١٢٣ ४५६", "½ ¼ ³",
    "🐶 👩‍👩‍👧 🇫🇷 ❤️", "🤖!", "1️⃣ #️⃣", "“quoted” ‘single’ „low‟", "–—…•", "™®©",
    "\u202eright to left\u202c",
    "Z̷̡̛͔a̶l̴g̶o̸",
    "line\nbreak\r\nmore\u2028and\u2029end", "(╯°□°)╯︵ ┻━┻", "¯\\_(ツ)_/¯", "C:\\path\\file",
    "a_b-c/d|e~f", "ſ'ſ K Å",
    "<|endoftext|>", "<start of text>", "{braces} [brackets]", "100% of 5'10\"",
    "''quotes'' 's't're", "!!!???...",
]
HTML = [
    "&amp;", "&lt;b&gt;", "&amp;lt;", "&amp;amp;quot;", "&quot;x&quot;", "&#39;", "&#x2019;",
    "&#8217;s",
    "&nbsp;", "&eacute",
    "&EACUTE;", "&NTILDE;o", "&notit;", "&copy2024", "&#0;", "&#128;", "&#150;", "&#xD800;",
    "&#1114112;",
    "&#1;", "&#xFFFE;",
    "&unknown;", "& co", "&;", "&#;", "&hellip;", "<b>bold</b>", "<br/>", "a < b &amp; c",
    "&Sigma;&sigma;",
    "&#x1F436;",
    "&CounterClockwiseContourIntegral;", "&ThickSpace;|", "&szlig;", "&SZLIG;", "&frac12",
    "&amp;#233;",
    "&e&acute;", "&NBSP;",
]
CONTROL = ["\x00", "\x07", "\x0b", "\x1b[31mred\x1b[0m", "\x1b", "\x1c", "\x7f", "\x80", "\x85",
           "\x91quoted\x92", "\ufeff",
           "\ufffd", "\ufffe", "\u206a", "\ufffc", "\ue000", "\U000e0041", "\x1a", "\x0c", "\u0378"]
WORDS = ["house", "Schön", "été", "naïve", "voilà", "à la carte", "l’humanité", "“hello”",
         "it’s", "–", "£5", "€", "Łódź",
         "привет", "мир", "γειά", "日本", "中文", "한글", "😀", "👍🏽", "°C", "½", "ñ", "Ünïcödé", "š",
         "ž", "Å", "œuvre", "ﬂ",
         "é\u0301", "«oui»", "…", "·", "½", "†", "ß", "العربية", "हिन्दी", "ไทย", "ệ", "Ð", "þ",
         "×", "÷", "à", "\u00a0"]
ENCODINGS = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257",
             "iso-8859-2", "mac-roman", "cp437"]


def mojibake(chance):
    """Words whose UTF-8 was read in another encoding, some of them twice, or with bytes lost."""
    text = " ".join(chance.sample(WORDS, chance.randint(1, 4)))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        encoding = chance.choice(ENCODINGS)
        import ftfy  # noqa: F401 (registers the sloppy encodings)
        sloppy = f"sloppy-{encoding.replace('cp', 'windows-')}" if encoding.startswith("cp12") else encoding
        text = text.encode("utf-8", "surrogatepass").decode(sloppy, "replace")
    change = chance.random()
    if change < 0.15:
        text = text.replace("\u00a0", " ")
    elif change < 0.25 and text:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(["?", "\ufffd", "\x1a", ""]) + text[at + 1:]
    return text


def captions(count):
    chance = random.Random(0)
    made = ["", " ", "\t\n \u3000", "\x00", "&nbsp;", "a " * 5000, "é" * 10_000, "Ã©" * 5000,
            "&amp;" * 2000, "🐶" * 2500,
            "x" * 10_000, "&" + "amp;" * 50, "word\n" * 2000, "â€™" * 1000 + " end"]
    made += PHRASES + HTML + CONTROL + WORDS
    while len(made) < count:
        parts = [chance.choice(PHRASES)] if chance.random() < 0.5 else []
        parts += chance.sample(HTML, chance.choice([0, 0, 1, 2])) + chance.sample(CONTROL, chance.choice([0, 0, 0, 1]))
        parts += [mojibake(chance) for _ in range(chance.choice([0, 1, 1, 2]))] or [chance.choice(WORDS)]
        if chance.random() < 0.2:
            letters = [chr(chance.choice([chance.randrange(0x20, 0x250), chance.randrange(0x20, 0xD7FF),
                                          chance.randrange(0xE000, 0x1FFFF)])) for _ in range(8)]
            # Letters that Python's Unicode does not have yet are lower-cased by flipk alone.
            parts += ["".join(letter for letter in letters if unicodedata.category(letter) != "Cn")]
        chance.shuffle(parts)
        change = chance.choice([str, str, str.upper, str.title])
        made.append(change(chance.choice(["", " ", " ", "\n"]).join(parts)))
    return made[:count]


def reference(count):
    """The captions, OpenCLIP's rows, and the captions as it cleans them; runs where OpenCLIP is."""
    import regex
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()

    def is_new(letter):
        """Whether one part of OpenCLIP knows a letter and another does not, since their versions of Unicode differ."""
        return unicodedata.category(letter) == "Cn" and regex.match(r"[\p{L}\p{N}]", letter)

    made = [(text, tokenizer.clean_fn(text)) for text in captions(count + count // 50)]
    kept = [pair for pair in made if not any(map(is_new, pair[1]))][:count]
    texts, clean = map(list, zip(*kept))
    return {"texts": texts, "rows": tokenizer(texts, CONTEXT).tolist(), "clean": clean}


def plain(file):
    """The ids that `tokenizers` gives to the cleaned captions with flipk's file."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch(json.load(sys.stdin))]


def differ(name, texts, ours, theirs):
    others = [number for number in range(len(texts)) if ours[number] != theirs[number]]
    print(f"{name}: {len(texts) - len(others)} of {len(texts)} captions have the same token ids")
    for number in others[:20]:
        print(f"  {texts[number][:200]!r}\n    flipk {ours[number]}\n    other {theirs[number]}")
    return len(others)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--fixture", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        json.dump(reference(args.captions) if args.inside == "reference" else plain(args.inside), sys.stdout)
        return
    PLACE.mkdir(parents=True, exist_ok=True)
    python = args.python or PLACE / "env" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE / "env"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "open_clip_torch", "tokenizers"], check=True)

    def inside(what, given=""):
        command = [python, __file__, "--inside", what, "--captions", str(args.captions)]
        return json.loads(subprocess.run(command, input=given, check=True, text=True, stdout=subprocess.PIPE).stdout)

    found = inside("reference")
    texts, rows, clean = found["texts"], found["rows"], found["clean"]
    if args.fixture:
        chosen = [[text, row[:max(n for n, token in enumerate(row) if token) + 1]]
                  for text, row in zip(texts, rows) if len(text) < 200][:: max(1, len(texts) // 150)]
        lines = ",\n".join(json.dumps(pair, separators=(",", ":")) for pair in chosen)
        args.fixture.write_text(f"[\n{lines}\n]\n")
    file = PLACE / "tokenizer.json"
    command = ["cargo", "run", "--quiet", "--release", "--example", "tokens", "--", "clip", "--json", "--save", file]
    ours = json.loads(subprocess.run(command, input=json.dumps(texts), check=True, text=True, stdout=subprocess.PIPE,
                                     cwd=ROOT).stdout)
    count = differ("OpenCLIP", texts, ours, rows)

    def cut(ids):
        return (ids if len(ids) <= CONTEXT else [*ids[:CONTEXT - 1], ids[-1]]) + [0] * (CONTEXT - len(ids))

    # Hugging Face's rules compose letters, which lower-casing may have taken apart.
    composed = [number for number, text in enumerate(clean) if unicodedata.is_normalized("NFC", text)]
    theirs = inside(str(file), json.dumps([clean[number] for number in composed]))
    count += differ("tokenizers, of cleaned captions in NFC", [texts[number] for number in composed],
                    [ours[number] for number in composed], [cut(ids) for ids in theirs])
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
