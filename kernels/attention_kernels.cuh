// Multi-head self-attention on packed qkv, for short rows (src/ops/attention). Each head dim is a module of its own
// (attention_d*.cu), so that the driver translates only those that a model needs.
//
//   S = Q K^T / sqrt(d);  P = softmax(S);  O = P V;  lse = log sum exp S
//   dP = dO V^T;  dS = P (dP - rowsum(dO O));  dV = P^T dO;  dQ = dS K / sqrt(d);  dK = dS^T Q / sqrt(d)
//
// qkv, dqkv: [batch, tokens, 3, heads, head_dim]; out, dout: [batch, tokens, heads, head_dim]; lse: [batch, heads,
// tokens]. `causal`: query i sees the keys up to i. `scale` = 1 / sqrt(head_dim). Padded rows and columns exist only in
// shared memory: zeros there, and P = 0.
//
// Launches. Grids and blocks are one-dimensional; B = batch * heads, N = tokens, D = head_dim, R = N rounded up to 16,
// c = blocks for which an SM has shared memory (on Hopper 228 KB / (dynamic shared memory + 1 KB)).
//
//   kernel attention_...    | for             | grid                   | block | dynamic shared memory, bytes
//   forward_bf16_dD_nP      | p < N <= P      | B (persistent: fewer)  | 32 w  | 2 D (2 P + 16 w); persistent: 10 D P
//   forward_bf16_dD_long    | any N           | B * ceil(N / 64)       | 128   | 640 D
//   backward_bf16_dD        | what fits       | B                      | 32 v  | R (6 D + 2 max(R + 8, D) + 8)
//   backward_bf16_dD_row    | 145 <= N <= 272 | B (D 64: fewer)        | 256   | 2 D (2 a R + 384) + 144 (R + 16) + 512
//   backward_bf16_dD_long   | any N           | 2 B * ceil(N / (64 s)) | 128   | (256 s + 12 u) D + 8 max(u, 64 s)
//   simple_forward_T        | any N, D <= 256 | at most ceil(B N / 4)  | 128   | 0
//   simple_backward_T       | any N, D <= 256 | at most ceil(B N / 4)  | 128   | 0
//
//   D           32, 64, 80, 96, 128; T: f32, bf16
//   p, P, w     row length of the next shorter kernel and of this one, and its warps: arguments 2 to 4 of WHOLE in
//               attention_d*.cu
//   persistent  if the blocks meant to run on an SM (argument 5), or three, fit its 228 KB: as many blocks as run on
//               the GPU at once, which take one head after another
//   v           ceil(R / 16 / ceil(R / 16 / max)), with max = 4 for c >= 3, 6 for c = 2, 12 for c = 1; for D > 80: 4
//               for c >= 2, else 8 (what the kernels are compiled for). Used for c >= 2 (D 64: N <= 144); beyond that,
//               backward_row if there is one and the GPU has the shared memory, else backward_long.
//   a           2 for D 64, where as many blocks as the GPU has SMs take one head after another; 1 for D 80. There is
//               no other D.
//   s, u        arguments 4 and 5 of KERNELS in attention_d*.cu
//
// Pointers are multiples of 16 bytes (simple: of T). More than 48 KB of dynamic shared memory needs the function's
// attribute. Every element of out, lse and dqkv is written by one thread; sums have one order.
#pragma once
#include "attention_backward.cuh"
#include "attention_backward_row.cuh"
#include "attention_forward.cuh"
#include "attention_simple.cuh"

#define FORWARD(NAME, BODY, THREADS, BLOCKS)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                 \
        NAME(const bf16* qkv, bf16* out, float* lse, int batch, int tokens, int heads, int causal, float scale) { \
        BODY(qkv, out, lse, batch, tokens, heads, causal, scale);                                                 \
    }
#define BACKWARD(NAME, BODY, THREADS, BLOCKS)                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                     \
        NAME(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int batch, int tokens, \
             int heads, int causal, float scale) {                                                                    \
        BODY(qkv, out, lse, dout, dqkv, tokens, heads, causal, scale);                                                \
    }
#define ROW(D)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                            \
        attention_backward_bf16_d##D##_row(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout,    \
                                           bf16* dqkv, int batch, int tokens, int heads, int causal, float scale) { \
        backward_row<D>(qkv, out, lse, dout, dqkv, batch, tokens, heads, causal, scale);                            \
    }
#define COMMA ,
#define WHOLE(D, BEYOND, N, WARPS, BLOCKS)                                                                            \
    FORWARD(attention_forward_bf16_d##D##_n##N, forward<D COMMA BEYOND COMMA N COMMA WARPS COMMA BLOCKS>, 32 * WARPS, \
            BLOCKS)
#define KERNELS(D, FORWARDS, WARPS, SLABS, STAGE)                               \
    FORWARD(attention_forward_bf16_d##D##_long, forward_long<D>, 128, FORWARDS) \
    BACKWARD(attention_backward_bf16_d##D, backward<D>, 32 * WARPS, 1)          \
    BACKWARD(attention_backward_bf16_d##D##_long, backward_long<D COMMA SLABS COMMA STAGE>, 128, 2)
#define SIMPLE(TYPE, NAME)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                             \
        attention_simple_forward_##NAME(const TYPE* qkv, TYPE* out, float* lse, int batch, int tokens, int heads, \
                                        int head_dim, int causal, float scale) {                                  \
        simple_forward<TYPE>(qkv, out, lse, batch, tokens, heads, head_dim, causal, scale);                       \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) attention_simple_backward_##NAME(                           \
        const TYPE* qkv, const TYPE* out, const float* lse, const TYPE* dout, TYPE* dqkv, int batch, int tokens,  \
        int heads, int head_dim, int causal, float scale) {                                                       \
        simple_backward<TYPE>(qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim, causal, scale);          \
    }
