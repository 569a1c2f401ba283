// The arithmetic of both kernels, without threads. A C++ compiler for the CPU can compile it too: the tests do so with
// g++, and compare the results with geometry.crop and decode.decode, which compute the same.
#pragma once

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ __forceinline__
#define UNROLL _Pragma("unroll")  // keeps small arrays in registers
#else
#define HOST_DEVICE static inline
#define UNROLL
#endif
#ifndef __CUDACC_RTC__
#include <math.h>
#endif

// The same as in decode.py: the share of the peak above which cells count for the center, the standard deviation of the
// Gaussian window around the center in cells, and the weight that is added to every cell.
#define CORE_THRESHOLD 0.5f
#define WINDOW_SIGMA 3.0f
#define MIN_WEIGHT 1e-6f

// A frame (height, width, 3) uint8 without padding between rows. The struct is in device memory: a captured CUDA graph
// keeps its address, and reads another frame when the struct changes.
struct View {
    const unsigned char* pixels;
    int width, height;
};

// The square region of one face. Both matrices are affine, (2, 3) in row-major order. `cut` maps a pixel of the crop
// enlarged `taps` times to the frame reduced by `shrink`, `back` maps a pixel of the crop itself to the frame.
// taps = 0: no face, and the crop is black.
struct Region {
    float cut[6];
    float back[6];
    int taps;
    int shrink;
    int unused[2];
};

// The largest `shrink` is 1 << MAX_HALVINGS; it is MAX_SHRINK in geometry.py.
#define MAX_HALVINGS 4

// One channel of a pixel of the frame that is halved until it is reduced by `shrink`, a power of two. Each halving rounds
// the mean of 2 x 2 pixels, as cv2.resize does. Outside the frame is black.
HOST_DEVICE float channel_at(const View& view, int shrink, int x, int y, int channel) {
    if (x < 0 || y < 0 || x >= (view.width + shrink - 1) / shrink || y >= (view.height + shrink - 1) / shrink) return 0.0f;
    const unsigned char* pixels = view.pixels + channel;
    if (shrink == 1) return (float)pixels[((size_t)y * view.width + x) * 3];
    // The even bits of `cell` are its column, the odd ones its row: each four cells are a pixel of the next halving.
    int sums[MAX_HALVINGS] = {0, 0, 0, 0}, value = 0;
    for (int cell = 0; cell < shrink * shrink; ++cell) {
        int column = x * shrink, row = y * shrink;
        for (int halving = 0; halving < MAX_HALVINGS; ++halving) {
            column += (cell >> (2 * halving) & 1) << halving;
            row += (cell >> (2 * halving + 1) & 1) << halving;
        }
        bool inside = column < view.width && row < view.height;
        value = inside ? pixels[((size_t)row * view.width + column) * 3] : 0;
        bool complete = true;
        UNROLL
        for (int halving = 0; halving < MAX_HALVINGS; ++halving) {
            if (!complete || 1 << halving >= shrink) continue;
            sums[halving] += value;
            complete = (cell >> (2 * halving) & 3) == 3;
            if (!complete) continue;
            value = (sums[halving] + 2) >> 2;
            sums[halving] = 0;
        }
    }
    return (float)value;
}

// Bilinear samples of the three channels of the reduced frame, rounded like those of cv2.warpAffine.
HOST_DEVICE void sample(const View& view, int shrink, float x, float y, int rgb[3]) {
    float width = (float)((view.width + shrink - 1) / shrink), height = (float)((view.height + shrink - 1) / shrink);
    // Outside the frame. NaN and coordinates too large for an int also end here, before the conversion to int.
    if (!(x > -1.0f && y > -1.0f && x < width && y < height)) {
        rgb[0] = rgb[1] = rgb[2] = 0;
        return;
    }
    float left = floorf(x), top = floorf(y);
    float to_right = x - left, down = y - top;
    int x0 = (int)left, y0 = (int)top;
    UNROLL
    for (int channel = 0; channel < 3; ++channel) {
        float above = channel_at(view, shrink, x0, y0, channel) * (1.0f - to_right) +
                      channel_at(view, shrink, x0 + 1, y0, channel) * to_right;
        float below = channel_at(view, shrink, x0, y0 + 1, channel) * (1.0f - to_right) +
                      channel_at(view, shrink, x0 + 1, y0 + 1, channel) * to_right;
        rgb[channel] = (int)rintf(above * (1.0f - down) + below * down);
    }
}

