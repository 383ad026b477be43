"""Times DALI's pipeline on the CPU, with one thread, for run.py: webdataset reader, fused decoding of FLIP's crops (50
to 100 % of the area), antialiased cubic resize, normalisation. Captions are read but not tokenised. Prints samples per
second and per second of CPU time as JSON."""

import json
import sys
import time

from nvidia.dali import fn, pipeline_def, types


@pipeline_def(batch_size=64, num_threads=1, device_id=None, seed=0)
def pipeline(shards):
    images, captions = fn.readers.webdataset(paths=shards, ext=["jpg", "txt"], random_shuffle=True, initial_fill=256)
    images = fn.decoders.image_random_crop(images, random_area=[0.5, 1.0], random_aspect_ratio=[3 / 4, 4 / 3],
                                           output_type=types.RGB)
    images = fn.resize(images, size=[224, 224], interp_type=types.INTERP_CUBIC, antialias=True)
    images = fn.crop_mirror_normalize(images, mirror=fn.random.coin_flip(), dtype=types.FLOAT, output_layout="CHW",
                                      mean=[122.77, 116.75, 104.09], std=[68.5, 66.63, 70.32])
    return images, captions


def main():
    seconds, shards = float(sys.argv[1]), sys.argv[2:]
    pipe = pipeline(shards)
    pipe.build()
    for _ in range(3):
        pipe.run()
    cpu, start, samples = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        samples += len(pipe.run()[0])
    print(json.dumps({"samples_per_second": samples / (time.perf_counter() - start),
                      "samples_per_cpu_second": samples / (time.process_time() - cpu)}))


main()
