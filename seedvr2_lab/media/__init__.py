"""What goes in and comes out: video files, training clips, degradations, colour."""
