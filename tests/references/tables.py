"""Slow NumPy twins of the compressed tables: what each row is, one row and one entry at a time, from the papers."""

import numpy as np


def hashed(table, total):
    """Row i is row i mod m. Weinberger et al. 2009."""
    return np.array([table[i % len(table)] for i in range(total)], np.float64)


def quotient_remainder(quotient, remainder, total, join):
    """Row i joins the vectors of i div m and of i mod m. Shi et al. 2020, section 4."""
    quotient, remainder = np.asarray(quotient, np.float64), np.asarray(remainder, np.float64)
    m = len(remainder)
    return np.array([join(quotient[i // m], remainder[i % m]) for i in range(total)])


def mem_com(table, scale):
    """Row i is the vector of i mod m times a scalar of i's own. Pansare et al. 2022."""
    return np.array([float(s[0]) * np.asarray(table[i % len(table)], np.float64) for i, s in enumerate(scale)])


def tensor_train(cores, rows, dims, ranks, total):
    """Entry (i, j): the product of one matrix from each core, picked by the digits of i and j. Yin et al. 2021."""
    chain = (1, *ranks, 1)
    cores = [
        np.asarray(core, np.float64).reshape(n, chain[k], dims[k], chain[k + 1])
        for k, (core, n) in enumerate(zip(cores, rows, strict=True))
    ]
    out = np.zeros((total, int(np.prod(dims))))
    for i in range(total):
        digits = np.unravel_index(i, rows)
        for j in range(out.shape[1]):
            columns = np.unravel_index(j, dims)
            product = np.eye(1)
            for core, digit, column in zip(cores, digits, columns, strict=True):
                product = product @ core[digit, :, column, :]
            out[i, j] = product[0, 0]
    return out


def product_codes(table, books):
    """The nearest vector of each book, by distance. Jégou et al. 2011."""
    parts, _, width = books.shape
    codes = np.zeros((len(table), parts), int)
    for i, row in enumerate(np.asarray(table, np.float64)):
        for p in range(parts):
            distances = [np.sum((row[p * width : (p + 1) * width] - center) ** 2) for center in books[p]]
            codes[i, p] = int(np.argmin(distances))
    return codes


def product_quantized(table, books):
    """Each part of a row replaced by that vector."""
    codes = product_codes(table, books)
    return np.array([np.concatenate([books[p][c] for p, c in enumerate(row)]) for row in codes], np.float64)


def murmur(x, seed):
    """The finalizer of MurmurHash3 in whole numbers of Python."""
    x = (x & 0xFFFFFFFF) ^ ((seed * 0x9E3779B9 + 0x85EBCA6B) & 0xFFFFFFFF)
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def robe(memory, total, dim, block):
    """Blocks of a circular array from a hashed place, with a hashed sign. Desai et al. 2022, section 3."""
    size, out = len(memory), np.zeros((total, dim))
    for i in range(total):
        for j in range(dim):
            number = i * (dim // block) + j // block
            sign = -1 if murmur(number, 1) >> 31 else 1
            out[i, j] = sign * float(memory[(murmur(number, 0) % size + j % block) % size][0])
    return out


def deep_hash(layers, total):
    """A network with Mish of hashes scaled to [-1, 1). Kang et al. 2021, section 4."""
    out = []
    for i in range(total):
        x = np.array([(murmur(i, seed) >> 8) / 2**23 - 1 for seed in range(len(layers[0][0]))])
        for number, (kernel, bias) in enumerate(layers):
            x = x @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
            if number < len(layers) - 1:
                x = x * np.tanh(np.log1p(np.exp(x)))
        out.append(x)
    return np.array(out)


def pruned_rows(table, keep):
    """Rows that aren't kept are zero."""
    return np.where(np.asarray(keep)[:, None], np.asarray(table, np.float64), 0)


def mixed_dims(tables, projections):
    """Each group of rows times its projection. Ginart et al. 2021, section 3."""
    groups = [np.asarray(t, np.float64) @ np.asarray(p, np.float64) for t, p in zip(tables, projections, strict=True)]
    return np.concatenate(groups)


def indexed_rows(positions, values, dim):
    """Each value at its position: of ``ceil(log2 dim)`` bits, above 8 bits a low byte each and then the high bits."""
    bits, count = max(int(np.ceil(np.log2(dim))), 1), values.shape[1]
    out = np.zeros((len(values), dim))
    for row, words, own in zip(out, np.asarray(positions), np.asarray(values), strict=True):
        stream = sum(int(word) << 8 * byte for byte, word in enumerate(words))
        for i, value in enumerate(own):
            if bits <= 8:
                place = stream >> i * bits & (1 << bits) - 1
            else:
                high = stream >> 8 * count >> i * (bits - 8) & (1 << bits - 8) - 1
                place = (stream >> 8 * i & 255) | high << 8
            row[place] += value
    return out
