// Splits rows of f32 into f16 halves for the tensor cores, with the layout and the scale of logits.cuh.
#include "logits.cuh"

// halves: [tiles * 128, ceil(width / 32), (high, low), 32], zeros from row `rows` on. A thread has 8 neighbours of a
// row. halves is 16-byte aligned, and so is x if width is a multiple of 4. Bytes moved: x, and halves, which are as
// large. Grid: 2 * tiles * ceil(width / 32); block: 256.
extern "C" __global__ void __launch_bounds__(256) split_halves(const float* x, uint4* halves, int rows, int width) {
    int eights = (width + STEP - 1) / STEP * (STEP / 8);
    size_t index = thread_index();
    size_t row = index / eights;
    int at = index % eights * 8;
    int end = row < rows ? width : 0;
    x += row * width;
    float v[8] = {};
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        if (width % 4 == 0 && at + i < end) {
            float four[4];
            load(x + at + i, four);
#pragma unroll
            for (int j = 0; j < 4; j++) v[i + j] = four[j];
        } else {
#pragma unroll
            for (int j = i; j < i + 4; j++)
                if (at + j < end) v[j] = x[at + j];
        }
    }
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) split(ROW_SCALE * v[2 * i], ROW_SCALE * v[2 * i + 1], high[i], low[i]);
    uint4* to = halves + row * eights * 2 + at / STEP * (STEP / 4) + at % STEP / 8;
    to[0] = make_uint4(high[0], high[1], high[2], high[3]);
    to[STEP / 8] = make_uint4(low[0], low[1], low[2], low[3]);
}
