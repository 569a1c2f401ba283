"""The panels beside the video: tracking, performance, and the measures of a face."""
