"""What serving and training both read of data: images, labels, folders, and Market-1501's file names."""
