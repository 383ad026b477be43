// Attention at head dim 96.
#include "attention_kernels.cuh"

WHOLE(96, 0, 64, 4, 3)    // launcher
WHOLE(96, 64, 128, 4, 2)  // launcher
KERNELS(96, 2, 8, 1, 64)  // launcher
