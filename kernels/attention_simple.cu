// Attention in f32, and at head dims without kernels of their own.
#include "attention_kernels.cuh"

SIMPLE(float, f32)
SIMPLE(bf16, bf16)
