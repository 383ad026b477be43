#!/usr/bin/env python3
"""Measures the resident memory of a long run on data of which one sample in a hundred is broken, in both orders, and
checks that every broken sample is counted once per epoch.

    tools/memory.py [--epochs 200] [--samples 2000]

Makes ten shards of small images; each hundredth sample is broken in one of four ways. Trains a tiny model with
target/release/flipk and reads the process's resident size twice a second. Writes benches/results/memory.json and
docs/memory.svg.
"""

import argparse
import datetime
import io
import json
import pathlib
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/peers"))

from machine import processor

SHARDS = 10
SIDE = 32
EVERY = 0.5
WORDS = [f"word{number}" for number in range(50)]
MODEL = ["--image-size=16", "--patch-size=4", "--vision-layers=1", "--vision-width=32", "--vision-heads=2",
         "--text-layers=1", "--text-width=32", "--text-heads=2", "--embed-dim=16", "--batch=40", "--lr=1e-3"]


def png(rng):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + rng.randbytes(3 * SIDE) for _ in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def sample(number, rng):
    """The members of a sample: (extension, bytes)."""
    image, text = png(rng), " ".join(rng.sample(WORDS, 5)).encode()
    if number % 100 == 99:
        image, text = [(image[:200], text), (b"no image", text), (image, b"\xff\xfd"), (image, b"")][number // 100 % 4]
    return [("png", image), ("txt", text)]


def make_shards(folder, samples):
    rng = random.Random(1)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for number in range(samples * shard // SHARDS, samples * (shard + 1) // SHARDS):
                for extension, data in sample(number, rng):
                    member = tarfile.TarInfo(f"{number:06}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", *WORDS]) + "\n")


def resident_mib(process):
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")), None)


def measure(data, run, order, epochs, good):
    """Resident MiB by epoch, and the samples skipped by kind."""
    # The length of a run is that of the samples it uses.
    command = [ROOT / "target/release/flipk", "train", f"--out={run}", f"--data={data}", f"--order={order}",
               f"--tokenizer={data}/vocab.txt", f"--samples={epochs * good}", "--device=cpu", "--save-every=2000",
               "--log-every=10", "--log-format=json", *MODEL]
    with open(run.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        readings, begun = [], time.monotonic()
        while process.poll() is None:
            if (size := resident_mib(process)) is not None:
                readings.append((time.monotonic() - begun, size))
            time.sleep(EVERY)
    if process.returncode:
        sys.exit(f"{run.with_suffix('.log').read_text()}\nflipk failed")
    # Epochs pass evenly.
    seconds = readings[-1][0]
    return [[epochs * at / seconds, size] for at, size in readings], json.loads((run / "summary.json").read_text())


def svg(orders, epochs):
    width, height, left, bottom, top = 640, 300, 60, 40, 20
    most = 1.25 * max(size for order in orders.values() for _, size in order["mib"])
    x = lambda epoch: left + epoch / epochs * (width - left - 20)
    y = lambda size: height - bottom - size / most * (height - bottom - top)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>']
    step = 10 if most < 100 else 50
    for size in range(0, int(most) + 1, step):
        parts.append(f'<path d="M{left} {y(size):.1f}H{width - 20}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{y(size) + 4:.1f}" text-anchor="end">{size} MiB</text>')
    for epoch in range(0, epochs + 1, max(epochs // 4, 1)):
        parts.append(f'<text x="{x(epoch):.1f}" y="{height - 20}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">epoch</text>')
    for number, ((name, order), colour) in enumerate(zip(orders.items(), ["#1f77b4", "#d62728"])):
        points = " ".join(f"{x(epoch):.1f},{y(size):.1f}" for epoch, size in order["mib"])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
                     f'<text x="{width - 24}" y="{top + 14 + 16 * number}" fill="{colour}" text-anchor="end">'
                     f'--order {name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=2000)
    args = parser.parse_args()
    if args.samples % 400:
        sys.exit("--samples must be a multiple of 400, so that each kind is broken equally often")
    kinds = {"bad_image": 2, "empty_caption": 1, "non_utf8_caption": 1}
    each = {kind: args.samples // 400 * count for kind, count in kinds.items()}
    orders = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = folder / "shards"
        data.mkdir()
        make_shards(data, args.samples)
        for order in ["global", "shards"]:
            mib, summary = measure(data, folder / order, order, args.epochs, args.samples - sum(each.values()))
            half = [size for epoch, size in mib if epoch > args.epochs / 2]
            growth = half[-1] - half[0]
            orders[order] = {"mib": [[round(epoch, 2), round(size, 1)] for epoch, size in mib],
                             "samples": summary["samples"], "skipped": summary["skipped"]}
            most = max(size for _, size in mib)
            print(f"--order {order}: {most:.0f} MiB at most, {growth:+.1f} MiB in the second half; "
                  f"{summary['samples']} samples, skipped {summary['skipped']}")
            # Those that come after the last good sample of the last epoch are not reached.
            if any(not (args.epochs - 1) * count <= summary["skipped"].get(kind, 0) <= args.epochs * count
                   for kind, count in each.items()):
                sys.exit(f"in each epoch, {each} should have been skipped")
    result = {"date": datetime.date.today().isoformat(), "processor": processor(), "epochs": args.epochs,
              "samples": args.samples, "orders": orders}
    (ROOT / "benches/results/memory.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "docs/memory.svg").write_text(svg(orders, args.epochs))


if __name__ == "__main__":
    main()
