// Attention at head dim 128.
#include "attention_kernels.cuh"

WHOLE(128, 0, 64, 4, 3)    // launcher
WHOLE(128, 64, 128, 4, 2)  // launcher
KERNELS(128, 2, 8, 1, 32)  // launcher
