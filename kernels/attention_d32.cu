// Attention at head dim 32.
#include "attention_kernels.cuh"

WHOLE(32, 0, 64, 4, 4)     // launcher
WHOLE(32, 64, 128, 4, 3)   // launcher
KERNELS(32, 4, 12, 2, 64)  // launcher
