#!/usr/bin/env python3
"""Makes shards for tuning the small model on the two training styles alone.

    tools/datasets/emoji/hold_out.py FOLDER

Every tenth name's Twemoji drawing is held out. Writes to FOLDER:
  twemoji-train.tar     the other Twemoji drawings, for training together with embedded:noto
  twemoji-held-out.tar  the held-out drawings, whose names embedded:noto teaches
  names.txt             all names: the classes
"""

import argparse
import gzip
import io
import json
import pathlib
import tarfile

SHARD = pathlib.Path(__file__).resolve().parents[3] / "src/data/store/embedded/emoji-twemoji.tar.gz"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    source = tarfile.open(fileobj=io.BytesIO(gzip.decompress(SHARD.read_bytes())))
    keys = sorted({member.name.split(".")[0] for member in source})
    held_out = set(keys[::10])
    names = []
    with tarfile.open(folder / "twemoji-train.tar", "w") as train, \
            tarfile.open(folder / "twemoji-held-out.tar", "w") as held:
        for member in source:
            data = source.extractfile(member).read()
            if member.name.endswith(".json"):
                names.append(json.loads(data)["caption"])
            (held if member.name.split(".")[0] in held_out else train).addfile(member, io.BytesIO(data))
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    print(f"{len(keys) - len(held_out)} drawings to train on, {len(held_out)} held out, {len(names)} names")


if __name__ == "__main__":
    main()
