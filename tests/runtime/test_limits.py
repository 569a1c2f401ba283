"""The largest allowed image is allowed, and one with a pixel more is not."""

import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.limits import PixelLimit, check_size

LIMIT = PixelLimit(0.1, "CANTHUS_MAX")


def test_limit_is_the_largest_allowed_number_of_pixels():
    check_size("a.png", (1000, 100), LIMIT)
    with pytest.raises(InputError, match=r"^a\.png: too large, 9091 x 11 pixels = 0\.1 megapixels .*set CANTHUS_MAX"):
        check_size("a.png", (9091, 11), LIMIT)
