#!/usr/bin/env python3
"""Prints a Markdown table of every kernel of a training step: its resources, and what the emulator counted.

    tools/kernel_table.py step.json        # from: flipk profile ... --device emulator --json step.json

Registers are those of kernels/budget.txt. Blocks per SM follow from Hopper's limits (CUDA C++ Programming Guide,
compute capability 9.0): 64 Ki registers, 228 KB of shared memory, 64 warps and 32 blocks. Each block takes 1 KB of
shared memory more than it asks for.
"""

import argparse
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks_per_sm(registers, threads, shared):
    warps = -(-threads // 32)
    # A warp's registers are allocated in units of 256 from one of an SM's four register files.
    by_registers = 4 * (16384 // (256 * -(-registers * 32 // 256))) // warps
    by_shared = 228 * 1024 // (shared + 1024)
    return min(32, 64 // warps, by_registers, by_shared)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=pathlib.Path)
    file = parser.parse_args().profile
    try:
        kernels = json.loads(file.read_text())["kernels"]
    except OSError as error:
        parser.error(f"cannot read {file}: {error.strerror}")
    except (ValueError, LookupError, TypeError):
        parser.error(f"{file} is no profile with kernels: flipk profile --device emulator --json writes one")
    lines = (ROOT / "kernels/budget.txt").read_text().splitlines()
    registers = {line.split()[0]: int(line.split()[1]) for line in lines if not line.startswith("#")}
    print("| kernel | calls | registers | threads | shared, KB | blocks per SM | instructions, k | MFLOP | MB moved "
          "| passes, k (least) | estimate, us | slowest |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for row in kernels:
        name, threads, shared = row["kernel"], row["threads"], row["shared_bytes"]
        passes = f"{row['shared_passes'] / 1e3:.0f} ({row['shared_passes_least'] / 1e3:.0f})"
        print(f"| {name} | {row['launches']} | {registers[name]} | {threads} | {shared / 1024:.0f} "
              f"| {blocks_per_sm(registers[name], threads, shared)} | {row['warp_instructions'] / 1e3:.1f} "
              f"| {row['mma_flops'] / 1e6:.0f} | {row['moved_bytes'] / 1e6:.2f} | {passes} "
              f"| {1e6 * row['seconds']:.0f} | {row['slowest']} |")


if __name__ == "__main__":
    main()
