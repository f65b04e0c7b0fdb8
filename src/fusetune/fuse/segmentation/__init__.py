"""What methods that fuse masks share."""
