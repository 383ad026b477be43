"""Writes a TFRecord file as FLIP's authors used them, by another program than flipk. Usage: build.py IMAGES OUT

Takes the images that `NAMES` lists from the folder IMAGES (tests/fixtures/images). Each record is a tf.train.Example
with the features `jpg`, `txt` and `key` (bytes), and `height` and `width` (integers).
"""

import sys
from pathlib import Path

from PIL import Image
from tfrecord.writer import TFRecordWriter

NAMES = ["jpeg-420", "jpeg-422", "jpeg-444", "jpeg-grey", "jpeg-422-progressive", "jpeg-quality-10"]


def main() -> None:
    images, out = map(Path, sys.argv[1:])
    writer = TFRecordWriter(str(out))
    for number, name in enumerate(NAMES):
        path = images / f"{name}.jpg"
        width, height = Image.open(path).size
        writer.write(
            {
                "jpg": (path.read_bytes(), "byte"),
                "txt": (b"a good one", "byte"),
                "key": (name.encode(), "byte"),
                "height": (height, "int"),
                "width": (width, "int"),
            }
        )
    writer.close()


if __name__ == "__main__":
    main()
