// What the attention kernels share: where a head lies, tiles of products, the mask, sums over the lanes of a row.
#pragma once
#include "mma.cuh"

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// Where one head of one sample is. 32 bits for a pitch save registers in some kernels and cost some in others.
template <class Pitch> struct PlaceOf {
    size_t packed, single, row;  // first elements in qkv, out and lse
    Pitch pitch;                 // elements from token to token in out; three times that in qkv
    int width;                   // elements from q to k to v

    // `index`: of the head in the batch; 32 bits, since a division of 64 is a hundred instructions.
    __device__ __forceinline__ PlaceOf(unsigned index, int tokens, int heads, int head_dim) {
        size_t sample = index / (unsigned)heads, head = index % (unsigned)heads;
        width = heads * head_dim;
        pitch = width;
        packed = sample * tokens * (3 * pitch) + head * head_dim;
        single = sample * tokens * pitch + head * head_dim;
        row = (size_t)index * tokens;
    }
};
typedef PlaceOf<size_t> Place;

// c[16, 16 BLOCKS] = a b^T: `a` 16 rows in registers, b rows in shared memory.
template <int HEAD_DIM, int BLOCKS>
__device__ __forceinline__ void product_by_columns(float (&c)[2 * BLOCKS][4], const uint32_t (&a)[HEAD_DIM / 16][4], uint32_t b) {
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[2 * block][i] = c[2 * block + 1][i] = 0;
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
            uint32_t tile[4];
            load_tile<false>(tile, Rows<HEAD_DIM>::tile(b, block * 16, k));
            mma(c + 2 * block, a[k], tile);
        }
    }
}

// c[16, HEAD_DIM] += a b, of a [16, 16] and b [16, HEAD_DIM], rows in shared memory.
template <int HEAD_DIM>
__device__ __forceinline__ void product_by_rows(float (&c)[HEAD_DIM / 8][4], const uint32_t (&a)[4], uint32_t b, int row) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t tile[4];
        load_tile<true>(tile, Rows<HEAD_DIM>::tile(b, row, k));
        mma(c + 2 * k, a, tile);
    }
}

// Sets S to -inf where row `row` + 8 i of a lane does not see the key: beyond the last, or later than the query. Keys from
// `first_key` on; those of the first CLEAR tiles exist (are below `tokens`).
template <int CLEAR, int TILES>
__device__ __forceinline__ void mask(float (&s)[TILES][4], int row, int first_key, int tokens, bool causal) {
    int t = threadIdx.x % 4;
    if (causal) {
        int seen[2] = {min(tokens, row + 1) - first_key - 2 * t, min(tokens, row + 9) - first_key - 2 * t};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * tile + i % 2 >= seen[i / 2]) s[tile][i] = -INFINITY;
        }
    } else {
        int seen = tokens - first_key - 2 * t;
#pragma unroll
        for (int tile = CLEAR; tile < TILES; tile++) {
            if (first_key + 8 * tile + 8 > tokens) {
                asm volatile("");  // A branch that all lanes take, and not a choice for each number.
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (8 * tile + i % 2 >= seen) s[tile][i] = -INFINITY;
            }
        }
    }
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Keys, or queries, that the kernels for long rows take at a time.
constexpr int BLOCK = 64;
