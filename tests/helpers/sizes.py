"""The image size at which tests build a net: small, and a little above its smallest."""

import convzoo


def size_of(name):
    return max(32, convzoo.model_info(name).min_size + 8)
