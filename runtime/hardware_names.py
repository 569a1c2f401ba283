"""Names of decoders and encoders of GPUs on the command line. Importing this file loads nothing heavy."""

HARDWARE_CODECS = (
    "h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_vaapi", "hevc_vaapi", "av1_vaapi", "h264_videotoolbox",
    "hevc_videotoolbox", "h264_qsv", "hevc_qsv", "av1_qsv",
)  # fmt: skip
"""Values of --codec: encoders of GPUs, by their names in FFmpeg."""

HARDWARE_DECODERS = ("none", "auto", "cuda", "vaapi", "videotoolbox", "d3d11va", "qsv")
"""Values of --hwaccel."""
