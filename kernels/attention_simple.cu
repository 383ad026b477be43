// Attention in f32, and at head dims for which there are no kernels of their own.
#include "attention_kernels.cuh"

SIMPLE(float, f32)
SIMPLE(bf16, bf16)
