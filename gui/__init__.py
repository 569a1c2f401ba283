"""The desktop viewer: live video in a window, painted by Qt."""
