#!/usr/bin/env python3
"""Makes shards for tuning the small model on the two training styles alone.

    tools/datasets/emoji/hold_out.py FOLDER

Of every five names, one's Noto drawing and another's Twemoji drawing are held out. Writes to FOLDER:
  noto-train.tar, twemoji-train.tar  the other drawings, for training
  held-out.tar                       the held-out drawings, whose names the other style teaches
  names.txt                          all names: the classes

Train with --tokenizer src/data/store/embedded/tokenizer.json --special-tokens no, as with the embedded data.
"""

import argparse
import io
import json
import pathlib
import sys
import tarfile

EMBEDDED = pathlib.Path(__file__).resolve().parents[3] / "src/data/store/embedded"
# Which of every five names is held out.
HELD_OUT = {"noto": 1, "twemoji": 3}


def samples(style):
    """The members of each sample, and its caption."""
    found = {}
    with tarfile.open(EMBEDDED / f"emoji-{style}.tar.gz") as tar:
        for member in tar:
            key, extension = member.name.split(".", 1)
            found.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return [(key, members, json.loads(members["json"])["caption"]) for key, members in found.items()]


def add(tar, key, members):
    for extension, data in members.items():
        entry = tarfile.TarInfo(f"{key}.{extension}")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    styles = {style: samples(style) for style in HELD_OUT}
    names = sorted({caption for found in styles.values() for _, _, caption in found})
    count = 0
    with tarfile.open(folder / "held-out.tar", "w") as held_out:
        for style, found in styles.items():
            held_names = set(names[HELD_OUT[style]::5])
            with tarfile.open(folder / f"{style}-train.tar", "w") as train:
                for key, members, caption in found:
                    held = caption in held_names
                    count += held
                    add(held_out if held else train, f"{style}-{key}", members)
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    total = sum(len(found) for found in styles.values())
    print(f"{total - count} drawings to train on, {count} held out, {len(names)} names")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path)
    folder = parser.parse_args().folder
    try:
        write(folder)
    except OSError as error:
        sys.exit(f"error: {error.filename or folder}: {error.strerror or error}")


if __name__ == "__main__":
    main()
