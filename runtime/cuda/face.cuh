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

// A pixel with its channels in fields of ten bits, so that four of them are added in one addition: at most 4 * 255 + 2.
#define CHANNEL_BITS 10
#define CHANNEL_FIELDS (0xffu | 0xffu << CHANNEL_BITS | 0xffu << 2 * CHANNEL_BITS)
#define ROUNDING (2u | 2u << CHANNEL_BITS | 2u << 2 * CHANNEL_BITS)

// A pixel of the frame, read as the two aligned words that contain its three bytes. Up to PADDING bytes after the frame
// are read, and not used.
#define PADDING 8
HOST_DEVICE unsigned int pixel_at(const View& view, int x, int y) {
    size_t first = ((size_t)y * view.width + x) * 3;
    const unsigned int* words = (const unsigned int*)view.pixels + first / 4;
    unsigned long long both = words[0] | (unsigned long long)words[1] << 32;
    unsigned int bytes = (unsigned int)(both >> (first % 4 * 8));
    return (bytes & 0xffu) | (bytes & 0xff00u) << (CHANNEL_BITS - 8) | (bytes & 0xff0000u) << 2 * (CHANNEL_BITS - 8);
}

// A pixel of the frame that is halved until it is reduced by `shrink`, a power of two. Each halving rounds the mean of
// 2 x 2 pixels, as cv2.resize does. Outside the frame is black.
HOST_DEVICE unsigned int reduced_pixel_at(const View& view, int shrink, int x, int y) {
    if (x < 0 || y < 0 || x >= (view.width + shrink - 1) / shrink || y >= (view.height + shrink - 1) / shrink) return 0;
    if (shrink == 1) return pixel_at(view, x, y);
    // The even bits of `cell` are its column, the odd ones its row: each four cells are a pixel of the next halving.
    unsigned int sums[MAX_HALVINGS] = {0, 0, 0, 0}, value = 0;
    for (int cell = 0; cell < shrink * shrink; ++cell) {
        int column = x * shrink, row = y * shrink;
        UNROLL
        for (int halving = 0; halving < MAX_HALVINGS; ++halving) {
            column += (cell >> (2 * halving) & 1) << halving;
            row += (cell >> (2 * halving + 1) & 1) << halving;
        }
        bool inside = column < view.width && row < view.height;
        value = inside ? pixel_at(view, column, row) : 0;
        bool complete = true;
        UNROLL
        for (int halving = 0; halving < MAX_HALVINGS; ++halving) {
            if (!complete || 1 << halving >= shrink) continue;
            sums[halving] += value;
            complete = (cell >> (2 * halving) & 3) == 3;
            if (!complete) continue;
            value = (sums[halving] + ROUNDING) >> 2 & CHANNEL_FIELDS;
            sums[halving] = 0;
        }
    }
    return value;
}

HOST_DEVICE float channel_of(unsigned int pixel, int channel) {
    return (float)(pixel >> CHANNEL_BITS * channel & 0xffu);
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
    unsigned int above_left = reduced_pixel_at(view, shrink, x0, y0);
    unsigned int above_right = reduced_pixel_at(view, shrink, x0 + 1, y0);
    unsigned int below_left = reduced_pixel_at(view, shrink, x0, y0 + 1);
    unsigned int below_right = reduced_pixel_at(view, shrink, x0 + 1, y0 + 1);
    UNROLL
    for (int channel = 0; channel < 3; ++channel) {
        float above = channel_of(above_left, channel) * (1.0f - to_right) + channel_of(above_right, channel) * to_right;
        float below = channel_of(below_left, channel) * (1.0f - to_right) + channel_of(below_right, channel) * to_right;
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

// Maps are float, or half in the bits of an unsigned short.
HOST_DEVICE float as_float(float value) { return value; }
HOST_DEVICE float as_float(unsigned short half) {
#ifdef __CUDACC__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 31  ? (fraction ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf((float)fraction, -24)
                                  : ldexpf((float)(1024 + fraction), exponent - 25);
    return half >> 15 ? -value : value;
#endif
}

// Cells are read in groups of four neighbors of one row: the width of a map is a multiple of four.
#define GROUP 4
#ifdef __CUDACC__
HOST_DEVICE void load_group(const float* cells, float values[GROUP]) {
    float4 four = *(const float4*)cells;
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
}
HOST_DEVICE void load_group(const unsigned short* cells, float values[GROUP]) {
    ushort4 four = *(const ushort4*)cells;
    values[0] = as_float(four.x), values[1] = as_float(four.y);
    values[2] = as_float(four.z), values[3] = as_float(four.w);
}
#else
template <typename Value>
HOST_DEVICE void load_group(const Value* cells, float values[GROUP]) {
    for (int cell = 0; cell < GROUP; ++cell) values[cell] = as_float(cells[cell]);
}
#endif

// The first cell of a group, and the step to the next group of the same thread: counted up instead of divided.
struct Place {
    int cell, column, row;
};

HOST_DEVICE Place first_place(int thread, int width) {
    int cell = thread * GROUP;
    return {cell, cell % width, cell / width};
}

// step: the place of the thread with the number of threads, `first_place(threads, width)`.
HOST_DEVICE Place next_place(Place place, Place step, int width) {
    Place next = {place.cell + step.cell, place.column + step.column, place.row + step.row};
    if (next.column >= width) next.column -= width, ++next.row;
    return next;
}

// The contribution of a group of scores to the center of the peak. top: the maximum of the map.
HOST_DEVICE WeightedSum center_terms(const float scores[GROUP], Place place, float top) {
    WeightedSum sum = {0.0f, 0.0f, 0.0f};
    UNROLL
    for (int cell = 0; cell < GROUP; ++cell) {
        float weight = positive(scores[cell] - CORE_THRESHOLD * positive(top)) + MIN_WEIGHT;
        sum = add(sum, {weight, weight * (float)(place.column + cell), weight * (float)place.row});
    }
    return sum;
}

// The window at a column or row; center: that of the peak. The window of a cell is the product of both.
HOST_DEVICE float window_at(int place, float center) {
    float distance = (float)place - center;
    return expf(-(distance * distance) / (2.0f * WINDOW_SIGMA * WINDOW_SIGMA));
}

// The contribution of a group to the position of the point. x, y: its offsets; columns: the windows of its columns.
HOST_DEVICE WeightedSum point_terms(const float scores[GROUP], const float x[GROUP], const float y[GROUP], Place place,
                                    const float* columns, float row) {
    WeightedSum sum = {0.0f, 0.0f, 0.0f};
    UNROLL
    for (int cell = 0; cell < GROUP; ++cell) {
        float weight = (positive(scores[cell]) + MIN_WEIGHT) * columns[cell] * row;
        sum = add(sum, {weight, weight * ((float)(place.column + cell) + x[cell]), weight * ((float)place.row + y[cell])});
    }
    return sum;
}

// Write one point to out: x and y, mapped by `back`, and the score in [0, 1]. sum: of point_terms over all cells.
HOST_DEVICE void write_point(float top, WeightedSum sum, float stride, const float back[6], float out[3]) {
    float x = sum.x / sum.weight * stride;
    float y = sum.y / sum.weight * stride;
    out[0] = back[0] * x + back[1] * y + back[2];
    out[1] = back[3] * x + back[4] * y + back[5];
    out[2] = top < 0.0f ? 0.0f : top > 1.0f ? 1.0f : top;
}
