#!/usr/bin/env python3
"""Compares loaders: flipk's, OpenCLIP's own and DALI's pipeline on the CPU, in samples per second of CPU time, on one
decoding thread each and with equal crops (50 to 100 % of the area, to 224 pixels). They run in turns, because a
machine's speed can change within seconds.

    tools/peers/loader/run.py --photos photos.tar [--seconds 10] [--turns 3] [--out FILE]

`photos.tar` is a WebDataset shard of photographs. Three sets are made of it: the photographs as they are, with a short
side of at most 480 pixels and of at most 256 pixels (JPEG quality 90), ten copies of each as shards. Installs
open_clip_torch, webdataset and DALI into a virtual environment (target/peers, or PEERS_ENV). Writes FILE, by default
benches/results/loader.json, with the processor and the date.
"""

import argparse
import datetime
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools/peers"))

from machine import processor

HERE = pathlib.Path(__file__).resolve().parent
SHARDS = 10
PACKAGES = ["open_clip_torch==3.2.0", "webdataset==0.2.86", "pandas==2.3.3", "nvidia-dali-cuda120==2.4.0"]
RATIOS = [0, 0.5, 0.75]


def make_sets(photos, folder):
    """Run by the environment's Python, which has Pillow."""
    from PIL import Image
    with tarfile.open(photos) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive if member.isfile()]
    for name, side in [("photos", None), ("s480q90", 480), ("s256q90", 256)]:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as out:
            for path, data in members:
                if side and path.endswith(".jpg"):
                    image = Image.open(io.BytesIO(data)).convert("RGB")
                    scale = min(1, side / min(image.size))
                    image = image.resize([round(length * scale) for length in image.size], Image.BICUBIC)
                    encoded = io.BytesIO()
                    image.save(encoded, "JPEG", quality=90)
                    data = encoded.getvalue()
                info = tarfile.TarInfo(path)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(SHARDS):
            (folder / name / f"{number:03}.tar").write_bytes(packed.getvalue())


def last_line(command):
    ran = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(ran.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=pathlib.Path, required=True, help="a WebDataset shard of photographs")
    parser.add_argument("--seconds", type=float, default=10, help="time per measurement")
    parser.add_argument("--turns", type=int, default=3, help="how many times each loader runs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results/loader.json")
    parser.add_argument("--make-sets", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_sets:
        return make_sets(arguments.photos, arguments.make_sets)
    subprocess.run(["cargo", "build", "--release", "--bin", "flipk", "--example", "load"], check=True, cwd=ROOT)
    environment = pathlib.Path(os.environ.get("PEERS_ENV", ROOT / "target/peers"))
    python = environment / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
    sets = ROOT / "target/loader-sets"
    subprocess.run([python, __file__, "--photos", arguments.photos, "--make-sets", sets], check=True)
    load = ROOT / "target/release/examples/load"
    braces = f"{{000..{SHARDS - 1:03}}}.tar"

    def flipk(shards, ratio):
        return lambda: last_line([load, shards, ratio, 1, arguments.seconds])

    packs = {"pack": [], "pack raw": ["--raw"]}
    for name, options in packs.items():
        command = [ROOT / "target/release/flipk", "data", "pack", sets / "photos", "--size", "256",
                   "--out", sets / name, *options]
        if not (sets / name).exists():
            subprocess.run(command, check=True, capture_output=True)
    rows = []
    for name in ["photos", "s480q90", "s256q90"]:
        folder = sets / name
        programs = {f"flipk {ratio}": flipk(folder / braces, ratio) for ratio in RATIOS}
        if name == "photos":
            programs |= {f"flipk {ratio}, {pack}": flipk(sets / pack, ratio) for pack in packs for ratio in RATIOS}
        programs["OpenCLIP"] = lambda: last_line([python, HERE / "openclip.py", folder / braces, arguments.seconds])
        programs["DALI"] = lambda: last_line([python, HERE / "dali.py", arguments.seconds, *folder.glob("*.tar")])
        turns = {program: [] for program in programs}
        for turn in range(arguments.turns):
            for program in sorted(programs, reverse=turn % 2 == 1):
                turns[program].append(programs[program]()["samples_per_cpu_second"])
        median = {program: statistics.median(rates) for program, rates in turns.items()}
        rows.append({"set": name, "samples_per_cpu_second": turns, "median": median})
        print(f"\n| {name} | samples per CPU second | of OpenCLIP's |\n|---|---|---|")
        for program, rate in median.items():
            print(f"| {program} | {rate:.0f} | {rate / median['OpenCLIP']:.2f} |", flush=True)
    result = {"date": datetime.date.today().isoformat(), "processor": processor(), "rows": rows}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
