// Attention, forward: whole rows of scores in registers, or an online softmax over blocks of keys.
#pragma once
#include "attention.cuh"

// Shared memory of an SM of compute capability 9.0, and what the system reserves of it for each block.
constexpr int SM_SHARED = 228 * 1024;  // launcher
constexpr int BLOCK_RESERVE = 1024;    // launcher

// Whether two heads' K and V fit an SM's shared memory for each of BLOCKS blocks (at least three).
template <int HEAD_DIM, int PADDED, int BLOCKS>
constexpr bool FITS_TWICE = (BLOCKS > 3 ? BLOCKS : 3) * (5 * PADDED * 2 * HEAD_DIM + BLOCK_RESERVE) <= SM_SHARED;

// BEYOND < tokens <= PADDED. K and V of a head are in shared memory. Each warp takes 16 queries at a time, with all of
// their S in registers. A persistent block takes one head after another and loads the next one's K and V, and Q as soon
// as a warp has read its queries, during the computation. Otherwise a warp loads its own next queries.
// Grid: batch * heads, or fewer if PERSISTENT; block: 32 WARPS; dynamic shared memory:
// (PERSISTENT ? 5 PADDED : 2 PADDED + 16 WARPS) * HEAD_DIM * 2 bytes.
template <int HEAD_DIM, int BEYOND, int PADDED, int WARPS, int BLOCKS>
__device__ void forward(const bf16* qkv, bf16* out, float* lse, int batch, int tokens, int heads, int causal,
                        float scale) {
    typedef SwizzledTile<HEAD_DIM> Tile;
    typedef HeadOffsetOf<uint32_t> HeadOffset;
    constexpr bool PERSISTENT = FITS_TWICE<HEAD_DIM, PADDED, BLOCKS>;
    // Whether all queries of a head are in shared memory, not only 16 per warp.
    constexpr bool ALL_QUERIES = PERSISTENT && PADDED > 16 * WARPS;
    if (tokens > PADDED || tokens <= BEYOND) __trap();  // The launcher chose the wrong kernel.
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int g = lane / 4;
    int total_heads = batch * heads;
    int first = 16 * warp;
    uint32_t keys = shared_address(shared);
    uint32_t queries = keys + ((PERSISTENT ? 4 : 2) * PADDED + first) * Tile::BYTES;
    uint32_t a_order = Tile::a_order(lane), b_order = Tile::b_order(lane);
    float scale_log2 = scale * LOG2E;
    // 16 queries, which only this warp needs.
    auto load_queries = [&](const HeadOffset& at, int row) {
        uint32_t to = queries + (ALL_QUERIES ? row - first : 0) * Tile::BYTES;
        Tile::load_async(to, qkv + at.qkv + row * 3 * at.pitch, 3 * at.pitch, 16, tokens - row, lane, 32);
    };
    auto load_keys = [&](const HeadOffset& at, uint32_t to) {
        const bf16* from = qkv + at.qkv + at.width;
        Tile::load_async(to, from, 3 * at.pitch, PADDED, tokens, threadIdx.x, 32 * WARPS);
        Tile::load_async(to + PADDED * Tile::BYTES, from + at.width, 3 * at.pitch, PADDED, tokens, threadIdx.x,
                         32 * WARPS);
    };
    HeadOffset at(blockIdx.x, tokens, heads, HEAD_DIM);
    for (int row = first; row < (PERSISTENT ? tokens : min(tokens, first + 1)); row += 16 * WARPS)
        load_queries(at, row);
    load_keys(at, keys);
    cp_async_commit();
    uint32_t k = keys;
#pragma unroll 1
    for (int head = blockIdx.x; head < total_heads; head += gridDim.x) {
        bool more = PERSISTENT && head + gridDim.x < total_heads;
        HeadOffset next(more ? head + gridDim.x : head, tokens, heads, HEAD_DIM);
        cp_async_wait_group<0>();
        __syncthreads();
        // They replace those of the head before, which no thread reads any more.
        if (more) load_keys(next, k == keys ? keys + 2 * PADDED * Tile::BYTES : keys);
        uint32_t v = k + PADDED * Tile::BYTES;
#pragma unroll 1
        for (int row = first; row < tokens; row += 16 * WARPS) {
            if (!PERSISTENT && row > first) {
                cp_async_wait_group<0>();
                __syncwarp();
            }
            float s[PADDED / 8][4] = {};
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                uint32_t q[4];
                ldmatrix_x4<false>(q, Tile::address(queries + a_order, ALL_QUERIES ? row - first : 0, i));
#pragma unroll
                for (int block = 0; block < PADDED / 16; block++) {
                    uint32_t tile[4];
                    ldmatrix_x4<false>(tile, Tile::address(k + b_order, 16 * block, i));
                    mma(s + 2 * block, q, tile);
                }
            }
            __syncwarp();
            if (more) load_queries(next, row);
            if (!PERSISTENT && row + 16 * WARPS < tokens) load_queries(at, row + 16 * WARPS);
            cp_async_commit();
            mask<BEYOND / 8>(s, row + g, 0, tokens, causal);
            float row_sum[2];
            uint32_t p[PADDED / 16][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float row_max = -INFINITY;
                float sum = 0;
#pragma unroll
                for (int tile = 0; tile < PADDED / 8; tile++)
                    row_max = fmaxf(row_max, fmaxf(s[tile][2 * half], s[tile][2 * half + 1]));
                row_max = quad_max(row_max) * scale_log2;
#pragma unroll
                for (int tile = 0; tile < PADDED / 8; tile++) {
                    float low = exp2_approx(s[tile][2 * half] * scale_log2 - row_max);
                    float high = exp2_approx(s[tile][2 * half + 1] * scale_log2 - row_max);
                    sum += low, sum += high;
                    p[tile / 2][tile % 2 * 2 + half] = pack(low, high);
                }
                row_sum[half] = quad_sum(sum);
                int query = row + g + 8 * half;
                if (lane % 4 == 0 && query < tokens) lse[at.lse + query] = (row_max + __log2f(row_sum[half])) * LN2;
            }

            float o[HEAD_DIM / 8][4] = {};
#pragma unroll
            for (int block = 0; block < PADDED / 16; block++) mma_ab<HEAD_DIM>(o, p[block], v + a_order, 16 * block);
            store_rows(out + at.out + row * at.pitch, at.pitch, tokens - row, o, __fdividef(1, row_sum[0]),
                       __fdividef(1, row_sum[1]));
        }
        if (!PERSISTENT) return;
        cp_async_commit();
        at = next;
        k = k == keys ? keys + 2 * PADDED * Tile::BYTES : keys;
    }
}

