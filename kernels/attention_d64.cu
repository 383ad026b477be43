// Attention at head dim 64.
#include "attention_kernels.cuh"

WHOLE(64, 0, 32, 2, 8)     // launcher
WHOLE(64, 32, 64, 4, 4)    // launcher
WHOLE(64, 64, 80, 4, 4)    // launcher
WHOLE(64, 80, 112, 4, 4)   // launcher
WHOLE(64, 112, 144, 4, 3)  // launcher
WHOLE(64, 144, 208, 4, 3)  // launcher
WHOLE(64, 208, 272, 4, 2)  // launcher
KERNELS(64, 3, 12, 2, 64)  // launcher
ROW(64)
