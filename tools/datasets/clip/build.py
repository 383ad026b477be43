"""Writes CLIP's merges and ftfy's tables, which are embedded in flipk. Usage: build.py OUT

Reads them from the installed packages open_clip_torch and ftfy. The same packages give the same bytes.
"""

import gzip
import importlib.util
import json
import re
import sys
from pathlib import Path
from re import _constants as op
from re import _parser

from ftfy import badness, chardata

# 49,408 entries: 256 bytes, the same at the end of a word, the merges, and a start and an end token.
MERGES = 49_408 - 2 * 256 - 2


def merges() -> bytes:
    folder = Path(importlib.util.find_spec("open_clip").origin).parent
    lines = gzip.decompress((folder / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    return gzip.compress("".join(f"{line}\n" for line in lines[1 : 1 + MERGES]).encode(), 9, mtime=0)


def letter(code: int) -> str:
    """A letter or byte, escaped: in a pattern of bytes, only \\xFF is a byte."""
    if code < 128 and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 256 else f"\\x{{{code:X}}}"


def members(items) -> str:
    """What stands between the brackets of a class."""
    # Rust's \w and \s are other sets.
    categories = {op.CATEGORY_SPACE: r"\s\x1C-\x1F", op.CATEGORY_WORD: r"\p{L}\p{N}_"}
    text = ""
    for kind, value in items:
        if kind is op.LITERAL:
            text += letter(value)
        elif kind is op.RANGE:
            text += f"{letter(value[0])}-{letter(value[1])}"
        elif kind is op.CATEGORY:
            text += categories[value]
        else:
            assert kind is op.NEGATE, kind
            text += "^"
    return text


def rust(parsed) -> str:
    """A pattern of Python in the notation of Rust's crate `regex`."""
    text = ""
    for kind, value in parsed:
        if kind is op.LITERAL:
            text += letter(value)
        elif kind is op.NOT_LITERAL:
            text += f"[^{letter(value)}]"
        elif kind is op.ANY:
            text += "."
        elif kind is op.IN:
            text += f"[{members(value)}]"
        elif kind is op.BRANCH:
            text += "(?:" + "|".join(rust(branch) for branch in value[1]) + ")"
        elif kind is op.SUBPATTERN:
            text += f"(?:{rust(value[-1])})"
        elif kind is op.MAX_REPEAT:
            least, most, inner = value
            assert (least, most) == (0, 1), value
            text += f"(?:{rust(inner)})?"
        else:
            assert (kind, value) == (op.AT, op.AT_BEGINNING), (kind, value)
            text += "^"
    return text


def pattern(compiled: re.Pattern) -> str:
    prefix = "(?-u)" if isinstance(compiled.pattern, bytes) else ""
    return prefix + rust(_parser.parse(compiled.pattern, compiled.flags))


def expanded(name: str) -> str:
    """The characters of a class in ftfy's notation."""
    [(_, items)] = _parser.parse(f"[{chardata.UTF8_CLUES[name]}]")
    codes = set()
    for kind, value in items:
        codes |= {value} if kind is op.LITERAL else set(range(value[0], value[1] + 1))
    return "".join(map(chr, sorted(codes)))


def decoded(encoding: str) -> str:
    """What the bytes 0x80 to 0xFF and 0x1A are."""
    return bytes([*range(0x80, 0x100), 0x1A]).decode(encoding)


def tables() -> str:
    found = {
        "bad": pattern(badness.BADNESS_RE),
        "altered": pattern(chardata.ALTERED_UTF8_RE),
        "lossy": pattern(chardata.LOSSY_UTF8_RE),
        "ligatures": {chr(code): text for code, text in chardata.LIGATURES.items()},
        "encodings": [[name, decoded(name)] for name in chardata.CHARMAP_ENCODINGS],
        "first_of_2": expanded("utf8_first_of_2"),
        "first_of_3": expanded("utf8_first_of_3"),
        "first_of_4": expanded("utf8_first_of_4"),
        "continuation": expanded("utf8_continuation"),
        "continuation_strict": expanded("utf8_continuation_strict"),
    }
    return json.dumps(found, ensure_ascii=True, indent=1) + "\n"


def main() -> None:
    out = Path(sys.argv[1])
    (out / "clip-merges.txt.gz").write_bytes(merges())
    (out / "ftfy.json").write_text(tables())


main()
