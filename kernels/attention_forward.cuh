// Attention forwards: whole rows of scores in registers, or the softmax kept up to date over blocks of keys.
#pragma once
#include "attention.cuh"

// Shared memory of an SM of compute capability 9.0, and what each block takes of it in addition to its own.
constexpr int SM_SHARED = 228 * 1024; // launcher
constexpr int BLOCK_RESERVE = 1024; // launcher

// Whether K and V of a head are fetched while that before is computed: where they fit an SM for BLOCKS blocks, or three.
template <int HEAD_DIM, int PADDED, int BLOCKS>
constexpr bool AHEAD = (BLOCKS > 3 ? BLOCKS : 3) * (5 * PADDED * 2 * HEAD_DIM + BLOCK_RESERVE) <= SM_SHARED;

// Grid: batch * heads, or less if AHEAD, where blocks go on from head to head; block: 32 WARPS; dynamic shared memory:
// (AHEAD ? 5 PADDED : 2 PADDED + 16 WARPS) * HEAD_DIM * 2 bytes. BEYOND < tokens <= PADDED.
// K and V of the head lie in shared memory; each warp takes 16 queries at a time, all of their S in registers, and fetches to
// where those were the next head's or (not AHEAD) its own next ones.
template <int HEAD_DIM, int BEYOND, int PADDED, int WARPS, int BLOCKS>
__device__ void forward(const bf16* qkv, bf16* out, float* lse, int batch, int tokens, int heads, int causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    typedef PlaceOf<uint32_t> Place;
    constexpr bool GO_ON = AHEAD<HEAD_DIM, PADDED, BLOCKS>;
    // Whether all of a warp's queries have a place of their own.
    constexpr bool KEPT = GO_ON && PADDED > 16 * WARPS;
    if (tokens > PADDED || tokens <= BEYOND) __trap();  // The wrong kernel: see above.
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, all = batch * heads, first = 16 * warp;
    uint32_t keys = shared_address(shared), queries = keys + ((GO_ON ? 4 : 2) * PADDED + first) * R::BYTES;
    uint32_t across = R::across(lane), along = R::along(lane);
    float to_base_2 = scale * LOG2E;
    // Sixteen that this warp alone will need.
    auto fetch_queries = [&](const Place& at, int row) {
        uint32_t to = queries + (KEPT ? row - first : 0) * R::BYTES;
        R::fetch(to, qkv + at.packed + row * 3 * at.pitch, 3 * at.pitch, 16, tokens - row, lane, 32);
    };
    auto fetch_keys = [&](const Place& at, uint32_t to) {
        const bf16* from = qkv + at.packed + at.width;
        R::fetch(to, from, 3 * at.pitch, PADDED, tokens, threadIdx.x, 32 * WARPS);
        R::fetch(to + PADDED * R::BYTES, from + at.width, 3 * at.pitch, PADDED, tokens, threadIdx.x, 32 * WARPS);
    };
    Place at(blockIdx.x, tokens, heads, HEAD_DIM);
    for (int row = first; row < (GO_ON ? tokens : min(tokens, first + 1)); row += 16 * WARPS) fetch_queries(at, row);
    fetch_keys(at, keys);
    copies_commit();
    uint32_t k = keys;
#pragma unroll 1
    for (int head = blockIdx.x; head < all; head += gridDim.x) {
        bool more = GO_ON && head + gridDim.x < all;
        Place next(more ? head + gridDim.x : head, tokens, heads, HEAD_DIM);
        copies_wait<0>();
        __syncthreads();
        // To where those of the head before are, which nobody reads any more.
        if (more) fetch_keys(next, k == keys ? keys + 2 * PADDED * R::BYTES : keys);
        uint32_t v = k + PADDED * R::BYTES;
#pragma unroll 1
        for (int row = first; row < tokens; row += 16 * WARPS) {
            if (!GO_ON && row > first) {
                copies_wait<0>();
                __syncwarp();
            }
            float s[PADDED / 8][4] = {};
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                uint32_t q[4];
                load_tile<false>(q, R::tile(queries + across, KEPT ? row - first : 0, i));
#pragma unroll
                for (int block = 0; block < PADDED / 16; block++) {
                    uint32_t tile[4];
                    load_tile<false>(tile, R::tile(k + along, 16 * block, i));
                    mma(s + 2 * block, q, tile);
                }
            }
            __syncwarp();
            if (more) fetch_queries(next, row);
            if (!GO_ON && row + 16 * WARPS < tokens) fetch_queries(at, row + 16 * WARPS);
            copies_commit();
            mask<BEYOND / 8>(s, row + g, 0, tokens, causal);
            float total[2];
            uint32_t p[PADDED / 16][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float most = -INFINITY, sum = 0;
#pragma unroll
                for (int tile = 0; tile < PADDED / 8; tile++)
                    most = fmaxf(most, fmaxf(s[tile][2 * half], s[tile][2 * half + 1]));
                most = quad_max(most) * to_base_2;
#pragma unroll
                for (int tile = 0; tile < PADDED / 8; tile++) {
                    float low = exp2_approx(s[tile][2 * half] * to_base_2 - most);
                    float high = exp2_approx(s[tile][2 * half + 1] * to_base_2 - most);
                    sum += low, sum += high;
                    p[tile / 2][tile % 2 * 2 + half] = pack(low, high);
                }
                total[half] = quad_sum(sum);
                int query = row + g + 8 * half;
                if (lane % 4 == 0 && query < tokens) lse[at.row + query] = (most + __log2f(total[half])) * LN2;
            }

            float o[HEAD_DIM / 8][4] = {};
#pragma unroll
            for (int block = 0; block < PADDED / 16; block++) product_by_rows<HEAD_DIM>(o, p[block], v + across, 16 * block);
            store_rows(out + at.single + row * at.pitch, at.pitch, tokens - row, o, __fdividef(1, total[0]),
                       __fdividef(1, total[1]));
        }
        if (!GO_ON) return;
        copies_commit();
        at = next;
        k = k == keys ? keys + 2 * PADDED * R::BYTES : keys;
    }
}

