"""Sources of frames: images, videos, cameras."""