// Any number of tokens. A block has 64 queries, 16 per warp, and loops over blocks of 64 keys, loading the next one
// meanwhile, with an online softmax. Grid: batch * heads * ceil(tokens / 64); block: 128; dynamic shared memory: 640 *
// HEAD_DIM bytes.
template <int HEAD_DIM>
__device__ void forward_long(const bf16* qkv, bf16* out, float* lse, int, int tokens, int heads, int causal,
                             float scale) {
    typedef SwizzledTile<HEAD_DIM> Tile;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int g = lane / 4;
    int blocks = (tokens + BLOCK - 1) / BLOCK;
    int first = blockIdx.x % blocks * BLOCK;
    int row = first + 16 * warp;
    HeadOffset at(blockIdx.x / blocks, tokens, heads, HEAD_DIM);
    const bf16* from = qkv + at.qkv;
    uint32_t queries = shared_address(shared);
    uint32_t keys = queries + BLOCK * Tile::BYTES;  // two stages of K and V
    auto load_stage = [&](int block) {
        uint32_t to = keys + block % 2 * (2 * BLOCK * Tile::BYTES);
        const bf16* k = from + at.width + (size_t)block * BLOCK * 3 * at.pitch;
        Tile::load_async(to, k, 3 * at.pitch, BLOCK, tokens - block * BLOCK, threadIdx.x, 128);
        Tile::load_async(to + BLOCK * Tile::BYTES, k + at.width, 3 * at.pitch, BLOCK, tokens - block * BLOCK,
                         threadIdx.x, 128);
    };
    Tile::load_async(queries, from + first * 3 * at.pitch, 3 * at.pitch, BLOCK, tokens - first, threadIdx.x, 128);
    load_stage(0);
    cp_async_commit();
    uint32_t a_order = Tile::a_order(lane), b_order = Tile::b_order(lane);
    float scale_log2 = scale * LOG2E;
    uint32_t q[HEAD_DIM / 16][4];
    float o[HEAD_DIM / 8][4] = {};
    float row_max[2] = {-INFINITY, -INFINITY};
    float row_sum[2] = {};
    int end = causal ? first / BLOCK + 1 : blocks;
    for (int block = 0; block < end; block++) {
        if (block + 1 < end) load_stage(block + 1);
        cp_async_commit();
        cp_async_wait_group<1>();
        __syncthreads();
        if (block == 0) {
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; k++)
                ldmatrix_x4<false>(q[k], Tile::address(queries + a_order, 16 * warp, k));
        }
        uint32_t k = keys + block % 2 * (2 * BLOCK * Tile::BYTES);
        uint32_t v = k + BLOCK * Tile::BYTES;
        float s[BLOCK / 8][4];
        mma_abt<HEAD_DIM, BLOCK / 16>(s, q, k + b_order);
        mask<0>(s, row + g, block * BLOCK, tokens, causal);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float new_max = -INFINITY;
            float sum = 0;
#pragma unroll
            for (int tile = 0; tile < BLOCK / 8; tile++)
                new_max = fmaxf(new_max, fmaxf(s[tile][2 * half], s[tile][2 * half + 1]));
            // Finite: every query sees a key of the first block.
            new_max = fmaxf(row_max[half], quad_max(new_max) * scale_log2);
            float rescale = exp2_approx(row_max[half] - new_max);
            row_max[half] = new_max;
#pragma unroll
            for (int tile = 0; tile < BLOCK / 8; tile++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++)
                    sum += s[tile][i] = exp2_approx(s[tile][i] * scale_log2 - new_max);
            }
            row_sum[half] = row_sum[half] * rescale + sum;
#pragma unroll
            for (int tile = 0; tile < HEAD_DIM / 8; tile++)
                o[tile][2 * half] *= rescale, o[tile][2 * half + 1] *= rescale;
        }
#pragma unroll
        for (int part = 0; part < BLOCK / 16; part++) {
            uint32_t p[4];
            acc_to_a_frag(p, s + 2 * part);
            mma_ab<HEAD_DIM>(o, p, v + a_order, 16 * part);
        }
        __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        row_sum[half] = quad_sum(row_sum[half]);
        int query = row + g + 8 * half;
        if (lane % 4 == 0 && query < tokens) lse[at.lse + query] = (row_max[half] + __log2f(row_sum[half])) * LN2;
    }
    // Rows past the last token are not stored.
    store_rows(out + at.out + row * at.pitch, at.pitch, tokens - row, o, __fdividef(1, row_sum[0]),
               __fdividef(1, row_sum[1]));
}
