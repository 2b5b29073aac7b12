"""From media files to arrays: frames and sound."""
