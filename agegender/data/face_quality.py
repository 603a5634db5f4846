"""What says how well a face can be judged: its size. No model is needed for it."""

FACE_SHARE_OF_CROP = 0.84
"""Width of YuNet's box as a share of the side of UTKFace's crops (median of 400; its height is 0.96 of it): what makes
``face_px`` of a crop comparable with that of a face that was found."""


def face_px_of_crop(width_px: int, height_px: int) -> float:
    """Shorter side of the box that the detector would draw around the face of a crop.

    Args:
        width_px: of the crop as it is shown.
        height_px: the same.
    """
    return FACE_SHARE_OF_CROP * min(width_px, height_px)
