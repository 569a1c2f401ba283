// The arithmetic of both kernels, free of threads, so that a plain C++ compiler can run it too: the tests
// compile it with g++ and compare it with geometry.crop and decode.decode, whose twins these functions are.
#pragma once

#ifdef __CUDACC__
#define BOTH __host__ __device__ __forceinline__
#else
#define BOTH static inline
#endif
#ifndef __CUDACC_RTC__
#include <math.h>
#endif

// As in decode.py: the share of the peak's score above which cells tell where about a point lies, the deviation of the
// bell around there in cells, and the weight that every cell has.
#define CORE 0.5f
#define REACH 3.0f
#define LEAST 1e-6f

// A frame (height, width, 3) uint8, rows without gaps. It lies on the device so that a captured graph follows it.
struct View {
    const unsigned char* pixels;
    int width, height;
};

// One face's square. `cut` takes a pixel of the crop drawn `taps` times too large to its frame pixel, `back` a
// pixel of the crop itself; both are row-major (2, 3) affines. taps = 0: no face here, the crop is black.
struct Region {
    float cut[6];
    float back[6];
    int taps;
    int unused[3];
};

BOTH float channel_at(const View& view, int x, int y, int channel) {
    if (x < 0 || y < 0 || x >= view.width || y >= view.height) return 0.0f;
    return (float)view.pixels[((size_t)y * view.width + x) * 3 + channel];
}

// Bilinear samples of the three channels, each rounded as cv2.warpAffine rounds; black lies around the frame.
BOTH void sample(const View& view, float x, float y, int rgb[3]) {
    // A place beyond the frame's rim is black, and one beyond int's range must not be converted. NaN goes here too.
    if (!(x > -1.0f && y > -1.0f && x < (float)view.width && y < (float)view.height)) {
        rgb[0] = rgb[1] = rgb[2] = 0;
        return;
    }
    float left = floorf(x), top = floorf(y);
    float to_right = x - left, down = y - top;
    int x0 = (int)left, y0 = (int)top;
    for (int channel = 0; channel < 3; ++channel) {
        float above = channel_at(view, x0, y0, channel) * (1.0f - to_right) +
                      channel_at(view, x0 + 1, y0, channel) * to_right;
        float below = channel_at(view, x0, y0 + 1, channel) * (1.0f - to_right) +
                      channel_at(view, x0 + 1, y0 + 1, channel) * to_right;
        rgb[channel] = (int)rintf(above * (1.0f - down) + below * down);
    }
}

// One pixel of a crop: the mean of taps x taps samples, so that shrinking loses no part of the frame.
BOTH void crop_pixel(const View& view, const Region& region, int x, int y, unsigned char rgb[3]) {
    int sum[3] = {0, 0, 0};
    int taps = region.taps;
    for (int down = 0; down < taps; ++down) {
        for (int right = 0; right < taps; ++right) {
            float u = (float)(x * taps + right), v = (float)(y * taps + down);
            int one[3];
            sample(view, region.cut[0] * u + region.cut[1] * v + region.cut[2],
                   region.cut[3] * u + region.cut[4] * v + region.cut[5], one);
            for (int channel = 0; channel < 3; ++channel) sum[channel] += one[channel];
        }
    }
    int samples = taps * taps;
    for (int channel = 0; channel < 3; ++channel)
        rgb[channel] = samples ? (unsigned char)((2 * sum[channel] + samples) / (2 * samples)) : 0;
}

// The higher of two scores. NaN is highest of all, as NumPy's max has it.
BOTH float higher(float one, float other) { return one != one || one > other ? one : other; }

// A score where it is positive, else 0; NaN stays.
BOTH float positive(float score) { return score < 0.0f ? 0.0f : score; }

// What cells tell about a point: the sum of their weights, and of their weighted places, in cells.
struct Say {
    float weight, x, y;
};

BOTH Say both(Say one, Say other) { return {one.weight + other.weight, one.x + other.x, one.y + other.y}; }

// The say of one cell in where about a point lies. scores: one point's map, `top` the highest of it.
BOTH Say core_of(const float* scores, int cell, int width, float top) {
    float weight = positive(scores[cell] - CORE * positive(top)) + LEAST;
    return {weight, weight * (float)(cell % width), weight * (float)(cell / width)};
}

// The say of one cell in where the point lies; `core` is the sum over all cells of what core_of gives. maps:
// (3, points, cells) of one face.
BOTH Say say_of(const float* maps, int points, int cells, int width, int point, int cell, Say core) {
    const float* here = maps + (size_t)point * cells + cell;
    size_t layer = (size_t)points * cells;
    float x = (float)(cell % width), y = (float)(cell / width);
    float to_x = x - core.x / core.weight, to_y = y - core.y / core.weight;
    float bell = expf(-(to_x * to_x + to_y * to_y) / (2.0f * REACH * REACH));
    float weight = (positive(here[0]) + LEAST) * bell;
    return {weight, weight * (x + here[layer]), weight * (y + here[2 * layer])};
}

// Where all cells together put their point. out: x and y through `back`, and the score in [0, 1].
BOTH void place_point(float top, Say say, float stride, const float back[6], float out[3]) {
    float x = say.x / say.weight * stride;
    float y = say.y / say.weight * stride;
    out[0] = back[0] * x + back[1] * y + back[2];
    out[1] = back[3] * x + back[4] * y + back[5];
    out[2] = top < 0.0f ? 0.0f : top > 1.0f ? 1.0f : top;
}
