// Attention at head dim 80.
#include "attention_kernels.cuh"

WHOLE(80, 0, 32, 2, 8)     // launcher
WHOLE(80, 32, 80, 4, 3)    // launcher
WHOLE(80, 80, 112, 4, 3)   // launcher
WHOLE(80, 112, 144, 4, 3)  // launcher
WHOLE(80, 144, 208, 4, 2)  // launcher
WHOLE(80, 208, 272, 4, 2)  // launcher
KERNELS(80, 2, 12, 1, 64)  // launcher
ROW(80)