// Any number of tokens. Grid: batch * heads * ceil(tokens / 64); block: 128; dynamic shared memory: 640 * HEAD_DIM bytes.
// 64 queries, 16 per warp; blocks of 64 keys pass by, the next one being fetched, and the softmax is kept up to date.
template <int HEAD_DIM>
__device__ void forward_long(const bf16* qkv, bf16* out, float* lse, int, int tokens, int heads, int causal, float scale) {
    typedef Rows<HEAD_DIM> R;
    extern __shared__ __align__(128) uint4 shared[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    int blocks = (tokens + BLOCK - 1) / BLOCK, first = blockIdx.x % blocks * BLOCK, row = first + 16 * warp;
    Place at(blockIdx.x / blocks, tokens, heads, HEAD_DIM);
    const bf16* from = qkv + at.packed;
    uint32_t queries = shared_address(shared), keys = queries + BLOCK * R::BYTES;  // K, V, and again
    auto fetch = [&](int block) {
        uint32_t to = keys + block % 2 * (2 * BLOCK * R::BYTES);
        const bf16* k = from + at.width + (size_t)block * BLOCK * 3 * at.pitch;
        R::fetch(to, k, 3 * at.pitch, BLOCK, tokens - block * BLOCK, threadIdx.x, 128);
        R::fetch(to + BLOCK * R::BYTES, k + at.width, 3 * at.pitch, BLOCK, tokens - block * BLOCK, threadIdx.x, 128);
    };
    R::fetch(queries, from + first * 3 * at.pitch, 3 * at.pitch, BLOCK, tokens - first, threadIdx.x, 128);
    fetch(0);
    copies_commit();
    uint32_t across = R::across(lane), along = R::along(lane);
    float to_base_2 = scale * LOG2E;
    uint32_t q[HEAD_DIM / 16][4];
    float o[HEAD_DIM / 8][4] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    int end = causal ? first / BLOCK + 1 : blocks;
    for (int block = 0; block < end; block++) {
        if (block + 1 < end) fetch(block + 1);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        if (block == 0) {
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; k++) load_tile<false>(q[k], R::tile(queries + across, 16 * warp, k));
        }
        uint32_t k = keys + block % 2 * (2 * BLOCK * R::BYTES), v = k + BLOCK * R::BYTES;
        float s[BLOCK / 8][4];
        product_by_columns<HEAD_DIM, BLOCK / 16>(s, q, k + along);
        mask<0>(s, row + g, block * BLOCK, tokens, causal);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = -INFINITY, sum = 0;
#pragma unroll
            for (int tile = 0; tile < BLOCK / 8; tile++) now = fmaxf(now, fmaxf(s[tile][2 * half], s[tile][2 * half + 1]));
            // Each query sees a key of the first block, so that this is a number from there on.
            now = fmaxf(most[half], quad_max(now) * to_base_2);
            float shrink = exp2_approx(most[half] - now);
            most[half] = now;
#pragma unroll
            for (int tile = 0; tile < BLOCK / 8; tile++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) sum += s[tile][i] = exp2_approx(s[tile][i] * to_base_2 - now);
            }
            total[half] = total[half] * shrink + sum;
#pragma unroll
            for (int tile = 0; tile < HEAD_DIM / 8; tile++) o[tile][2 * half] *= shrink, o[tile][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (int part = 0; part < BLOCK / 16; part++) {
            uint32_t p[4];
            as_operand(p, s + 2 * part);
            product_by_rows<HEAD_DIM>(o, p, v + across, 16 * part);
        }
        __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = quad_sum(total[half]);
        int query = row + g + 8 * half;
        if (lane % 4 == 0 && query < tokens) lse[at.row + query] = (most[half] + __log2f(total[half])) * LN2;
    }
    // Past the last row, the address is not used.
    store_rows(out + at.single + row * at.pitch, at.pitch, tokens - row, o, __fdividef(1, total[0]), __fdividef(1, total[1]));
}
