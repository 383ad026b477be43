"""Times OpenCLIP's own loader (webdataset, Pillow, torchvision and its tokenizer) in one process, for run.py. Crops are
FLIP's: 50 to 100 % of the area. Prints samples per second and per second of CPU time as JSON."""

import json
import logging
import sys
import time
import types

import open_clip
import torch
from open_clip.transform import AugmentationCfg, image_transform_v2, PreprocessCfg
from open_clip_train.data import get_wds_dataset


def main():
    shards, seconds = sys.argv[1], float(sys.argv[2])
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    preprocess = image_transform_v2(PreprocessCfg(size=224), is_train=True, aug_cfg=AugmentationCfg(scale=(0.5, 1.0)))
    args = types.SimpleNamespace(train_data=shards, train_num_samples=10_000_000, train_data_upsampling_factors=None,
                                 dataset_resampled=True, seed=0, batch_size=64, workers=0, world_size=1)
    data = get_wds_dataset(args, preprocess, is_train=True, tokenizer=open_clip.get_tokenizer("ViT-B-16"))
    batches = iter(data.dataloader)
    for _ in range(3):
        next(batches)
    cpu, start, samples = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images, _ = next(batches)
        samples += len(images)
    print(json.dumps({"samples_per_second": samples / (time.perf_counter() - start),
                      "samples_per_cpu_second": samples / (time.process_time() - cpu)}))


main()
