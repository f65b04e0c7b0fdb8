"""What methods that fuse boxes share."""
