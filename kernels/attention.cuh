// Shared by the attention kernels: offsets of a head, products of tiles, the mask, reductions over the lanes of a row.
#pragma once
#include "mma.cuh"

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// Where one head of one sample starts. A pitch of 32 bits saves registers in some kernels and costs some in others.
template <class Pitch> struct HeadOffsetOf {
    size_t qkv, out, lse;  // offsets of the first element in each tensor
    Pitch pitch;           // elements from token to token in out; three times that in qkv
    int width;             // elements from q to k, and from k to v

    // `index`: of the head in the batch; 32 bits, since a 64-bit division takes a hundred instructions.
    __device__ __forceinline__ HeadOffsetOf(unsigned index, int tokens, int heads, int head_dim) {
        size_t sample = index / (unsigned)heads;
        size_t head = index % (unsigned)heads;
        width = heads * head_dim;
        pitch = width;
        qkv = sample * tokens * (3 * pitch) + head * head_dim;
        out = sample * tokens * pitch + head * head_dim;
        lse = (size_t)index * tokens;
    }
};
typedef HeadOffsetOf<size_t> HeadOffset;

// c[16, 16 BLOCKS] = a b^T: 16 rows of `a` in registers, the rows of `b` in shared memory.
template <int HEAD_DIM, int BLOCKS>
__device__ __forceinline__ void mma_abt(float (&c)[2 * BLOCKS][4], const uint32_t (&a)[HEAD_DIM / 16][4], uint32_t b) {
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[2 * block][i] = c[2 * block + 1][i] = 0;
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
            uint32_t tile[4];
            ldmatrix_x4<false>(tile, SwizzledTile<HEAD_DIM>::address(b, block * 16, k));
            mma(c + 2 * block, a[k], tile);
        }
    }
}

// c[16, HEAD_DIM] += a b: `a` is [16, 16], `b` the 16 rows at `row` in shared memory.
template <int HEAD_DIM>
__device__ __forceinline__ void mma_ab(float (&c)[HEAD_DIM / 8][4], const uint32_t (&a)[4], uint32_t b, int row) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t tile[4];
        ldmatrix_x4<true>(tile, SwizzledTile<HEAD_DIM>::address(b, row, k));
        mma(c + 2 * k, a, tile);
    }
}

// Sets S to -inf where a lane's query (`row` or `row` + 8) does not see the key: past the last token or, if causal,
// later than the query. Column 0 is key `first_key`. All keys of the first CLEAR tiles exist.
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
                asm volatile("");  // Makes this a branch, the same for all lanes, not a select per number.
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

// Keys that the forward kernel for long rows processes at a time.
constexpr int BLOCK = 64;
