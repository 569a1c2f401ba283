"""The desktop viewer: live video in a Qt window."""
