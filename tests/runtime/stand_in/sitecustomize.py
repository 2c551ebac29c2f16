"""In an interpreter that finds this first, PyAV reads the file $CAMERA where /dev/video0 is asked for."""

import importlib.util
import os

if os.environ.get("CAMERA") and importlib.util.find_spec("av"):
    import av

    opened = av.open

    def stand_in(file, *arguments, **options):
        """The film instead of the camera, if it is asked for as a V4L2 device, which a file is not."""
        if file == "/dev/video0" and options.pop("format", None) == "v4l2":
            file = os.environ["CAMERA"]
        return opened(file, *arguments, **options)

    av.open = stand_in
