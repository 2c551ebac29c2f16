"""Many images, or a video, through one explainer: a journal makes each run resumable."""
