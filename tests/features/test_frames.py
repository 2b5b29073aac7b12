"""The catalogue's frames in the cache."""

import numpy as np

from tfrec.config import FeaturesConfig, ImageConfig
from tfrec.features.frames import stored_frames

CONFIG = FeaturesConfig(image=ImageConfig(image_size=16, num_frames=4), workers=1)


def test_frames_are_decoded_once_and_belong_to_their_rows(media, tmp_path):
    told = []
    values, lengths = stored_frames(
        media, 6, CONFIG, tmp_path / "cache", lambda done, total: told.append((done, total))
    )
    assert values.shape == (6, 4, 16, 16, 3)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(lengths, [4, 4, 0, 2, 0, 0])  # row 3 is a folder of two pictures, row 4 is broken
    assert values[[0, 1, 3]].any(axis=(1, 2, 3, 4)).all()
    assert not values[[2, 4, 5]].any()
    assert not values[3, 2:].any()
    assert told[-1] == (4, 4)
    again, _ = stored_frames(media, 6, CONFIG, tmp_path / "cache", lambda done, total: told.append((done, total)))
    np.testing.assert_array_equal(again, values)
    assert told[-1] == (1, 1)  # the broken one is tried again
