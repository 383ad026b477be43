// Attention at head dim 80.
#include "attention_kernels.cuh"

WHOLE(80, 0, 32, 2, 8)
WHOLE(80, 32, 80, 4, 3)
WHOLE(80, 80, 112, 4, 3)
WHOLE(80, 112, 144, 4, 3)
WHOLE(80, 144, 208, 4, 2)
WHOLE(80, 208, 272, 4, 2)
KERNELS(80, 2, 12, 1, 64)
ROW(80)
