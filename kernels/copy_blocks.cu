// Blocks of the parameter arena, gathered into a dense buffer and scattered back (src/ops/copy_blocks).
#include "common.cuh"

// Floats of a block.
constexpr int COPY_BLOCK = 64;  // launcher

// dense[i] = arena[blocks[i]], or the other way round, for `count` blocks; negative numbers are skipped. A thread
// copies 16 bytes. Grid: any; block: 256. Bytes moved per block: 512, and 4 for its number.
template <bool PACK> __device__ void copy_blocks(float4* arena, const int* blocks, float4* dense, int count) {
    constexpr int EACH = COPY_BLOCK / 4;
    for (size_t at = thread_index(); at < size_t(count) * EACH; at += thread_count()) {
        int block = blocks[at / EACH];
        if (block < 0) continue;
        float4* in_arena = arena + size_t(block) * EACH + at % EACH;
        if (PACK) dense[at] = *in_arena;
        else *in_arena = dense[at];
    }
}

extern "C" __global__ void __launch_bounds__(256)
    pack_blocks(float4* arena, const int* blocks, float4* dense, int count) {
    copy_blocks<true>(arena, blocks, dense, count);
}

extern "C" __global__ void __launch_bounds__(256)
    unpack_blocks(float4* arena, const int* blocks, float4* dense, int count) {
    copy_blocks<false>(arena, blocks, dense, count);
}