// One pixel of a crop: the mean of taps x taps samples, so that a crop smaller than its region is not aliased.
HOST_DEVICE void crop_pixel(const View& view, const Region& region, int x, int y, unsigned char rgb[3]) {
    int sum[3] = {0, 0, 0};
    int taps = region.taps;
    for (int down = 0; down < taps; ++down) {
        for (int right = 0; right < taps; ++right) {
            float u = (float)(x * taps + right), v = (float)(y * taps + down);
            int one[3];
            sample(view, region.shrink, region.cut[0] * u + region.cut[1] * v + region.cut[2],
                   region.cut[3] * u + region.cut[4] * v + region.cut[5], one);
            for (int channel = 0; channel < 3; ++channel) sum[channel] += one[channel];
        }
    }
    int samples = taps * taps;
    for (int channel = 0; channel < 3; ++channel)
        rgb[channel] = samples ? (unsigned char)((2 * sum[channel] + samples) / (2 * samples)) : 0;
}

// The larger of two scores. NaN is larger than every number, as in NumPy's max.
HOST_DEVICE float maximum(float one, float other) { return one != one || one > other ? one : other; }

// max(score, 0); NaN stays NaN.
HOST_DEVICE float positive(float score) { return score < 0.0f ? 0.0f : score; }

// A weighted sum of positions: the weights, and the positions times their weights, in cells.
struct WeightedSum {
    float weight, x, y;
};

HOST_DEVICE WeightedSum add(WeightedSum one, WeightedSum other) {
    return {one.weight + other.weight, one.x + other.x, one.y + other.y};
}

// The contribution of one cell to the center of the peak. scores: the map of one point; top: its maximum.
HOST_DEVICE WeightedSum center_term(const float* scores, int cell, int width, float top) {
    float weight = positive(scores[cell] - CORE_THRESHOLD * positive(top)) + MIN_WEIGHT;
    return {weight, weight * (float)(cell % width), weight * (float)(cell / width)};
}

// The contribution of one cell to the position of the point. maps: (3, points, cells) of one face; center: the sum of
// center_term over all cells.
HOST_DEVICE WeightedSum point_term(const float* maps, int points, int cells, int width, int point, int cell,
                                   WeightedSum center) {
    const float* here = maps + (size_t)point * cells + cell;
    size_t layer = (size_t)points * cells;
    float x = (float)(cell % width), y = (float)(cell / width);
    float to_x = x - center.x / center.weight, to_y = y - center.y / center.weight;
    float window = expf(-(to_x * to_x + to_y * to_y) / (2.0f * WINDOW_SIGMA * WINDOW_SIGMA));
    float weight = (positive(here[0]) + MIN_WEIGHT) * window;
    return {weight, weight * (x + here[layer]), weight * (y + here[2 * layer])};
}

// Write one point to out: x and y, mapped by `back`, and the score in [0, 1]. sum: of point_term over all cells.
HOST_DEVICE void write_point(float top, WeightedSum sum, float stride, const float back[6], float out[3]) {
    float x = sum.x / sum.weight * stride;
    float y = sum.y / sum.weight * stride;
    out[0] = back[0] * x + back[1] * y + back[2];
    out[1] = back[3] * x + back[4] * y + back[5];
    out[2] = top < 0.0f ? 0.0f : top > 1.0f ? 1.0f : top;
}
