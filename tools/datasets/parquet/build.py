"""Writes Parquet files as users have them, by other programs than flipk. Usage: build.py IMAGES OUT

Takes the images that `NAMES` lists from the folder IMAGES (tests/fixtures/images). The folder OUT gets

- hugging-face.parquet: by Hugging Face's datasets, with its types of images and labels;
- img2dataset.parquet: the columns of img2dataset with a row that could not be downloaded, in row groups of three rows,
  and columns of many other types, by pyarrow.
"""

import datetime
import decimal
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ["jpeg-420", "jpeg-422", "jpeg-444", "jpeg-grey", "jpeg-422-progressive", "jpeg-quality-10"]
CAPTION = "a good one"


def hugging_face(images: list[bytes], out: Path) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["grey", "colour"]),
        }
    )
    rows = {
        "image": [{"bytes": image, "path": f"{name}.jpg"} for name, image in zip(NAMES, images)],
        "text": [CAPTION] * len(NAMES),
        "label": [int(name != "jpeg-grey") for name in NAMES],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(out)


def img2dataset(images: list[bytes], out: Path) -> None:
    rows = len(images) + 1
    # The third could not be downloaded.
    jpg = images[:2] + [None] + images[2:]
    table = pa.table(
        {
            "key": [f"{number:09}" for number in range(rows)],
            "jpg": pa.array(jpg, pa.binary()),
            "caption": pa.array([CAPTION] * rows),
            "status": ["success" if image else "failed_to_download" for image in jpg],
            "width": pa.array([100 + number for number in range(rows)], pa.int32()),
            "similarity": pa.array([0.25 + 0.01 * number for number in range(rows)], pa.float32()),
            "pwatermark": pa.array([0.5] * rows, pa.float64()),
            "hash": pa.array([2**63 + number for number in range(rows)], pa.uint64()),
            "ok": [number % 2 == 0 for number in range(rows)],
            "alt": pa.array([["one", "two"], [], None, ["three", None], [None], ["four"], ["five"]]),
            "language": pa.array(["en"] * rows).dictionary_encode(),
            "exif": [{"Make": "it", "deep": {"n": number}} for number in range(rows)],
            "price": pa.array([decimal.Decimal("1.25")] * rows, pa.decimal128(5, 2)),
            "large": pa.array([decimal.Decimal("1.25")] * rows, pa.decimal128(30, 2)),
            "seen": pa.array([datetime.datetime(2024, 1, 2)] * rows, pa.timestamp("ns")),
            "day": pa.array([datetime.date(2024, 1, 2)] * rows),
            "half": pa.array([1.5] * rows, pa.float16()),
            "embedding": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32())),
            "faces": pa.array([[{"x": 1, "name": "a"}]] * rows),
            "pairs": pa.array([[("a", "b")]] * rows, pa.map_(pa.string(), pa.string())),
            "sha256": pa.array([b"\x01\xff"] * rows, pa.binary()),
        }
    )
    pq.write_table(
        table,
        out,
        compression="zstd",
        row_group_size=3,
        write_page_checksum=True,
        data_page_version="2.0",
        use_deprecated_int96_timestamps=True,
        store_decimal_as_integer=True,
    )


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    images = [(folder / f"{name}.jpg").read_bytes() for name in NAMES]
    hugging_face(images, out / "hugging-face.parquet")
    img2dataset(images, out / "img2dataset.parquet")


if __name__ == "__main__":
    main()
