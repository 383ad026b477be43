// Attention backwards for rows of which one fills an SM: five products, dK and dV in registers all the way.
#pragma once
#include "attention_backward.cuh"

// Tokens for which it was tuned.
constexpr int ROW_MIN = 145; // launcher
constexpr int ROW_MAX = 272; // launcher

// 145 to 272 tokens. Grid: batch * heads, or less if HEAD_DIM is 64, where blocks go on from head to head; block: 256; dynamic
// shared memory, with R = tokens in whole 16s: (4 R + 384) * 2 HEAD_DIM + 144 (R + 16) + 512 bytes, and 4 R HEAD_DIM less
// if HEAD_DIM is 80.
//
// Four groups of two warps own two to four slabs of 16 keys each. The first warp of a group computes P^T and dV, the second
// dP^T, dS^T and dK: so what either loads of Q and dO serves all slabs of its group, whose K or V it has in registers. P^T goes to
// the second warp through the place where dS^T will be. Where the slabs are a multiple of four and one (197 and 257 tokens), the
// last one - the rest - is shared by all warps, so that no part of the SM has more to do than another.
//
// Queries (Q, dO, O) pass by in blocks of 64, the next one being fetched, be it the next head's; with it come the next head's K
// and V where there is room (AHEAD). When dS^T of a block is complete, each warp takes 16 queries and half of the dimensions for
// dQ.
template <int HEAD_DIM> struct BackwardRow {
    typedef Rows<HEAD_DIM> R;
    static constexpr int STAGE = 64, GROUPS = 4, WARPS = 2 * GROUPS, THREADS = 32 * WARPS;
    static constexpr int DIMS = HEAD_DIM / 16, SLAB = 48 * R::BYTES;
    static constexpr bool AHEAD = HEAD_DIM <= 64;
    // Rows of dS^T are an odd number of chunks long: neighbours start at other banks.
    static constexpr int SCORE_ROW = (STAGE + 8) * 2;
    // Tiles of dK and dV of the rest that one warp has.
    static constexpr int SHARE = (2 * DIMS + WARPS - 1) / WARPS;

    const bf16 *qkv, *out, *dout;
    const float* lse;
    bf16* dqkv;
    int all, tokens, heads;  // all: heads of the whole batch
    bool causal;
    float scale;
    int padded, rest;       // tokens in whole slabs; the first key of the rest, or `padded`
    uint32_t keys, stages;  // K and V, twice if AHEAD; Q, dO and O, twice; statistics; dS^T and the rest's P^T

    // threadIdx.x, read anew, so that what follows from it is computed again and not kept in registers.
    __device__ __forceinline__ static int thread() {
        int x;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
        return x;
    }

    __device__ __forceinline__ void fetch_stage(int head, int row, int turn) const {
        Place at(head, tokens, heads, HEAD_DIM);
        uint32_t to = stages + turn * (3 * STAGE * R::BYTES);
        size_t from = at.single + row * at.pitch;
        R::fetch(to, qkv + at.packed + row * 3 * at.pitch, 3 * at.pitch, STAGE, tokens - row, thread(), THREADS, SLAB);
        R::fetch(to + 16 * R::BYTES, dout + from, at.pitch, STAGE, tokens - row, thread(), THREADS, SLAB);
        R::fetch(to + 32 * R::BYTES, out + from, at.pitch, STAGE, tokens - row, thread(), THREADS, SLAB);
    }
    // K (1) or V (2).
    __device__ __forceinline__ void fetch_keys(int head, int set, int part) const {
        Place at(head, tokens, heads, HEAD_DIM);
        uint32_t to = keys + (2 * set + part - 1) * padded * R::BYTES;
        R::fetch(to, qkv + at.packed + part * at.width, 3 * at.pitch, padded, tokens, thread(), THREADS);
    }

    __device__ __forceinline__ uint32_t keys_of(int set) const { return keys + (AHEAD ? 2 * set * padded * R::BYTES : 0); }

    // The slabs of a group are neighbours; the first groups have one more where they are not a multiple of four.
    __device__ __forceinline__ int slabs(int group) const { return rest / 16 / GROUPS + (group < rest / 16 % GROUPS); }
    __device__ __forceinline__ int first_slab(int group) const {
        return group * (rest / 16 / GROUPS) + min(group, rest / 16 % GROUPS);
    }

    // An operand, keys by queries, in shared memory.
    __device__ __forceinline__ static void put(uint32_t at, const uint32_t (&operand)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + i % 2 * 8 * SCORE_ROW + i / 2 * 16), "r"(operand[i]) : "memory");
    }
    // One that was put there, as it was before `as_operand`.
    __device__ __forceinline__ static void get(float (&c)[2][4], uint32_t at) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair;
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(pair) : "r"(at + i % 2 * 8 * SCORE_ROW + i / 2 * 16) : "memory");
            c[i / 2][i % 2 * 2] = __uint_as_float(pair << 16);
            c[i / 2][i % 2 * 2 + 1] = __uint_as_float(pair & 0xffff0000u);
        }
    }

    // P^T and dS^T of the rest and 16 queries, into shared memory. `k`, `row`: this lane's part of the rest's K and of Q.
    __device__ __forceinline__ void rest_scores(uint32_t k, uint32_t row, uint32_t score, const float2* statistics,
                                                int query) const {
        float s[1][2][4] = {}, dp[2][4] = {};
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            uint32_t a[4], b[4];
            load_tile<false>(a, R::tile(k, 0, i));
            load_tile<false>(b, R::tile(row, 0, i));
            mma(s[0], a, b);
            load_tile<false>(a, R::tile(k + padded * R::BYTES, 0, i));
            load_tile<false>(b, R::tile(row, 16, i));
            mma(dp, a, b);
        }
        Statistics of(statistics + 2 * (thread() % 4));
        of.probabilities(s, rest, query, tokens, causal, scale * LOG2E);
        of.gradients(dp, s[0]);
        uint32_t p[4], ds[4];
        as_operand(p, s[0]);
        as_operand(ds, dp);
        put(score, ds);
        put(score + 16 * SCORE_ROW, p);
    }

    // dQ of 16 queries: TILES times 16 dimensions from FIRST on. `score`, `k`: this lane's parts of dS^T and K.
    template <int FIRST, int TILES>
    __device__ __forceinline__ void queries(bf16* to, size_t pitch, int rows, uint32_t score, uint32_t k, int end) const {
        float dq[2 * TILES][4] = {};
#pragma unroll 2
        for (int key = 0; key < end; key += 16, score += 16 * SCORE_ROW, k += 16 * R::BYTES) {
            uint32_t ds[4];
            load_tile<true>(ds, score);
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                uint32_t b[4];
                load_tile<true>(b, R::tile(k, 0, FIRST + i));
                mma(dq + 2 * i, ds, b);
            }
        }
        store_rows(to + 16 * FIRST, pitch, rows, dq, scale, scale);
    }

    // What a warp does whose group owns SLABS slabs. Warps with other numbers meet at the same barriers.
    template <int SLABS> __device__ __forceinline__ void work() const {
        // For so many there are registers to keep K or V.
        constexpr int KEPT = HEAD_DIM <= 64 ? SLABS < 3 ? SLABS : 3 : SLABS == 4 ? 0 : 2;
        extern __shared__ __align__(128) uint4 shared[];
        uint32_t kept[KEPT ? KEPT : 1][DIMS][4];
        float sums[SLABS][2 * DIMS][4], rest_sums[SHARE][2][4];
        int head = blockIdx.x, block = 0, turn = 0, set = 0;
        // One loop over blocks and heads, so that what depends on the head is not kept in registers.
#pragma unroll 1
        while (true) {
            int next = head + gridDim.x;
            uint4* slabs = shared + (stages - keys) / 16;
            float2* statistics = reinterpret_cast<float2*>(slabs + 6 * STAGE * R::CHUNKS);
            auto arrive = [&] {
                copies_wait<0>();
                __syncthreads();
                if (block + STAGE < tokens) fetch_stage(head, block + STAGE, turn ^ 1);
                if (AHEAD && next < all) {
                    if (block + STAGE >= tokens) fetch_stage(next, 0, turn ^ 1);
                    if (block <= STAGE) fetch_keys(next, set ^ 1, block == 0 ? 1 : 2);
                }
                copies_commit();
            };
            row_statistics<HEAD_DIM, 3>(statistics, lse + (size_t)head * tokens + block, nullptr, 0,
                                        slabs + turn * (3 * STAGE * R::CHUNKS), STAGE, tokens - block, thread(), THREADS, arrive);

            int warp = thread() / 32, lane = thread() % 32, group = warp % GROUPS, key = 16 * first_slab(group);
            bool second = warp >= GROUPS;
            uint32_t across = R::across(lane), along = R::along(lane);
            uint32_t own = keys_of(set) + across + (second ? padded + key : key) * R::BYTES;
            if (block == 0) {
#pragma unroll
                for (int i = 0; i < KEPT * DIMS; i++)
                    load_tile<false>(kept[i / DIMS][i % DIMS], R::tile(own, i / DIMS * 16, i % DIMS));
#pragma unroll
                for (int i = 0; i < SLABS * HEAD_DIM / 2; i++) sums[i / 4 / (2 * DIMS)][i / 4 % (2 * DIMS)][i % 4] = 0;
#pragma unroll
                for (int i = 0; i < 8 * SHARE; i++) rest_sums[i / 8][i / 4 % 2][i % 4] = 0;
            }
            __syncthreads();

            uint32_t scores = stages + 6 * STAGE * R::BYTES + STAGE * sizeof(float2);
            uint32_t row = stages + turn * (3 * STAGE * R::BYTES);
            int end = min(tokens - block, STAGE), query = causal ? max(0, key - block) : 0;
            // This lane's parts of the left operand's rows - Q or dO -, of the right one's, of dS^T, and of the statistics.
            uint32_t left = row + query / 16 * SLAB + along + (second ? 16 * R::BYTES : 0);
            uint32_t right = row + query / 16 * SLAB + across + (second ? 0 : 16 * R::BYTES);
            uint32_t score = scores + (key + lane / 4) * SCORE_ROW + query * 2 + lane % 4 * 4;
            const float2* of_queries = statistics + query + 2 * (lane % 4);
#pragma unroll 1
            for (; query < end; query += 16, left += SLAB, right += SLAB, score += 32, of_queries += 16) {
                float c[SLABS][2][4] = {};
#pragma unroll
                for (int i = 0; i < DIMS; i++) {
                    uint32_t b[4];
                    load_tile<false>(b, R::tile(left, 0, i));
#pragma unroll
                    for (int slab = 0; slab < SLABS; slab++) {
                        if (slab < KEPT) {
                            mma(c[slab], kept[slab][i], b);
                        } else {
                            uint32_t a[4];
                            load_tile<false>(a, R::tile(own, 16 * slab, i));
                            mma(c[slab], a, b);
                        }
                    }
                }
                Statistics of(of_queries);
                uint32_t operand[SLABS][4];
                if (!second) {
                    of.probabilities(c, key, block + query, tokens, causal, scale * LOG2E);
#pragma unroll
                    for (int slab = 0; slab < SLABS; slab++) {
                        as_operand(operand[slab], c[slab]);
                        put(score + 16 * slab * SCORE_ROW, operand[slab]);
                    }
                    pair(group);
                } else {
                    pair(group);
#pragma unroll
                    for (int slab = 0; slab < SLABS; slab++) {
                        float p[2][4];
                        get(p, score + 16 * slab * SCORE_ROW);
                        of.gradients(c[slab], p);
                        as_operand(operand[slab], c[slab]);
                        put(score + 16 * slab * SCORE_ROW, operand[slab]);
                    }
                }
#pragma unroll
                for (int i = 0; i < DIMS; i++) {
                    uint32_t b[4];
                    load_tile<true>(b, R::tile(right, 0, i));
#pragma unroll
                    for (int slab = 0; slab < SLABS; slab++) mma(sums[slab] + 2 * i, operand[slab], b);
                }
            }
            // Queries of the rest: none before it if causal.
            int rest_first = rest == padded ? end : causal ? max(0, rest - block) : 0;
            query = thread() / 32 % GROUPS * 16, lane = thread() % 32, second = thread() / 32 >= GROUPS;
            if (!second && rest_first <= query && query < end)
                rest_scores(keys_of(set) + R::across(lane) + rest * R::BYTES, row + R::along(lane) + query / 16 * SLAB,
                            scores + (rest + lane / 4) * SCORE_ROW + query * 2 + lane % 4 * 4, statistics + query, block + query);
            __syncthreads();

            if (query < end) {
                Place at(head, tokens, heads, HEAD_DIM);
                bf16* to = dqkv + at.packed + (block + query) * 3 * at.pitch;
                int last = causal ? block + query + 16 : padded, rows = tokens - block - query;
                score = scores + (lane / 16 * 8 + lane % 8) * SCORE_ROW + lane / 8 % 2 * 16 + query * 2;
                uint32_t k = keys_of(set) + R::across(lane);
                if (second) queries<(DIMS + 1) / 2, DIMS / 2>(to, 3 * at.pitch, rows, score, k, last);
                else queries<0, (DIMS + 1) / 2>(to, 3 * at.pitch, rows, score, k, last);
            }
#pragma unroll
            for (int i = 0; i < SHARE; i++) {
                int unit = thread() / 32 + WARPS * i, lane = thread() % 32, of_k = unit / DIMS;
                if (unit >= 2 * DIMS) continue;
                uint32_t a_at = scores + (rest + (of_k ? 0 : 16) + lane % 16) * SCORE_ROW + lane / 16 * 16;
                uint32_t b_at = R::tile(row + R::across(lane), of_k ? 0 : 16, unit % DIMS);
#pragma unroll 1
                for (query = rest_first; query < end; query += 16) {
                    uint32_t a[4], b[4];
                    load_tile<false>(a, a_at + query * 2);
                    load_tile<true>(b, b_at + query / 16 * SLAB);
                    mma(rest_sums[i], a, b);
                }
            }
            turn ^= 1;
            if (block + STAGE < tokens) {
                block += STAGE;
                continue;
            }

            Place at(head, tokens, heads, HEAD_DIM);
            size_t pitch = 3 * at.pitch;
            bf16* to = dqkv + at.packed + at.width;
            warp = thread() / 32, group = warp % GROUPS, key = 16 * first_slab(group), second = warp >= GROUPS;
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                int row = key + 16 * slab;
                float factor = second ? scale : 1;
                store_rows(to + row * pitch + (second ? 0 : at.width), pitch, tokens - row, sums[slab], factor, factor);
            }
            if (rest < padded) {
#pragma unroll
                for (int i = 0; i < SHARE; i++) {
                    int unit = thread() / 32 + WARPS * i, of_k = unit / DIMS;
                    float factor = of_k ? scale : 1;
                    // The rest begins where the last block of queries does.
                    bf16* first = to + block * pitch + (of_k ? 0 : at.width) + unit % DIMS * 16;
                    if (unit < 2 * DIMS) store_rows(first, pitch, tokens - block, rest_sums[i], factor, factor);
                }
            }
            if (!AHEAD || next >= all) return;
            head = next, block = 0, set ^= 1;
        }
    }

    // Lets the two warps of a group meet.
    __device__ __forceinline__ static void pair(int group) { asm volatile("bar.sync %0, 64;" ::"r"(1 + group) : "memory"); }
};

template <int HEAD_DIM>
__device__ __forceinline__ void backward_row(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv,
                                             int batch, int tokens, int heads, bool causal, float scale) {
    typedef BackwardRow<HEAD_DIM> Row;
    extern __shared__ __align__(128) uint4 shared[];
    Row row{qkv, out, dout, lse, dqkv, batch * heads, tokens, heads, causal, scale};
    row.padded = (tokens + 15) / 16 * 16;
    row.rest = row.padded % 64 == 16 ? row.padded - 16 : row.padded;
    row.keys = shared_address(shared);
    row.stages = row.keys + (Row::AHEAD ? 4 : 2) * row.padded * Rows<HEAD_DIM>::BYTES;
    row.fetch_keys(blockIdx.x, 0, 1);
    row.fetch_keys(blockIdx.x, 0, 2);
    row.fetch_stage(blockIdx.x, 0, 0);
    copies_commit();
    int slabs = row.slabs(threadIdx.x / 32 % Row::GROUPS);
    if (slabs == 4) row.template work<4>();
    else if (slabs == 3) row.template work<3>();
    else row.template work<2>();
}
