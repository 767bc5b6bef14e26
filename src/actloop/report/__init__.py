"""The page, the pictures and the videos that show a comparison."""
