"""mmcv's operators as their papers write them: loops over numbers, in float64."""

import itertools
import math

import numpy as np


def iou(a, b, offset=0):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def nms(boxes, scores, threshold, offset):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    left, found = {i: float(s) for i, s in enumerate(scores)}, []
    while left:
        best = max(left, key=left.get)
        found.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == "gaussian":
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 1 - overlap if method == "linear" else 0
            if left[i] < min_score:
                del left[i]
    return found


def nms_match(dets, threshold):
    left, groups = sorted(range(len(dets)), key=lambda i: -dets[i][4]), []
    while left:
        best = left[0]
        groups.append([best, *(i for i in left[1:] if iou(dets[best], dets[i]) >= threshold)])
        left = [i for i in left if i not in groups[-1]]
    return groups


def bilinear(image, y, x):
    """One value of `image` (H, W) with zeros around it."""
    value, (height, width) = 0.0, image.shape
    for row, column in itertools.product(
        (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
    ):
        if 0 <= row < height and 0 <= column < width:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return value


def clamped_bilinear(image, y, x):
    """One value of `image` (H, W): the border's up to one pixel outside, then 0."""
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    return bilinear(image, min(max(y, 0), height - 1), min(max(x, 0), width - 1))


def bins(roi, size, scale, offset, ratio, at_least=0.0):
    """(bin row, bin column, its sample points) of one region."""
    x1, y1, x2, y2 = (c * scale - offset for c in roi[1:])
    steps = [max(b - a, at_least) / n for a, b, n in zip((y1, x1), (y2, x2), size, strict=True)]
    counts = [ratio or math.ceil(step) for step in steps]
    for h, w in np.ndindex(*size):
        yield (
            h,
            w,
            [
                (
                    y1 + (h + (i + 0.5) / counts[0]) * steps[0],
                    x1 + (w + (j + 0.5) / counts[1]) * steps[1],
                )
                for i, j in np.ndindex(*counts)
            ],
        )


def roi_align(x, rois, size, scale, ratio, mode, aligned):
    output = np.zeros((len(rois), x.shape[1], *size))
    offset, at_least = (0.5, 0.0) if aligned else (0.0, 1.0)
    for (r, roi), c in itertools.product(enumerate(rois), range(x.shape[1])):
        for h, w, points in bins(roi, size, scale, offset, ratio, at_least):
            values = [clamped_bilinear(x[int(roi[0]), c], *point) for point in points] or [0.0]
            output[r, c, h, w] = max(values) if mode == "max" else sum(values) / len(values)
    return output


def roi_pool(x, rois, size, scale):
    output = np.zeros((len(rois), x.shape[1], *size))
    for (r, roi), c in itertools.product(enumerate(rois), range(x.shape[1])):
        x1, y1 = roi[1] * scale, roi[2] * scale
        height, width = (roi[4] + 1) * scale - y1, (roi[3] + 1) * scale - x1
        for h, w in np.ndindex(*size) if min(height, width) > 0 else ():
            rows = math.floor(y1 + h * height / size[0]), math.ceil(y1 + (h + 1) * height / size[0])
            columns = (
                math.floor(x1 + w * width / size[1]),
                math.ceil(x1 + (w + 1) * width / size[1]),
            )
            inside = [
                x[int(roi[0]), c, i, j]
                for i, j in itertools.product(range(*rows), range(*columns))
                if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
            ]
            output[r, c, h, w] = max(inside, default=0)
    return output


def deform_roi_pool(x, rois, shifts, size, scale, ratio, gamma):
    output = np.zeros((len(rois), x.shape[1], *size))
    for (r, roi), c in itertools.product(enumerate(rois), range(x.shape[1])):
        for h, w, points in bins(roi, size, scale, 0.5, ratio):
            dx = gamma * scale * (roi[3] - roi[1]) * shifts[r, 0, h, w]
            dy = gamma * scale * (roi[4] - roi[2]) * shifts[r, 1, h, w]
            image = x[int(roi[0]), c]
            values = [clamped_bilinear(image, y + dy, x + dx) for y, x in points]
            output[r, c, h, w] = sum(values) / max(len(values), 1)
    return output


def deform_conv(x, offset, weight, mask, stride, padding, dilation, groups, deform_groups):
    """offset: (B, deform_groups·kh·kw·2, H', W'); mask without the 2, or None."""
    batch, channels = x.shape[:2]
    outputs, inputs, kh, kw = weight.shape
    output = np.zeros((batch, outputs, *offset.shape[2:]))
    for b, o, h, w in np.ndindex(*output.shape):
        for i, ky, kx in np.ndindex(inputs, kh, kw):
            channel = o // (outputs // groups) * inputs + i
            tap = channel // (channels // deform_groups) * kh * kw + ky * kw + kx
            y = h * stride - padding + ky * dilation + offset[b, 2 * tap, h, w]
            z = w * stride - padding + kx * dilation + offset[b, 2 * tap + 1, h, w]
            share = 1.0 if mask is None else mask[b, tap, h, w]
            output[b, o, h, w] += weight[o, i, ky, kx] * share * bilinear(x[b, channel], y, z)
    return output


def deform_attention(value, shapes, locations, weights):
    batch, queries, heads, levels, points, _ = locations.shape
    output = np.zeros((batch, queries, heads, value.shape[-1]))
    starts = np.cumsum([0, *(h * w for h, w in shapes)])
    for b, q, m, level, p in np.ndindex(batch, queries, heads, levels, points):
        height, width = shapes[level]
        x, y = locations[b, q, m, level, p]
        for d in range(value.shape[-1]):
            image = value[b, starts[level] : starts[level + 1], m, d].reshape(height, width)
            sample = bilinear(image, y * height - 0.5, x * width - 0.5)
            output[b, q, m, d] += weights[b, q, m, level, p] * sample
    return output.reshape(batch, queries, -1)


def carafe(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    output = np.zeros((batch, channels, height * scale, width * scale))
    for b, c, y, x in np.ndindex(*output.shape):
        for i, j in np.ndindex(kernel, kernel):
            row, column = y // scale + i - kernel // 2, x // scale + j - kernel // 2
            if 0 <= row < height and 0 <= column < width:
                share = masks[b, (c // (channels // groups) * kernel + i) * kernel + j, y, x]
                output[b, c, y, x] += share * features[b, c, row, column]
    return output


def psa_mask(x, kind, mask_size):
    batch, _, height, width = x.shape
    output = np.zeros((batch, height * width, height, width))
    for b, i, j, h, w in np.ndindex(batch, *mask_size, height, width):
        row, column = h + i - (mask_size[0] - 1) // 2, w + j - (mask_size[1] - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            share = x[b, i * mask_size[1] + j, h, w]
            if kind == "collect":
                output[b, row * width + column, h, w] = share
            else:
                output[b, h * width + w, row, column] = share
    return output
